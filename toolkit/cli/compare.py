"""``toolkit compare``: accuracy and speed of checkpoints, graphs and engines, side by side."""

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import click

from engines.errors import InputError
from toolkit.cli import console
from toolkit.cli.describe import model_option
from toolkit.kinds import KINDS

if TYPE_CHECKING:
    from toolkit.comparison.goal import Goal
    from toolkit.comparison.records.record import Comparison

AIMS = ("latency", "throughput", "accuracy", "balanced")
_MEASURING = (
    "data", "reference", "batch", "images", "seconds", "rounds", "launches", "seed", "device", "threads",
    "trust_pickle", "model", "fresh",
)  # fmt: skip
"""Options that say how to measure: records are measured already."""


def fixed_sizes(_: click.Context, option: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    """Parse ``1,8,32``."""
    return None if value is None else _sizes(option, value)


def batch_sizes(
    _: click.Context, option: click.Parameter, value: str | None
) -> tuple[int, ...] | Literal["sweep"] | None:
    """Parse ``1,8,32`` or ``sweep``."""
    if value is None or value == "sweep":
        return value  # type: ignore[return-value]
    return _sizes(option, value, ", and not 'sweep'")


def _sizes(option: click.Parameter, value: str, otherwise: str = "") -> tuple[int, ...]:
    try:
        sizes = tuple(int(part) for part in value.split(","))
    except ValueError:
        sizes = ()
    if not sizes or min(sizes) < 1:
        raise click.BadParameter(f"'{value}' is not a list of batch sizes such as 1,8,32{otherwise}", param=option)
    return sizes


def written(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that say what is written where."""
    for option in (
        click.option(
            "--record",
            type=click.Path(),
            metavar="FILE.json",
            help="Write the record, as the work goes on [with --report: beside it].",
        ),
        click.option("--csv", type=click.Path(), metavar="FILE.csv", help="Write a line an artifact and batch size."),
        click.option("--markdown", type=click.Path(), metavar="FILE.md", help="Write the same for a pull request."),
        click.option(
            "--report", type=click.Path(), metavar="FILE.html", help="Write a page to look at, in one file."
        ),
    ):
        command = option(command)
    return command


def wanted(aim: str | None, max_drop: float | None) -> "Goal | None":
    """The goal that ``--goal`` and ``--max-drop`` name; None for neither."""
    if aim is None and max_drop is None:
        return None
    from toolkit.comparison.goal import Goal

    return Goal(aim or "balanced", Goal.max_drop if max_drop is None else max_drop)  # type: ignore[arg-type]


@click.command("compare")
@click.argument("artifacts", nargs=-1, metavar="ARTIFACT...", type=click.Path())
@click.option("--data", metavar="DATA", help=f"{KINDS}.")
@click.option("--reference", metavar="ARTIFACT", help="What the others are held against [first .pt, else .onnx].")
@click.option(
    "--batch",
    callback=batch_sizes,
    default="1,8,32",
    show_default=True,
    metavar="SIZES",
    help="Batch sizes to time, or sweep: doubled until throughput stops growing.",
)
@click.option("--images", type=click.IntRange(min=1), help="How many test images [all].")
@click.option("--seconds", type=float, help="Timed running of each at each batch size [1; 0.5 of more than four].")
@click.option("--rounds", type=click.IntRange(min=1), help="Turns that it is cut into [40; 20 of more than four].")
@click.option(
    "--launches", type=click.IntRange(min=1), default=2, show_default=True, help="Starts of every process anew."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the choice of images and order of turns.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda:N.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads of each [the backend's choice].")
@click.option("--trust-pickle", is_flag=True, help="Load pickled modules; this runs their code.")
@model_option
@click.option("--goal", type=click.Choice(AIMS), help="What the recommendation is for [balanced].")
@click.option("--max-drop", type=float, metavar="POINTS", help="Points of top-1 that the recommended may lose [0.5].")
@written
@click.option(
    "--from",
    "records",
    multiple=True,
    type=click.Path(),
    metavar="RECORD...",
    help="Measure nothing: show records of earlier runs, several side by side.",
)
@click.option("--fresh", is_flag=True, help="Begin anew instead of going on with an interrupted run.")
@click.option("--force", is_flag=True, help="Replace outputs that are of another comparison.")
@click.option("--json", "as_json", is_flag=True, help="Print the record as JSON.")
@click.option("--schema", is_flag=True, help="Print the JSON schema of records.")
@click.pass_context
def command(
    context: click.Context,
    /,
    *,
    artifacts: tuple[str, ...],
    data: str | None,
    records: tuple[str, ...],
    as_json: bool,
    schema: bool,
    **options: Any,
) -> None:
    """Compare accuracy and speed of checkpoints, graphs and engines.

    Every ARTIFACT runs in a process of its own, through the session that would serve it: first over the
    test images, then in turns with its rivals at each batch size. GRAPH@openvino runs a graph in OpenVINO
    instead of ONNX Runtime; both can be compared. What this machine can't run keeps its
    row with the reason. Latency is of one run from host memory to host memory.

    What is measured is kept as the work goes on: after Ctrl-C, or a crash, the same command goes on.
    Records of other machines and days are shown side by side with --from A.json B.json.
    """
    if schema:
        from toolkit.comparison.records.reading import schema as schema_of_records

        console.emit_json(schema_of_records())
        return
    options["goal"] = wanted(options["goal"], options.pop("max_drop"))
    if records:
        comparison = _shown_again(context, (*records, *artifacts), options)
    else:
        if not artifacts:
            raise InputError(
                "there is nothing to compare", "give checkpoints, graphs or engines, or records with --from"
            )
        if data is None:
            raise InputError(
                "there are no images to compare on: --data is missing",
                "give --data DATA, or measure speed alone with `toolkit bench`",
            )
        from toolkit.steps.compare import compare

        options["batch_sizes"] = options.pop("batch")
        with console.progress() as listener:
            comparison = compare(artifacts, data, say=console.note, progress=listener, **options)
    show(comparison, as_json=as_json)
    say_where(options, beside=not records)


def _shown_again(context: click.Context, records: tuple[str, ...], options: dict[str, Any]) -> "Comparison":
    """What ``--from`` gives; options of measuring make no sense beside it."""
    default = click.core.ParameterSource.DEFAULT
    if given := [name for name in _MEASURING if context.get_parameter_source(name) is not default]:
        raise InputError(
            f"--from shows records and measures nothing, but --{given[0].replace('_', '-')} is given",
            "leave one of them out",
        )
    if strange := [path for path in records if path.lower().endswith((".pt", ".pth", ".onnx", ".engine", ".plan"))]:
        raise InputError(
            f"--from shows records, and '{strange[0]}' is none", "leave it out, or leave out --from to measure it"
        )
    from toolkit.steps.reports import show_records

    outputs = ("record", "report", "markdown", "csv", "goal", "force")
    return show_records(records, **{name: options[name] for name in outputs})


def show(comparison: "Comparison", *, as_json: bool) -> None:
    """Print what was measured, as a record or as tables."""
    if as_json:
        from toolkit.comparison.records.journal import dump

        click.echo(dump(comparison), nl=False)
    else:
        from toolkit.comparison.table import render

        console.out(render(comparison, plain=not sys.stdout.isatty()))


def say_where(options: dict[str, Any], *, beside: bool = True) -> None:
    """Say on stderr which files were written."""
    from toolkit.steps.reports import Outputs

    names = ("record", "report", "markdown", "csv")
    outputs = Outputs.of(*(options[name] for name in names), beside=beside)
    for option, path in outputs.options.items():
        console.note(f"{option.removeprefix('--')}: {path}")
