"""A TensorRT or TensorRT-for-RTX plan: header and passport, read without either library."""

from pathlib import Path
from typing import Any

from engines.errors import EngineFormatError, ToolkitError
from engines.header import PlanHeader
from engines.nvidia_wheels import has_nvidia_driver
from engines.passport import Passport, passport_path
from engines.plan_tensors import read_plan_tensors
from engines.portability import reasons_not_to_run, whole_plan
from engines.target import Gpu, find_gpus
from engines.tensors import TensorSpec
from toolkit.inspection.passport import (
    damage_in,
    layers_table,
    passport_sections,
    read_beside,
    reason_rows,
    reasons_json,
)
from toolkit.inspection.report import Facts, Report, Table, size_text, tensor_facts


def inspect_plan(path: Path) -> Report:
    """Describe a plan, and what keeps it from running here as far as header and passport tell.

    Raises:
        EngineFormatError: it is damaged or no plan.
    """
    header = whole_plan(path)
    passport, reasons = read_beside(path)
    gpus = _gpus_here()
    if not reasons:
        reasons = _wrong_gpus(path, gpus)
    layers = _layers(path, passport, header, fits=damage_in(reasons) is None)
    rows = [
        ("file", str(path)),
        ("size", size_text(header.file_size)),
        ("library", header.library),
        ("serialisation", str(header.serialisation)),
    ]
    if header.compute_capabilities is not None:
        rows.append(("compute capabilities", ", ".join(header.compute_capabilities) or "none declared"))
    rows += reason_rows(reasons)
    if not reasons:
        rows.append(("library and platform", "fit this machine, as far as header and passport tell"))
        rows.append(("GPU", ", ".join(gpu.name for gpu in gpus) or "none here: it runs on a machine that has one"))
    sections: list[Facts | Table] = [Facts("plan", tuple(rows))]
    if passport:
        title = "passport" if damage_in(reasons) is None else "passport, not of this file"
        sections += passport_sections(passport, title)
    elif not passport_path(path).exists():
        sections.append(Facts("passport", (("none", "what it was made from is unknown"),)))
    tensors = _own_tensors(path, header) if passport is None or damage_in(reasons) else ((), ())
    if any(tensors):
        sections.append(Facts("by the plan itself", tuple(tensor_facts(*tensors))))
    sections += layers_table(layers)
    value = {
        "header": header.to_json(),
        "passport": passport.to_json() if passport else None,
        "layers": layers,
        "inputs": [spec.to_json() for spec in tensors[0]],
        "outputs": [spec.to_json() for spec in tensors[1]],
        "reasons_not_to_run": reasons_json(reasons),
    }
    return Report("plan", path, tuple(sections), value, damage_in(reasons))


def _gpus_here() -> tuple[Gpu, ...]:
    return find_gpus()[0] if has_nvidia_driver() else ()


def _wrong_gpus(path: Path, gpus: tuple[Gpu, ...]) -> list[ToolkitError]:
    """Why none of these GPUs runs it; an empty list where one does, or where there is none."""
    judged = [reasons_not_to_run(path, compute_capability=gpu.compute_capability, digest=False) for gpu in gpus]
    return judged[0] if judged and all(judged) else []


def _own_tensors(path: Path, header: PlanHeader) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Inputs and outputs by the plan itself, as far as they can be read without its library."""
    return read_plan_tensors(path) if header.kind == "tensorrt-rtx" else ((), ())


def _layers(path: Path, passport: Passport | None, header: PlanHeader, *, fits: bool) -> dict[str, Any] | None:
    """The layer types by the passport of this very file, or by the plan's own description where it has one."""
    if passport and passport.layers and fits:
        return dict(passport.layers)
    if header.kind != "tensorrt-rtx":
        return None
    from engines.builders.rtx_plan import read_rtx_layers

    try:
        return read_rtx_layers(path).to_json()
    except EngineFormatError:  # a plan without a description that can be read is still a plan
        return None
