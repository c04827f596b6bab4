"""``toolkit package``: an engine in another server's model repository."""

from pathlib import Path
from typing import Any

import click

from toolkit.cli import console


def gpu_numbers(_: click.Context, option: click.Parameter, value: str | None) -> tuple[int, ...]:
    """Parse ``0,1``."""
    try:
        return tuple(int(part) for part in value.split(",")) if value is not None else ()
    except ValueError as error:
        raise click.BadParameter(f"'{value}' is not a list of GPUs such as 0,1", param=option) from error


@click.command("package")
@click.argument("engine", type=click.Path(path_type=Path))
@click.option(
    "--triton",
    required=True,
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="The model repository of Triton Inference Server; made where it is missing.",
)
@click.option("--name", help="The model's name [the file's, up to its first dot].")
@click.option("--max-batch", type=click.IntRange(1), help="Samples a run at most [the plan's; 32 for a graph].")
@click.option(
    "--max-delay",
    type=click.FloatRange(0),
    default=0.0,
    show_default=True,
    metavar="SECONDS",
    help="How long a request may wait for company although an instance is idle.",
)
@click.option("--queue", type=click.IntRange(1), help="Requests that may wait; further ones are refused [any].")
@click.option(
    "--device",
    type=click.Choice(["auto", "gpu", "cpu"]),
    default="auto",
    show_default=True,
    help="Where it runs; auto: a plan on the GPU, an .int8.ort.onnx on the CPU, other graphs as Triton finds it.",
)
@click.option("--instances", type=click.IntRange(1), default=1, show_default=True, help="On each GPU, or on the CPU.")
@click.option("--gpus", callback=gpu_numbers, metavar="N,...", help="Which GPUs [all that Triton sees].")
@click.option(
    "--accelerator",
    type=click.Choice(["tensorrt", "openvino"]),
    help="What ONNX Runtime hands a graph to: TensorRT on the GPU, OpenVINO on the CPU.",
)
@click.option("--threads", type=click.IntRange(1), help="CPU threads of each instance of a graph [all cores].")
@click.option("--force", is_flag=True, help="Replace a model of that name whatever it was made from.")
@click.option("--json", "as_json", is_flag=True, help="Print one machine-readable object.")
def command(*, engine: Path, as_json: bool, **options: Any) -> None:
    """Write an engine into a model repository for Triton.

    ENGINE is a TensorRT plan with its passport, or a graph for ONNX Runtime. The folder DIR/NAME appears whole:
    config.pbtxt with batching, profiles and warm-up, labels.txt, and 1/model.plan or 1/model.onnx.
    """
    from toolkit.steps.package import package

    made = package(engine, **options)
    if as_json:
        console.emit_json(made.to_json())
        return
    console.out(f"{made.folder}")
    for file in made.files:
        console.out(f"  {file}")
    for note in made.notes:
        console.note(f"note: {note}")
    console.note(f"serve it: tritonserver --model-repository={made.folder.parent}")
