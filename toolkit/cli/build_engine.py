"""`toolkit build-engine`: a graph in, an engine with a passport out."""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

import click

from engines.errors import CheckFailedError, InputError
from toolkit.cli.console import emit_json, note, out, progress

_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}


def parse_bytes(text: str) -> int:
    """The number of bytes in ``512MiB``, ``2GB`` or ``1048576``.

    Raises:
        InputError: it is no size.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmg]?i?b?)", text.strip().lower())
    if match is None or (unit := match[2] + ("" if match[2].endswith("b") or not match[2] else "b")) not in _UNITS:
        raise InputError(f"'{text}' is not a size", "write it as 512MiB, 2GiB or a number of bytes")
    return int(float(match[1]) * _UNITS[unit])


@click.command("build-engine")
@click.argument("graph", required=False, type=click.Path(path_type=Path))
@click.option("--fp32", "precision", flag_value="fp32", help="Build in FP32.")
@click.option("--fp16", "precision", flag_value="fp16", default=True, help="Build in FP16 (the default).")
@click.option("--bf16", "precision", flag_value="bf16", help="Build in BF16.")
@click.option("--int8", "precision", flag_value="int8", help="Build in INT8: calibrated, the rest in FP16.")
@click.option(
    "--fp8",
    "precision",
    flag_value="fp8",
    help="Build in FP8, for compute capability 8.9 and newer: calibrated, the rest in FP16.",
)
@click.option(
    "--backend",
    default="auto",
    show_default=True,
    metavar="NAME",
    help="tensorrt, tensorrt-rtx, onnxruntime, or auto: TensorRT where there is a GPU, else TensorRT for RTX.",
)
@click.option(
    "--data",
    metavar="DATA",
    help="Calibrate INT8 or FP8 on this data (a folder, .npz, IDX files, or 'digits'), and measure --max-drop on it.",
)
@click.option(
    "--table",
    type=click.Path(path_type=Path),
    help="Calibration table (default: the one beside the graph). With --max-drop --data may be given too, and only "
    "measures accuracy then.",
)
@click.option(
    "--max-drop",
    type=float,
    metavar="POINTS",
    help="Keep the fewest layers unquantised that lose at most so many points of top-1 against FP32 on the test "
    "split of --data, and write them into the table. Exit 1 when no choice holds it.",
)
@click.option(
    "--keep",
    multiple=True,
    metavar="NODE",
    help="Keep this layer unquantised, an ONNX node or PyTorch module; may be given several times.",
)
@click.option(
    "--method",
    default="auto",
    show_default=True,
    metavar="NAME",
    help="How ranges are chosen: auto (the best by measurement), entropy, percentile, mse, minmax.",
)
@click.option("--images", type=click.IntRange(1), default=512, show_default=True, help="Images to calibrate on.")
@click.option(
    "--search-images",
    type=click.IntRange(1),
    default=512,
    show_default=True,
    help="Training images that --max-drop chooses layers on.",
)
@click.option(
    "--eval-images", type=click.IntRange(1), help="Test images that --max-drop is judged on (default: all)."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed for the choices of images.")
@click.option(
    "--batch",
    multiple=True,
    metavar="MIN:OPT:MAX",
    help="Batch sizes the engine takes and is tuned for; several make several profiles (default 1:8:32).",
)
@click.option(
    "--compute-capability",
    "capabilities",
    multiple=True,
    metavar="X.Y",
    help="GPU generation to build for, TensorRT for RTX only; may be given several times.",
)
@click.option("--workspace", metavar="SIZE", help="Device memory a layer may use, as 512MiB or 2GiB.")
@click.option(
    "--timing-cache", type=click.Path(path_type=Path), help="File that keeps kernel timings, TensorRT only."
)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="The engine's file (default: beside the graph)."
)
@click.option("--force", is_flag=True, help="Replace files that were made from something else.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(
    graph: Path | None,
    precision: str,
    backend: str,
    data: str | None,
    table: Path | None,
    max_drop: float | None,
    keep: tuple[str, ...],
    method: str,
    images: int,
    search_images: int,
    eval_images: int | None,
    seed: int,
    batch: tuple[str, ...],
    capabilities: tuple[str, ...],
    workspace: str | None,
    timing_cache: Path | None,
    output: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Compile GRAPH.onnx into an engine and prove its precision on the engine's own layers.

    Without GRAPH the one master graph of the current folder is taken. INT8 and FP8 take their ranges from
    --data, from --table, or from the calibration table beside the graph; they are never made up.

    With --max-drop what ships is measured on the test split: the engine where it runs here, else its graph.
    """
    from toolkit.steps.build import build_engine

    with _telling_notes(), progress() as listener:
        report = build_engine(
            graph,
            precision=precision,
            backend=backend,
            data=data,
            table=table,
            method=method,
            images=images,
            seed=seed,
            keep=keep,
            max_drop=max_drop,
            search_images=search_images,
            eval_images=eval_images,
            batch=batch,
            compute_capabilities=capabilities,
            workspace=parse_bytes(workspace) if workspace else None,
            timing_cache=timing_cache,
            output=output,
            force=force,
            progress=listener,
        )
    if as_json:
        emit_json(report.to_json())
        return
    out(report.summary())
    if report.budget is not None:
        for line in report.budget.lines():
            out(line)
    for line in report.notes:
        note(f"note: {line}")
    if report.budget is not None and report.kept:
        out(f"table: {report.table} (its 'keep' names the layers: edit it and build with --table)")
    out(f"passport: {report.passport}")


@contextlib.contextmanager
def _telling_notes() -> Iterator[None]:
    """Print what a failed check has to tell beside its one line of cause."""
    try:
        yield
    except CheckFailedError as error:
        for line in getattr(error, "__notes__", ()):
            note(line)
        raise
