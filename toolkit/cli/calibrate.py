"""``toolkit calibrate``: measure the ranges that INT8 engines are made with."""

import click

from toolkit.cli import console

METHODS = ("entropy", "percentile", "mse", "minmax")


@click.command("calibrate")
@click.argument("graph", metavar="MODEL.onnx", type=click.Path())
@click.option(
    "--data",
    required=True,
    metavar="DATA",
    help="digits, an image folder, IDX files or .npz: its train split is used.",
)
@click.option(
    "--method", type=click.Choice(METHODS), default=METHODS[0], show_default=True, help="How ranges are chosen."
)
@click.option("--images", type=click.IntRange(min=1), default=512, show_default=True, help="How many images.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the choice of images.")
@click.option("--batch-size", type=click.IntRange(min=1), default=32, show_default=True, help="Images a run.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads [all cores].")
@click.option("--output", "-o", type=click.Path(), help="The table [MODEL.calibration.json beside the graph].")
@click.option("--force", is_flag=True, help="Replace an output that was made from another graph.")
@click.option("--json", "as_json", is_flag=True, help="Print the table as JSON.")
def command(
    *,
    graph: str,
    data: str,
    method: str,
    images: int,
    seed: int,
    batch_size: int,
    threads: int | None,
    output: str | None,
    force: bool,
    as_json: bool,
) -> None:
    """Measure the ranges of a graph's tensors on data.

    The images come from the train split, each class in its proportion, and stream through ONNX Runtime in fixed
    memory. The table is neutral of any target: INT8 graphs for TensorRT and for ONNX Runtime are made from it.
    """
    from toolkit.steps.calibrate import calibrate

    with console.progress() as listener:
        table = calibrate(
            graph,
            data,
            method=method,
            images=images,
            seed=seed,
            output=output,
            batch_size=batch_size,
            threads=threads,
            force=force,
            progress=listener,
        )
    if as_json:
        console.emit_json(table.to_json())
    else:
        console.out(table.summary())
