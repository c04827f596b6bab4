"""A TensorRT or TensorRT-for-RTX plan: header and passport, read without either library."""

from pathlib import Path
from typing import Any

from engines.errors import EngineFormatError
from engines.header import read_header
from engines.passport import Passport, passport_path
from toolkit.inspection.passport import layers_table, passport_facts, read_beside, reason_rows, reasons_json
from toolkit.inspection.report import Facts, Report, Table, metadata_facts, size_text


def inspect_plan(path: Path) -> Report:
    """Describe a plan, and what keeps it from running here as far as header and passport tell.

    Raises:
        EngineFormatError: it is damaged or no plan.
    """
    header = read_header(path)
    passport, reasons = read_beside(path)
    layers = _layers(path, passport, header.kind)
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
    sections: list[Facts | Table] = [Facts("plan", tuple(rows))]
    if passport:
        sections += [passport_facts(passport), metadata_facts(passport.metadata)]
    elif not passport_path(path).exists():
        sections.append(Facts("passport", (("none", "what it was made from is unknown"),)))
    sections += layers_table(layers)
    value = {
        "header": header.to_json(),
        "passport": passport.to_json() if passport else None,
        "layers": layers,
        "reasons_not_to_run": reasons_json(reasons),
    }
    return Report("plan", path, tuple(sections), value)


def _layers(path: Path, passport: Passport | None, kind: str) -> dict[str, Any] | None:
    """The layer types by the passport, or by the plan's own description where it has one."""
    if passport and passport.layers:
        return dict(passport.layers)
    if kind != "tensorrt-rtx":
        return None
    from engines.builders.rtx_plan import read_rtx_layers

    try:
        return read_rtx_layers(path).to_json()
    except EngineFormatError:  # a plan without a description that can be read is still a plan
        return None
