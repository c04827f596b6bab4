"""The options that describe a network which carries no metadata: ``export`` and ``import`` take them."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from export.sources.description import Description


def size(_: click.Context, option: click.Parameter, value: str | None) -> int | tuple[int, int] | None:
    """Parse ``224`` or ``HEIGHTxWIDTH``."""
    if value is None:
        return None
    parts = value.lower().replace("×", "x").split("x")
    if not 1 <= len(parts) <= 2 or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise click.BadParameter(f"'{value}' is not a size such as 224 or 224x320 (height x width)", param=option)
    return int(parts[0]) if len(parts) == 1 else (int(parts[0]), int(parts[1]))


def numbers(_: click.Context, option: click.Parameter, value: str | None) -> tuple[float, ...] | None:
    """Parse one number a channel, with commas between."""
    if value is None:
        return None
    try:
        return tuple(float(part) for part in value.split(","))
    except ValueError as error:
        raise click.BadParameter(f"'{value}' is not one number a channel, like 0.5,0.5,0.5", param=option) from error


_MODEL: Any = {
    "metavar": "SPEC",
    "help": "The code of a network whose file holds weights alone: FILE.py:NAME, package.module:NAME, "
    "torchvision:NAME or timm:NAME, with arguments in brackets where it takes them. It is run.",
}
model_option = click.option("--model", **_MODEL)
"""``--model``, for commands that open checkpoints."""

code_option = click.option("--model", "code", **_MODEL)
"""The same for those that call a file their model: they get it as ``code``."""

_OPTIONS = (
    click.option("--input-size", callback=size, metavar="SIZE", help="224, or 224x320 for height x width."),
    click.option("--channels", type=click.IntRange(min=1), help="1 (grey) or 3 (RGB)."),
    click.option("--mean", callback=numbers, metavar="M[,M,M]", help="Of pixels in [0, 1], a channel or for all."),
    click.option("--std", callback=numbers, metavar="S[,S,S]", help="Likewise."),
    click.option("--resize", type=click.Choice(["stretch", "crop"]), help="How pictures become that size."),
    click.option("--crop-fraction", type=float, help="Share of each side that the centre crop keeps, e.g. 0.875."),
    click.option("--interpolation", type=click.Choice(["nearest", "bilinear", "bicubic"]), help="Of the resize."),
    click.option("--labels", metavar="FILE|A,B,C", help="The classes' names: one on each line, or with commas."),
    click.option(
        "--scores",
        type=click.Choice(["auto", "logits", "probabilities", "none"]),
        default="auto",
        show_default=True,
        help="What the output says of classes; none: it is no classifier.",
    ),
    click.option(
        "--input", "inputs", multiple=True, metavar="NAME=SHAPE[:DTYPE]", help="An input that is no picture [repeat]."
    ),
    click.option("--outputs", metavar="A,B", help="The outputs that the graph keeps, by name."),
)


def description_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options; the command gets them as keyword arguments, which :func:`take_description` takes out."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def take_description(options: dict[str, Any]) -> "Description":
    """Take the options of :func:`description_options` out of a command's keyword arguments.

    Raises:
        InputError: one makes no sense.
    """
    from export.sources.description import Description, read_input, read_labels

    labels, inputs, outputs = (options.pop(name) for name in ("labels", "inputs", "outputs"))
    names = ("input_size", "channels", "mean", "std", "resize", "crop_fraction", "interpolation", "scores")
    return Description(
        **{name: options.pop(name) for name in names},
        labels=None if labels is None else read_labels(labels),
        inputs=tuple(map(read_input, inputs)),
        outputs=tuple(part.strip() for part in outputs.split(",")) if outputs else (),
    )
