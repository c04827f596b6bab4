"""`toolkit build-engine`: a graph in, an engine with a passport out."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from engines.builders.capabilities import help_text
from engines.errors import CheckFailedError
from engines.sizes import parse_bytes
from toolkit.cli.console import emit_json, note, out, progress
from toolkit.kinds import KINDS

if TYPE_CHECKING:
    from engines.builders.options import HardwareCompatibility

_COMPATIBILITY: "dict[str, HardwareCompatibility]" = {
    "ampere-plus": "ampere_plus",
    "same-compute-capability": "same_compute_capability",
}


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
    help=f"Calibrate INT8 or FP8 on this data, and measure --max-drop on it: {KINDS}.",
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
    help=help_text("compute_capabilities", "GPU generation to build for; may be given several times"),
)
@click.option(
    "--workspace", metavar="SIZE", help=help_text("workspace", "Device memory a layer may use, as 512MiB or 2GiB")
)
@click.option("--tf32", is_flag=True, help=help_text("tf32", "Let FP32 layers multiply in TF32"))
@click.option(
    "--timing-cache",
    type=click.Path(path_type=Path),
    help=help_text("timing_cache", "File that keeps kernel timings"),
)
@click.option(
    "--optimization-level",
    type=click.IntRange(0, 5),
    help=help_text("optimization_level", "How long the builder searches"),
)
@click.option(
    "--version-compatible",
    is_flag=True,
    help=help_text("version_compatible", "Make an engine that newer releases of the same major version run"),
)
@click.option(
    "--hardware-compatibility",
    type=click.Choice(["ampere-plus", "same-compute-capability"]),
    help=help_text("hardware_compatibility", "Make an engine that other GPUs run too"),
)
@click.option(
    "--weights-stripped",
    is_flag=True,
    help=help_text("weights_stripped", "Leave the weights out; the graph beside the engine fills them in on load"),
)
@click.option(
    "--allow-partial",
    is_flag=True,
    help="Take an engine with layers in a wider type than asked for: they are named instead of refused.",
)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="The engine's file (default: beside the graph)."
)
@click.option("--force", is_flag=True, help="Replace files that were made from something else.")
@click.option("--no-cache", is_flag=True, help="Build anew, and keep nothing in the cache (`toolkit cache`).")
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
    tf32: bool,
    timing_cache: Path | None,
    optimization_level: int | None,
    version_compatible: bool,
    hardware_compatibility: str | None,
    weights_stripped: bool,
    allow_partial: bool,
    output: Path | None,
    force: bool,
    no_cache: bool,
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
            tf32=tf32,
            timing_cache=timing_cache,
            optimization_level=optimization_level,
            version_compatible=version_compatible,
            hardware_compatibility=_COMPATIBILITY[hardware_compatibility] if hardware_compatibility else None,
            weights_stripped=weights_stripped,
            allow_partial=allow_partial,
            output=output,
            force=force,
            cache=not no_cache,
            progress=listener,
        )
    if as_json:
        emit_json(report.to_json())
        return
    out(report.summary())
    if report.budget is not None:
        for line in report.budget.lines():
            out(line)
    if weights_stripped:
        where = "keep" if report.typed_graph.resolve().parent == report.engine.resolve().parent else "copy"
        note(f"note: the engine holds no weights: {where} '{report.typed_graph}' beside it, which fills them in")
    for line in report.remarks():
        note(f"note: {line}")
    if report.budget is not None and report.kept:
        out(f"table: {report.table} (its 'keep' names the layers: edit it and build with --table)")
    out(f"passport: {report.passport}")
    if report.log is not None:
        out(f"log: {report.log}")


@contextlib.contextmanager
def _telling_notes() -> Iterator[None]:
    """Print what a failed check has to tell beside its one line of cause."""
    try:
        yield
    except CheckFailedError as error:
        for line in getattr(error, "__notes__", ()):
            note(line)
        raise
