"""What the figures of benchmarks.gpu_figures are held against: ratios of rows that took turns in one run."""

from typing import Any

PLAIN = "ONNX Runtime CUDA FP16, plain session.run"
FASTER = (
    # What is measured against PLAIN, and how many times its images/s it is meant to reach at least.
    ("ONNX Runtime CUDA FP16", 1.3),
    ("ONNX Runtime CUDA FP16, slots", 1.3),
    ("ONNX Runtime CUDA FP16 from uint8", 1.5),
    ("ONNX Runtime CUDA FP16 from uint8, slots", 1.5),
)
OVERLAPPED = (
    "ONNX Runtime CUDA FP16",
    "ONNX Runtime CUDA FP16 from uint8",
    "tensorrt FP16",
    "tensorrt FP16 from uint8",
)
"""Engines whose slots are held against the engine's own time on the device."""

MOST_OVER_DEVICE = 1.1
"""A batch through overlapping slots takes at most this many times what the engine takes on the device."""


def goals(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every goal with its ratio by batch size; "not measured" where a row it needs has no figures.

    Args:
        rows: of the record.

    Returns:
        ``{"what", "at_least" or "at_most", "ratios": {batch: ratio}, "met": [batch]}`` each.
    """
    by_name = {row["name"]: row["batches"] for row in rows}
    found = []
    for name, least in FASTER:
        ratios = _ratios(by_name, name, PLAIN, lambda ours, theirs: _speed(ours) / _speed(theirs))
        met = [batch for batch, ratio in ratios.items() if isinstance(ratio, float) and ratio >= least]
        found.append({"what": f"{name} / plain session.run", "at_least": least, "ratios": ratios, "met": met})
    for name in OVERLAPPED:
        ratios = _ratios(by_name, f"{name}, slots in place", name, _over_device)
        most = MOST_OVER_DEVICE
        met = [batch for batch, ratio in ratios.items() if isinstance(ratio, float) and ratio <= most]
        found.append(
            {"what": f"{name}, slots in place / device alone", "at_most": most, "ratios": ratios, "met": met}
        )
    return found


def _ratios(by_name: dict[str, Any], name: str, against: str, ratio: Any) -> dict[str, float | str]:
    ours, theirs = by_name.get(name, {}), by_name.get(against, {})
    found: dict[str, float | str] = {}
    for batch, timing in ours.items():
        measured = "runs" in timing and "runs" in theirs.get(batch, {})
        value = ratio(timing, theirs[batch]) if measured else None
        found[batch] = "not measured" if value is None else round(value, 3)
    return found


def _speed(timing: dict[str, Any]) -> float:
    return float(timing["images_per_second"])


def _over_device(slots: dict[str, Any], run: dict[str, Any]) -> float | None:
    """A batch's seconds through slots over the seconds that the engine alone takes on the device; None if untold."""
    stages = run["stage_seconds"]
    return float(slots["latency_seconds"]["mean"] / stages["device"]) if stages and stages["device"] else None
