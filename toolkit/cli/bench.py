"""``toolkit bench``: latency and throughput of an engine."""

from typing import Any

import click

from toolkit.cli import console
from toolkit.cli.compare import batch_sizes, say_where, show, written
from toolkit.cli.describe import model_option


@click.command("bench")
@click.argument("engines", nargs=-1, required=True, metavar="ENGINE...", type=click.Path())
@click.option(
    "--batch",
    callback=batch_sizes,
    metavar="SIZES",
    help="Batch sizes [those of 1,8,32 it takes], or sweep: doubled until throughput stops growing.",
)
@click.option("--seconds", type=float, help="Timed running at each batch size [1; 0.5 of more than four].")
@click.option("--rounds", type=click.IntRange(min=1), help="Turns that it is cut into [40; 20 of more than four].")
@click.option(
    "--launches", type=click.IntRange(min=1), default=2, show_default=True, help="Starts of every process anew."
)
@click.option(
    "--backend",
    default="auto",
    show_default=True,
    help="What runs them: openvino or onnxruntime-tensorrt (graphs), torch-compile (checkpoints) [by the file].",
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda:N.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads [the backend's choice].")
@click.option("--trust-pickle", is_flag=True, help="Load pickled modules; this runs their code.")
@model_option
@written
@click.option("--fresh", is_flag=True, help="Begin anew instead of going on with an interrupted run.")
@click.option("--force", is_flag=True, help="Replace outputs that are of another comparison.")
@click.option("--json", "as_json", is_flag=True, help="Print the record as JSON.")
def command(*, engines: tuple[str, ...], batch: Any, as_json: bool, **options: Any) -> None:
    """Measure an engine's latency and throughput.

    ENGINE is a checkpoint, graph or engine; several take turns. GRAPH@openvino runs a graph in OpenVINO
    instead of ONNX Runtime. Latency is of one run from host memory to host memory; where there is a
    device, its time and the copies are shown apart.
    """
    from toolkit.steps.bench import bench

    with console.progress() as listener:
        comparison = bench(engines, batch_sizes=batch, say=console.note, progress=listener, **options)
    show(comparison, as_json=as_json)
    say_where(options)
