"""``toolkit calibrate``: measure the ranges that INT8 and FP8 engines are made with, or take them over."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from engines.errors import InputError
from toolkit.cli import console
from toolkit.kinds import KINDS

if TYPE_CHECKING:
    from calibration.table import CalibrationTable

METHODS = ("auto", "entropy", "percentile", "mse", "minmax")
_MEASURING = (
    "data", "method", "images", "seed", "batch_size", "threads", "device", "equalise", "weight_clip",
    "correct_biases",
)  # fmt: skip


@click.command("calibrate")
@click.argument("graph", metavar="MODEL.onnx", type=click.Path())
@click.option("--data", metavar="DATA", help=f"{KINDS}: its train split is used.")
@click.option(
    "--from",
    "source",
    metavar="FILE",
    type=click.Path(),
    help="Take the ranges over instead: from a quantised graph of another tool, a TensorRT calibration cache, or the "
    "table of an earlier export.",
)
@click.option(
    "--method",
    type=click.Choice(METHODS),
    default=METHODS[0],
    show_default=True,
    help="How ranges are chosen; auto measures them all on images that it holds back.",
)
@click.option("--fp8", is_flag=True, help="Choose ranges for FP8 (e4m3) instead of INT8.")
@click.option("--images", type=click.IntRange(min=1), default=512, show_default=True, help="How many images.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the choice of images.")
@click.option("--batch-size", type=click.IntRange(min=1), default=32, show_default=True, help="Images a run.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads [all cores].")
@click.option("--device", default="cpu", show_default=True, metavar="DEVICE", help="cpu, cuda, or auto.")
@click.option(
    "--equalise/--no-equalise",
    default=True,
    show_default=True,
    help="Even out channels far above the others; FP32 answers stay the same.",
)
@click.option(
    "--weight-clip",
    type=click.Choice(("max", "mse")),
    help="How ranges of weights are chosen [auto measures both, else max].",
)
@click.option(
    "--correct-biases/--no-correct-biases",
    default=None,
    help="Take the mean error of each layer off its biases [auto measures whether that helps, else no].",
)
@click.option("--restart", is_flag=True, help="Begin anew instead of going on from an interrupted run.")
@click.option(
    "--cache",
    type=click.Path(path_type=Path),
    help="Write a calibration cache for TensorRT 8 to 10 as well; INT8 only, and it can't tell equalised channels.",
)
@click.option("--output", "-o", type=click.Path(), help="The table [MODEL.calibration.json beside the graph].")
@click.option("--force", is_flag=True, help="Replace an output that was made from another graph.")
@click.option("--json", "as_json", is_flag=True, help="Print the table as JSON.")
@click.pass_context
def command(
    context: click.Context,
    *,
    graph: str,
    data: str | None,
    source: str | None,
    method: str,
    fp8: bool,
    images: int,
    seed: int,
    batch_size: int,
    threads: int | None,
    device: str,
    equalise: bool,
    weight_clip: str | None,
    correct_biases: bool | None,
    restart: bool,
    cache: Path | None,
    output: str | None,
    force: bool,
    as_json: bool,
) -> None:
    """Measure the ranges of a graph's tensors on data, or take them over from elsewhere.

    The images come from the train split, each class in its proportion, and stream through ONNX Runtime in fixed
    memory. The table is neutral of any target: INT8 graphs for TensorRT and for ONNX Runtime are made from it, or
    FP8 graphs for TensorRT with --fp8. After a Ctrl-C the same command goes on where it stopped.
    """
    if source is not None:
        table = _taken_over(context, graph, source, output, cache, force=force)
    else:
        if data is None:
            raise InputError(
                "there is nothing to calibrate with", "give --data DATA, or --from FILE to take ranges over"
            )
        from toolkit.steps.calibrate import calibrate

        with console.progress() as listener:
            table = calibrate(
                graph,
                data,
                method=method,
                precision="fp8" if fp8 else "int8",
                images=images,
                seed=seed,
                equalise=equalise,
                weight_clip=weight_clip,
                correct_biases=correct_biases,
                output=output,
                cache=cache,
                batch_size=batch_size,
                threads=threads,
                device=device,
                resume=not restart,
                force=force,
                progress=listener,
            )
    if as_json:
        console.emit_json(table.to_json())
        return
    from toolkit.building.ranges import table_path

    console.out(f"{output or table_path(Path(graph), table.precision)}: {table.summary()}")
    from toolkit.inspection.table import measured_best

    if measured := measured_best(table):
        console.out(f"measured best: {measured}")
    if cache is not None:
        console.out(f"{cache}: the same for TensorRT 8 to 10")
    _notes(table)


def _taken_over(
    context: click.Context, graph: str, source: str, output: str | None, cache: Path | None, *, force: bool
) -> "CalibrationTable":
    """The table that ``--from`` gives; options of measuring make no sense beside it."""
    default = click.core.ParameterSource.DEFAULT
    given = [name for name in (*_MEASURING, "fp8", "restart") if context.get_parameter_source(name) is not default]
    if given:
        raise InputError(
            f"--from takes ranges over and measures nothing, but --{given[0].replace('_', '-')} is given",
            "leave one of them out",
        )
    from toolkit.steps.adopt import adopt

    return adopt(graph, source, output=output, cache=cache, force=force)


def _notes(table: "CalibrationTable") -> None:
    from calibration.provenance import unseen_note

    if note := unseen_note(tuple(table.facts.get("unseen_classes", ()))):
        console.note(f"warning: {note}: give more --images, or data that has them")
    if table.equalisation:
        console.note(f"note: the channels of {len(table.equalisation)} tensors are evened out by powers of two")
    if table.keep:
        console.note(f"note: kept unquantised: {', '.join(table.keep)}")
