"""``toolkit train``: images become a checkpoint."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from engines.sizes import parse_bytes
from export.models.registry import ARCHITECTURES
from export.recipe import INITIALISATIONS, NAMED, OPTIMIZERS, PRECISIONS, SCHEDULES
from toolkit.cli import console
from toolkit.cli.describe import size
from toolkit.kinds import KINDS

if TYPE_CHECKING:
    from engines.progress import Progress
    from export.training import EpochFacts


def _numbers(_: click.Context, option: click.Parameter, value: str | None) -> tuple[float, ...] | None:
    try:
        return None if value is None else tuple(float(part) for part in value.split(","))
    except ValueError as error:
        raise click.BadParameter(f"'{value}' is not one number a channel, like 0.5,0.5,0.5", param=option) from error


def _bytes(_: click.Context, option: click.Parameter, value: str | None) -> int | None:
    return None if value is None else parse_bytes(value)


_SECTIONS: dict[str, tuple[Callable[..., Any], ...]] = {
    "Data and network": (
        click.option("--data", metavar="DATA", help=f"{KINDS} [digits]."),
        click.option("--architecture", metavar="NAME", help=f"{', '.join(ARCHITECTURES)} [alexnet]."),
        click.option("--model", metavar="SPEC", help="Your own network: file.py:Net or package.module:factory."),
        click.option("--input-size", callback=size, metavar="SIZE", help="224, or 224x320 for height x width."),
        click.option("--channels", type=click.IntRange(min=1), help="1 (grey) or 3 (RGB) [the network's]."),
        click.option("--mean", callback=_numbers, metavar="M[,M,M]", help="Of pixels in [0, 1], one a channel."),
        click.option("--std", callback=_numbers, metavar="S[,S,S]", help="Likewise."),
        click.option("--resize", type=click.Choice(["stretch", "crop"]), help="[what suits the data]"),
        click.option("--crop-fraction", type=float, help="Share of each side that the centre crop keeps."),
        click.option("--interpolation", type=click.Choice(["nearest", "bilinear", "bicubic"]), help="Of the resize."),
    ),
    "Output": (
        click.option("--output", "-o", type=click.Path(), default="model.pt", show_default=True, help="Checkpoint."),
        click.option("--resume", is_flag=True, help="Go on with the unfinished training of the output."),
        click.option("--force", is_flag=True, help="Replace an existing output, drop an unfinished training of it."),
        click.option("--curves/--no-curves", default=True, help="Draw the curves into model.curves.png [yes]."),
        click.option("--tensorboard", metavar="DIR", type=click.Path(), help="Log to this folder for TensorBoard."),
        click.option("--log-interval", type=int, help="Steps between two reports of loss and accuracy [10]."),
        click.option("--json", "as_json", is_flag=True, help="Print one JSON object."),
    ),
    "Fine-tuning": (
        click.option("--from", "source", metavar="FILE", type=click.Path(), help="Begin with this checkpoint's "
                     "weights and preprocessing; the head begins anew where the labels differ."),
        click.option("--freeze/--no-freeze", default=None, help="Train the head only."),
        click.option("--qat", is_flag=True, help="Train with the rounding of the INT8 graph, and learn its ranges."),
        click.option("--trust-pickle", is_flag=True, help="--from may be a pickled module, which runs its code."),
    ),
    "Recipe (every number instead of the recipe's)": (
        click.option("--recipe", type=click.Choice(list(NAMED)), help="[default: the architecture's own]"),
        click.option("--epochs", type=int, help="Passes over the training images."),
        click.option("--batch-size", type=int, help="Images a step, over all processes."),
        click.option("--optimizer", type=click.Choice(OPTIMIZERS), help="The rule of a step."),
        click.option("--learning-rate", "--lr", type=float, help="Largest of the run."),
        click.option("--schedule", type=click.Choice(SCHEDULES), help="Of the learning rate."),
        click.option("--warmup", type=float, help="Share of the run in which the learning rate rises."),
        click.option("--plateau-patience", type=int, help="Epochs without a better test accuracy."),
        click.option("--plateau-factor", type=float, help="Of the learning rate after those."),
        click.option("--momentum", type=float, help="Of sgd."),
        click.option("--nesterov/--no-nesterov", default=None, help="Nesterov's momentum, for sgd."),
        click.option("--weight-decay", type=float, help="L2 coefficient; decoupled with adamw."),
        click.option("--decay-all/--no-decay-all", default=None, help="On biases and norms too."),
        click.option("--clip", type=float, help="Largest norm of the gradient; 0: any."),
        click.option("--dropout", type=float, help="Share that dropout layers drop, instead of their own."),
        click.option("--label-smoothing", type=float, help="Share of the target spread over all classes."),
        click.option("--aux-weight", type=float, help="Of auxiliary heads' losses (GoogLeNet)."),
        click.option("--ema", type=float, help="Decay of the weights' moving average, which is kept; 0: off."),
        click.option("--initialisation", type=click.Choice(INITIALISATIONS), help="Of the weights."),
        click.option("--precision", type=click.Choice(PRECISIONS), help="Mixed precision; auto: where it pays."),
        click.option("--compile/--no-compile", default=None, help="Train with torch.compile."),
        click.option("--seed", type=int, help="Of everything random; same seed and machine, same result [0]."),
    ),
    "Augmentation and evaluation": (
        click.option("--shift", type=float, help="Move pictures by up to this share of their sides."),
        click.option("--crop/--no-crop", default=None, help="Random crops out of a larger frame (256 for 224)."),
        click.option("--flip/--no-flip", default=None, help="Mirror every second picture."),
        click.option("--pca-jitter", type=float, help="Standard deviation of the colour jitter; the paper's 0.1."),
        click.option("--mixup", type=float, help="Alpha of the mixtures of two pictures; 0: none."),
        click.option("--ten-crop/--no-ten-crop", default=None, help="Measure the accuracy over ten crops as well."),
    ),
    "Machine": (
        click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda:0."),
        click.option("--cache", metavar="SIZE", default="1GiB", show_default=True, callback=_bytes,
                     help="Memory for decoded pictures, which later epochs then needn't decode; 0: none."),
    ),
}  # fmt: skip


class _Sectioned(click.Command):
    """Shows its options under the headings of :data:`_SECTIONS`."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        records = {param.name or "": param.get_help_record(ctx) for param in self.get_params(ctx)}
        for title, names in _NAMES.items():
            with formatter.section(title):
                formatter.write_dl([record for name in names if (record := records.pop(name, None))])
        with formatter.section("Other options"):
            formatter.write_dl([record for record in records.values() if record])


