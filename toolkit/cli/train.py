"""``toolkit train``: images become a checkpoint."""

from typing import TYPE_CHECKING, Any

import click

from export.models.registry import ARCHITECTURES
from export.recipe import OPTIMIZERS, PRECISIONS
from toolkit.cli import console
from toolkit.cli.export import input_size

if TYPE_CHECKING:
    from export.training import EpochFacts


@click.command("train")
@click.option(
    "--data", metavar="DATA", help="'digits' (the default), an image folder, a folder of IDX files, or an .npz."
)
@click.option("--output", "-o", type=click.Path(), default="model.pt", show_default=True, help="Checkpoint to write.")
@click.option("--architecture", metavar="NAME", help=f"{', '.join(ARCHITECTURES)} [alexnet].")
@click.option("--epochs", type=int, help="Passes over the training images [the architecture's recipe].")
@click.option("--batch-size", type=int, help="Images a step [the recipe].")
@click.option("--learning-rate", "--lr", type=float, help="Largest learning rate of the run [the recipe].")
@click.option("--optimizer", type=click.Choice(OPTIMIZERS), help="[the recipe]")
@click.option("--precision", type=click.Choice(PRECISIONS), help="Mixed precision; auto: where it pays [auto].")
@click.option("--input-size", callback=input_size, metavar="SIZE", help="224, or 224x320 for height x width.")
@click.option("--seed", type=int, help="Of everything random; same seed, same machine, same result [0].")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda:0.")
@click.option("--log-interval", type=int, help="Steps between two reports of loss and accuracy [10].")
@click.option("--resume", is_flag=True, help="Go on with the unfinished training of the output.")
@click.option("--force", is_flag=True, help="Replace an existing output, and drop an unfinished training of it.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(*, as_json: bool, **options: Any) -> None:
    """Train a classifier on images, keep its best epoch, and save it with its labels and preprocessing.

    Ctrl-C keeps the best finished epoch, and --resume goes on from the last one.
    """
    from toolkit.allocator import keep_freed_memory
    from toolkit.steps.train import train

    keep_freed_memory()

    def said(facts: "EpochFacts") -> None:
        console.note(
            f"epoch {facts.epoch}: loss {facts.train_loss:.4f}, accuracy {facts.train_accuracy:.2%}; "
            f"test loss {facts.test_loss:.4f}, accuracy {facts.test_accuracy:.2%}; {facts.seconds:.1f} s"
        )

    try:
        with console.progress() as listener:
            report = train(**options, progress=listener, on_epoch=said)
    except KeyboardInterrupt as stopped:
        console.note(_kept(stopped, options["output"]))
        raise
    if as_json:
        console.emit_json(report.to_json())
    else:
        console.out(report.summary())


def _kept(stopped: KeyboardInterrupt, output: str) -> str:
    result = getattr(stopped, "result", None)
    if result is None:
        return "stopped before the first epoch was finished: nothing was kept"
    return (
        f"stopped after epoch {len(result.history)}; '{output}' holds epoch {result.best_epoch}, the best so far. "
        f"Go on with: toolkit train --resume -o {output}"
    )
