"""``toolkit predict``: classify pictures."""

from typing import TYPE_CHECKING, Any

import click

from toolkit.cli import console
from toolkit.cli.describe import code_option

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from engines.errors import DataError
    from toolkit.prediction.stream import Written
    from toolkit.runtime.prediction import Prediction


@click.command("predict")
@click.argument("model", type=click.Path())
@click.argument("pictures", nargs=-1, metavar="IMAGE...", type=click.Path())
@click.option("--files", metavar="LIST", type=click.Path(), help="A list of more pictures, one a line; - for stdin.")
@click.option("--out", type=click.Path(), help="Write *.csv, *.jsonl or *.parquet instead of printing.")
@click.option("--force", is_flag=True, help="Replace an --out that exists.")
@click.option("--top", type=click.IntRange(min=1), default=5, show_default=True, help="Classes an answer.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda:N.")
@click.option(
    "--backend",
    default="auto",
    show_default=True,
    help="What runs the model: openvino or onnxruntime-tensorrt (graphs), torch-compile (checkpoints) [by the file].",
)
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads [the backend's choice].")
@click.option("--batch-size", type=click.IntRange(min=1), help="Pictures a run [the engine's largest, or 32].")
@click.option("--ray", is_flag=True, help="Spread the pictures over a Ray cluster; needs --out.")
@click.option("--ray-address", help="A cluster that runs [RAY_ADDRESS, or one of its own on this machine].")
@click.option("--ray-actors", type=click.IntRange(min=1), default=1, show_default=True, help="Predictors on it.")
@click.option("--ray-gpus", type=click.FloatRange(min=0), default=0.0, help="GPUs, or a share of one, for each.")
@click.option("--trust-pickle", is_flag=True, help="Load a pickled module; this runs its code.")
@code_option
@click.option("--json", "as_json", is_flag=True, help="Print one machine-readable object.")
def command(
    *,
    model: str,
    pictures: tuple[str, ...],
    files: str | None,
    out: str | None,
    force: bool,
    as_json: bool,
    ray: bool,
    ray_address: str | None,
    ray_actors: int,
    ray_gpus: float,
    **options: Any,
) -> int:
    """Classify pictures.

    MODEL is a checkpoint, graph or engine; IMAGE a picture, or a folder of pictures. A damaged picture
    is named and the others are answered; the exit code is 2 then.

    With --out any number of pictures goes through in bounded memory. What is done is kept beside the output, and
    the same command goes on from there after Ctrl-C, a crash or a full disk.
    """
    if not pictures and files is None:
        raise click.UsageError("give pictures, folders of them, or --files LIST")
    if out is not None:
        from toolkit.prediction.cluster import Cluster
        from toolkit.steps.predict import predict_to

        cluster = Cluster(ray_address or "", ray_actors, ray_gpus) if ray or ray_address else None
        with console.progress() as listener:
            written = predict_to(
                out, model, pictures, files=files, cluster=cluster, force=force, progress=listener, **options
            )
        return _tell(written, model, as_json=as_json)
    if ray or ray_address or force:
        raise click.UsageError("--ray and --force need --out")
    from toolkit.steps.predict import predict

    return _print(predict(model, pictures, files=files, **options), model, as_json=as_json)


def _tell(written: "Written", model: str, *, as_json: bool) -> int:
    if as_json:
        console.emit_json({"model": model, **written.to_json()})
    else:
        console.out(f"{written.output}: {written.pictures} pictures")
    if written.failed:
        console.note(f"{written.failed} of {written.pictures} pictures could not be read: see the column 'error'")
    return 2 if written.failed else 0


def _print(answers: "Iterable[tuple[Path, Prediction | DataError]]", model: str, *, as_json: bool) -> int:
    from engines.errors import DataError

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