def _with_options(command: click.Command) -> click.Command:
    for title, options in _SECTIONS.items():
        before = len(command.params)
        for option in options:
            option(command)
        _NAMES[title] = [param.name or "" for param in command.params[before:]]
    return command


_NAMES: dict[str, list[str]] = {}
"""Of each section, the parameters."""


@_with_options
@click.command("train", cls=_Sectioned)
def command(*, as_json: bool, **options: Any) -> None:
    """Train a classifier on images, keep its best epoch, and save it with its labels and preprocessing.

    Ctrl-C keeps the best finished epoch, and --resume goes on from the last one. On several GPUs:

        torchrun --nproc-per-node 2 --no-python toolkit train ...
    """
    from toolkit.allocator import keep_freed_memory
    from toolkit.steps.train import train
    from toolkit.training.signals import Followed, terminated

    keep_freed_memory()
    try:
        with terminated(), _listening() as (listener, said):
            report = train(**options, progress=listener, on_epoch=said, say=console.note)
    except Followed:
        sys.exit(130)
    except KeyboardInterrupt as stopped:
        console.note(_kept(stopped, options["output"]))
        raise
    if report.rank:
        return
    if as_json:
        console.emit_json(report.to_json())
    else:
        console.out(report.summary())


@contextlib.contextmanager
def _listening() -> "Iterator[tuple[Progress, Callable[[EpochFacts], None]]]":
    """A listener for progress and one for epochs: curves on a terminal, a line an epoch everywhere."""
    from toolkit.training.report import epoch_line

    if not sys.stderr.isatty():
        with console.progress() as listener:
            yield listener, lambda facts: console.note(epoch_line(facts))
        return
    from rich.console import Console

    from toolkit.training.terminal import Display

    display = Display(Console(stderr=True))

    def said(facts: "EpochFacts") -> None:
        console.note(epoch_line(facts))
        display.epoch(facts)

    try:
        yield display, said
    finally:
        display.end()


def _kept(stopped: KeyboardInterrupt, output: str) -> str:
    result = getattr(stopped, "result", None)
    if result is None:
        if Path(f"{output}.resume").exists():
            return f"stopped; go on from the last finished epoch with: toolkit train --resume -o {output}"
        return "stopped before the first epoch was finished: nothing was kept"
    kept = f"stopped after epoch {len(result.history)}; '{Path(output)}' holds epoch {result.best_epoch}, "
    if not Path(f"{output}.resume").exists():
        return f"{kept}the best. Nothing is left but to measure it"
    return f"{kept}the best so far. Go on with: toolkit train --resume -o {output}"
