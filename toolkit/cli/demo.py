"""`toolkit demo`: the whole way on the embedded data set."""

from pathlib import Path

import click

from toolkit.cli.console import note, out, progress


@click.command("demo")
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path("demo"), show_default=True,
              help="Folder for everything the demo makes.")  # fmt: skip
@click.option("--epochs", type=click.IntRange(1), help="Epochs of training (default: the recipe's).")
def command(output: Path, epochs: int | None) -> int:
    """Train, export, verify, calibrate, build and compare an AlexNet on handwritten digits.

    Takes a few minutes on two cores and needs no GPU: TensorRT for RTX compiles its engines on any machine.
    """
    from toolkit.allocator import keep_freed_memory
    from toolkit.comparison.table import render
    from toolkit.demo import run_demo

    keep_freed_memory()
    with progress() as listener:
        result = run_demo(output, epochs=epochs, say=note, progress=listener)
    note(f"\nEverything is in '{output}'; it took {result.seconds:.0f} s.\n")
    out(render(result.comparison))
    for failure in result.failures:
        note(f"error: {failure}")
    return 1 if result.failures else 0
