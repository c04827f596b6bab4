"""``toolkit compare``: accuracy and speed of checkpoints, graphs and engines, side by side."""

import sys
from typing import TYPE_CHECKING

import click

from toolkit.cli import console

if TYPE_CHECKING:
    from toolkit.comparison.record import Comparison


def batch_sizes(_: click.Context, option: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    """Parse ``1,8,32``."""
    if value is None:
        return None
    try:
        sizes = tuple(int(part) for part in value.split(","))
    except ValueError:
        sizes = ()
    if not sizes or min(sizes) < 1:
        raise click.BadParameter(f"'{value}' is not a list of batch sizes such as 1,8,32", param=option)
    return sizes


@click.command("compare")
@click.argument("artifacts", nargs=-1, required=True, metavar="ARTIFACT...", type=click.Path())
@click.option("--data", required=True, metavar="DATA", help="digits, an image folder, IDX files or .npz.")
@click.option("--reference", metavar="ARTIFACT", help="What the others are held against [first .pt, else .onnx].")
@click.option("--batch", callback=batch_sizes, default="1,8,32", show_default=True, help="Batch sizes to time.")
@click.option("--images", type=click.IntRange(min=1), help="How many test images [all].")
@click.option(
    "--seconds", type=float, default=1.0, show_default=True, help="Timed running of each at each batch size."
)
@click.option(
    "--rounds", type=click.IntRange(min=1), default=10, show_default=True, help="Turns that the time is cut into."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the choice of images and order of turns.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda:N.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads of each [the backend's choice].")
@click.option("--trust-pickle", is_flag=True, help="Load pickled modules; this runs their code.")
@click.option("--json", "as_json", is_flag=True, help="Print the record as JSON.")
def command(
    *,
    artifacts: tuple[str, ...],
    data: str,
    reference: str | None,
    batch: tuple[int, ...],
    images: int | None,
    seconds: float,
    rounds: int,
    seed: int,
    device: str,
    threads: int | None,
    trust_pickle: bool,
    as_json: bool,
) -> None:
    """Compare accuracy and speed of checkpoints, graphs and engines.

    Every ARTIFACT runs in a process of its own, through the session that would serve it: first over the
    test images, then in turns with its rivals at each batch size. GRAPH@openvino runs a graph in OpenVINO
    instead of ONNX Runtime; both can be compared. What this machine can't run keeps its
    row with the reason. Latency is of one run from host memory to host memory.
    """
    from toolkit.steps.compare import compare

    with console.progress() as listener:
        comparison = compare(
            artifacts,
            data,
            reference=reference,
            batch_sizes=batch,
            images=images,
            seconds=seconds,
            rounds=rounds,
            seed=seed,
            device=device,
            threads=threads,
            trust_pickle=trust_pickle,
            progress=listener,
        )
    show(comparison, as_json=as_json)


def show(comparison: "Comparison", *, as_json: bool) -> None:
    """Print what was measured, as a record or as tables."""
    if as_json:
        console.emit_json(comparison.to_json())
    else:
        from toolkit.comparison.table import render

        console.out(render(comparison, plain=not sys.stdout.isatty()))
