"""``toolkit export``: a checkpoint becomes a verified ONNX graph."""

from typing import Any

import click

from toolkit.cli import console
from toolkit.cli.describe import description_options, model_option, take_description


@click.command("export")
@click.argument("checkpoints", metavar="[MODEL.pt]...", nargs=-1, type=click.Path())
@click.option("--output", "-o", type=click.Path(), help="The graph to write [MODEL.onnx beside the checkpoint].")
@click.option("--architecture", help="The network's name, where its weights don't tell it.")
@model_option
@click.option("--ensemble", is_flag=True, help="One graph that gives the mean of several checkpoints' probabilities.")
@click.option("--classes", type=click.IntRange(min=1), help="Insist on this number of classes.")
@description_options
@click.option("--opset", type=int, default=20, show_default=True, help="ONNX opset, 18 to 23.")
@click.option("--uint8-input", is_flag=True, help="The graph takes raw NHWC uint8 images and normalises them itself.")
@click.option(
    "--data", metavar="DATA", help="Pictures to verify on [two photographs of scikit-learn's], or an .npz of inputs."
)
@click.option(
    "--max-batch", type=click.IntRange(min=1), default=32, show_default=True, help="Largest batch to verify."
)
@click.option("--verify/--no-verify", default=True, help="Compare the graph with PyTorch before it is written.")
@click.option("--trust-pickle", is_flag=True, help="Load pickled objects; this runs their code.")
@click.option("--force", is_flag=True, help="Replace an output that was made from another checkpoint.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def command(*, checkpoints: tuple[str, ...], output: str | None, as_json: bool, **options: Any) -> None:
    """Export a checkpoint to ONNX and verify it against PyTorch.

    Architecture, classes and preprocessing come from the checkpoint; a bare state dict, in a .pt or in safetensors,
    is recognised by its keys and shapes. Archives of torch.export (.pt2) and TorchScript bring their network along.
    For weights of your own network name its code: --model net.py:Net, or --model package.module:factory; what the
    network doesn't say of itself is said by --input-size, --mean, --labels and so on. The batch is dynamic, and
    labels and preprocessing travel inside the graph.
    """
    from toolkit.steps.export import export

    describe = take_description(options)
    with console.progress() as listener:
        report = export(list(checkpoints) or None, output, describe=describe, progress=listener, **options)
    if as_json:
        console.emit_json(report.to_json())
    else:
        console.out("\n".join(report.summary()))
