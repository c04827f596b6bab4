"""``toolkit verify``: a graph is held against its PyTorch checkpoint."""

import click

from engines.errors import VerificationError
from toolkit.cli import console
from toolkit.cli.describe import model_option


@click.command("verify")
@click.argument("checkpoints", metavar="MODEL.pt...", nargs=-1, type=click.Path())
@click.argument("graph", metavar="MODEL.onnx", type=click.Path())
@click.option("--architecture", help="The network's name, where its weights don't tell it.")
@model_option
@click.option("--classes", type=click.IntRange(min=1), help="Insist on this number of classes.")
@click.option(
    "--data", metavar="DATA", help="Pictures to verify on [two photographs of scikit-learn's], or an .npz of inputs."
)
@click.option("--max-batch", type=click.IntRange(min=1), default=32, show_default=True, help="Largest batch to try.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the random inputs.")
@click.option("--save/--no-save", default=True, help="Store what was measured in the graph, when it passes.")
@click.option("--trust-pickle", is_flag=True, help="Load a pickled module; this runs its code.")
@click.option("--json", "as_json", is_flag=True, help="Print the measurements as JSON.")
def command(
    *,
    checkpoints: tuple[str, ...],
    graph: str,
    architecture: str | None,
    model: str | None,
    classes: int | None,
    data: str | None,
    max_batch: int,
    seed: int,
    save: bool,
    trust_pickle: bool,
    as_json: bool,
) -> None:
    """Check an ONNX graph against its PyTorch checkpoint, or an ensemble's against all of them.

    The tolerance is measured: float64 PyTorch is the reference, the distance of float32 PyTorch from it the
    noise floor, and the graph must stay within a small multiple of that at every batch size.
    Exit 1 when it doesn't.
    """
    from toolkit.steps.verify import verify

    with console.progress() as listener:
        result = verify(
            checkpoints,
            graph,
            architecture=architecture,
            model=model,
            classes=classes,
            trust_pickle=trust_pickle,
            data=data,
            max_batch=max_batch,
            seed=seed,
            save=save,
            progress=listener,
        )
    if as_json:
        console.emit_json(result.to_json())
    else:
        console.out("\n".join(result.summary()))
    if not result.passed:
        raise VerificationError(
            f"'{graph}' differs from '{', '.join(checkpoints) or model}': {result.problems[0]}",
            "export it again from this checkpoint with `toolkit export`",
        )
