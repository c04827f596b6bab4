"""``toolkit predict``: classify pictures."""

from typing import TYPE_CHECKING, Any

import click

from toolkit.cli import console

if TYPE_CHECKING:
    from toolkit.runtime.predictor import Prediction


@click.command("predict")
@click.argument("model", type=click.Path())
@click.argument("pictures", nargs=-1, required=True, metavar="IMAGE...", type=click.Path())
@click.option("--top", type=click.IntRange(min=1), default=5, show_default=True, help="Classes an answer.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda:N.")
@click.option(
    "--backend", default="auto", show_default=True, help="What runs the model: openvino for a graph [by the file]."
)
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads [the backend's choice].")
@click.option("--trust-pickle", is_flag=True, help="Load a pickled module; this runs its code.")
@click.option("--json", "as_json", is_flag=True, help="Print one machine-readable object.")
def command(
    *,
    model: str,
    pictures: tuple[str, ...],
    top: int,
    device: str,
    backend: str,
    threads: int | None,
    trust_pickle: bool,
    as_json: bool,
) -> int:
    """Classify pictures.

    MODEL is a checkpoint, graph or engine; IMAGE a picture, or a folder of pictures. A damaged picture
    is named and the others are answered; the exit code is 2 then.
    """
    from engines.errors import DataError
    from toolkit.steps.predict import predict

    answers = predict(
        model, pictures, top=top, device=device, backend=backend, threads=threads, trust_pickle=trust_pickle
    )
    found: list[dict[str, Any]] = []
    count = failed = 0
    for path, answer in answers:
        count += 1
        if isinstance(answer, DataError):
            failed += 1
            if as_json:
                found.append({"file": str(path), "error": answer.cause})
            console.note(click.style("error: ", fg="red", bold=True) + answer.cause)
        elif as_json:
            found.append({"file": str(path), **answer.to_json()})
        else:
            console.out(f"{path}: {_line(answer)}")
    if as_json:
        console.emit_json({"model": model, "predictions": found})
    if failed:
        console.note(f"{failed} of {count} pictures could not be read: replace or remove them")
    return 2 if failed else 0


def _line(prediction: "Prediction") -> str:
    return ", ".join(f"{candidate.label} {candidate.probability:.1%}" for candidate in prediction.top)
