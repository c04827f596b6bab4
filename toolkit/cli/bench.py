"""``toolkit bench``: latency and throughput of an engine."""

import click

from toolkit.cli import console
from toolkit.cli.compare import batch_sizes, show


@click.command("bench")
@click.argument("engines", nargs=-1, required=True, metavar="ENGINE...", type=click.Path())
@click.option("--batch", callback=batch_sizes, help="Batch sizes, such as 1,8,32 [those of 1, 8, 32 it takes].")
@click.option("--seconds", type=float, default=1.0, show_default=True, help="Timed running at each batch size.")
@click.option(
    "--rounds", type=click.IntRange(min=1), default=10, show_default=True, help="Turns that the time is cut into."
)
@click.option(
    "--backend", default="auto", show_default=True, help="What runs them: openvino for a graph [by the file]."
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda:N.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads [the backend's choice].")
@click.option("--trust-pickle", is_flag=True, help="Load pickled modules; this runs their code.")
@click.option("--json", "as_json", is_flag=True, help="Print the record as JSON.")
def command(
    *,
    engines: tuple[str, ...],
    batch: tuple[int, ...] | None,
    seconds: float,
    rounds: int,
    backend: str,
    device: str,
    threads: int | None,
    trust_pickle: bool,
    as_json: bool,
) -> None:
    """Measure an engine's latency and throughput.

    ENGINE is a checkpoint, graph or engine; several take turns. GRAPH@openvino runs a graph in OpenVINO
    instead of ONNX Runtime. Latency is of one run from host memory to host memory; where there is a
    device, its time and the copies are shown apart.
    """
    from toolkit.steps.bench import bench

    with console.progress() as listener:
        comparison = bench(
            engines,
            batch_sizes=batch,
            seconds=seconds,
            rounds=rounds,
            backend=backend,
            device=device,
            threads=threads,
            trust_pickle=trust_pickle,
            progress=listener,
        )
    show(comparison, as_json=as_json)
