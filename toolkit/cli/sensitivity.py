"""``toolkit sensitivity``: what each layer's quantisation costs."""

import math
import sys
from typing import TYPE_CHECKING

import click

from toolkit.cli import console
from toolkit.kinds import KINDS

if TYPE_CHECKING:
    from rich.console import RenderableType

    from calibration.sensitivity import Sensitivity


@click.command("sensitivity")
@click.argument("graph", metavar="MODEL.onnx", type=click.Path())
@click.option(
    "--data",
    required=True,
    metavar="DATA",
    help=f"{KINDS}: images of its train split that were not calibrated on.",
)
@click.option("--table", type=click.Path(), help="The calibration table [the one beside the graph].")
@click.option("--fp8", is_flag=True, help="Quantise to FP8, with the FP8 table, instead of INT8.")
@click.option("--images", type=click.IntRange(min=1), default=256, show_default=True, help="How many images.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the choice of images.")
@click.option("--batch-size", type=click.IntRange(min=1), default=32, show_default=True, help="Images a run.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads [all cores].")
@click.option("--output", "-o", type=click.Path(), metavar="FILE.json", help="Write the figures to a file too.")
@click.option("--force", is_flag=True, help="Replace an output that was made from another graph.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def command(
    *,
    graph: str,
    data: str,
    table: str | None,
    fp8: bool,
    images: int,
    seed: int,
    batch_size: int,
    threads: int | None,
    output: str | None,
    force: bool,
    as_json: bool,
) -> None:
    """Measure the error that each layer's quantisation adds.

    Each layer is quantised alone, with the ranges of the calibration table, and its logits are held against
    those of FP32: the signal-to-noise ratio, the labels that change, and the divergence of the probabilities.
    The layers at the top are those that `toolkit build-engine --keep` helps most.
    """
    from toolkit.steps.sensitivity import sensitivity

    with console.progress() as listener:
        found = sensitivity(
            graph,
            data,
            table=table,
            precision="fp8" if fp8 else "int8",
            images=images,
            seed=seed,
            output=output,
            batch_size=batch_size,
            threads=threads,
            force=force,
            progress=listener,
            on_note=lambda line: console.note(f"note: {line}"),
        )
    if as_json:
        console.emit_json(found.to_json())
        return
    console.out(_table(found, "FP8" if fp8 else "INT8", plain=not sys.stdout.isatty()))
    if output is not None:
        console.note(f"written to {output}")


def _table(found: "Sensitivity", precision: str, *, plain: bool) -> "RenderableType":
    from rich.text import Text

    from toolkit.comparison.table import titled_table

    title = f"What {precision} costs layer by layer, on {found.images} samples, the worst first"
    table = titled_table(title, plain=plain)
    with_accuracy = found.accuracy_fp32 is not None
    for name in ("module", "node"):
        table.add_column(name, overflow="fold")
    table.add_column("operator", no_wrap=True)
    for name in ("SQNR dB", "label flips", "KL", *(("top-1",) if with_accuracy else ())):
        table.add_column(name, justify="right", no_wrap=True)

    def figures(sqnr: float, flips: int, kl: float, accuracy: float | None) -> list[str]:
        labelled = not math.isnan(kl)  # it is none where there are no labels that could flip
        cells = [f"{sqnr:.1f}", *([f"{flips} of {found.images}", f"{kl:.2g}"] if labelled else ["-", "-"])]
        return cells + ([f"{100 * accuracy:.2f} %"] if accuracy is not None else [])

    for layer in found.worst_first():
        cells = figures(layer.sqnr_db, layer.flips, layer.kl, layer.accuracy)
        table.add_row(Text(layer.module or "-"), Text(layer.node), layer.op, *cells)
    table.add_section()
    whole = found.all_quantised
    table.add_row("all layers", "", "", *figures(whole.sqnr_db, whole.flips, whole.kl, whole.accuracy))
    if found.accuracy_fp32 is not None:
        table.add_row("none (FP32)", "", "", "", "", "", f"{100 * found.accuracy_fp32:.2f} %")
    return table
