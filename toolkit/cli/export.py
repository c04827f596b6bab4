"""``toolkit export``: a checkpoint becomes a verified ONNX graph."""

import click

from toolkit.cli import console


def input_size(_: click.Context, option: click.Parameter, value: str | None) -> int | tuple[int, int] | None:
    """Parse ``224`` or ``HEIGHTxWIDTH``."""
    if value is None:
        return None
    parts = value.lower().replace("×", "x").split("x")
    if not 1 <= len(parts) <= 2 or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise click.BadParameter(f"'{value}' is not a size such as 224 or 224x320 (height x width)", param=option)
    return int(parts[0]) if len(parts) == 1 else (int(parts[0]), int(parts[1]))


@click.command("export")
@click.argument("checkpoint", metavar="MODEL.pt", type=click.Path())
@click.option("--output", "-o", type=click.Path(), help="The graph to write [MODEL.onnx beside the checkpoint].")
@click.option("--architecture", help="The network's name, where its weights don't tell it.")
@click.option("--classes", type=click.IntRange(min=1), help="Insist on this number of classes.")
@click.option("--input-size", callback=input_size, metavar="SIZE", help="224, or 224x320 for height x width.")
@click.option("--opset", type=int, default=20, show_default=True, help="ONNX opset, 18 to 23.")
@click.option("--uint8-input", is_flag=True, help="The graph takes raw NHWC uint8 images and normalises them itself.")
@click.option("--data", metavar="DATA", help="Pictures to verify on [two photographs of scikit-learn's].")
@click.option(
    "--max-batch", type=click.IntRange(min=1), default=32, show_default=True, help="Largest batch to verify."
)
@click.option("--verify/--no-verify", default=True, help="Compare the graph with PyTorch before it is written.")
@click.option("--trust-pickle", is_flag=True, help="Load a pickled module; this runs its code.")
@click.option("--force", is_flag=True, help="Replace an output that was made from another checkpoint.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def command(
    *,
    checkpoint: str,
    output: str | None,
    architecture: str | None,
    classes: int | None,
    input_size: int | tuple[int, int] | None,
    opset: int,
    uint8_input: bool,
    data: str | None,
    max_batch: int,
    verify: bool,
    trust_pickle: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Export a checkpoint to ONNX and verify it against PyTorch.

    Architecture, classes and preprocessing come from the checkpoint; a bare state dict is recognised by its
    keys and shapes. The batch is dynamic, and labels and preprocessing travel inside the graph.
    """
    from toolkit.steps.export import export

    with console.progress() as listener:
        report = export(
            checkpoint,
            output,
            architecture=architecture,
            classes=classes,
            input_size=input_size,
            opset=opset,
            uint8_input=uint8_input,
            trust_pickle=trust_pickle,
            verify=verify,
            data=data,
            max_batch=max_batch,
            force=force,
            progress=listener,
        )
    if as_json:
        console.emit_json(report.to_json())
    else:
        console.out("\n".join(report.summary()))
