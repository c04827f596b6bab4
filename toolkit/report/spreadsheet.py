"""A comparison as rows of a spreadsheet: one an artifact and batch size, every figure unrounded."""

import csv
import io
import statistics
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engines.files import write_atomically
from toolkit.comparison.records.record import Comparison
from toolkit.report.artifacts import Artifact, artifacts_of
from toolkit.report.pointers import look_up

if TYPE_CHECKING:
    from os import PathLike

_ARTIFACT: Mapping[str, str] = {
    "artifact": "name",
    "path": "path",
    "digest": "digest",
    "architecture": "architecture",
    "precision": "layers/precision",
    "backend": "session/backend",
    "device": "session/device",
    "provider": "proof/provider",
    "size_bytes": "size_bytes",
    "peak_resident_bytes": "peak_resident_bytes",
    "peak_device_bytes": "peak_device_bytes",
    "top1_rate": "accuracy/top1/rate",
    "top1_low": "accuracy/top1/low",
    "top1_high": "accuracy/top1/high",
    "top5_rate": "accuracy/top5/rate",
    "agreement_rate": "accuracy/agreement/rate",
    "non_finite_images": "accuracy/non_finite",
    "ece": "accuracy/confidence/ece",
    "drop_rate": "accuracy/against/drop/value",
    "drop_low": "accuracy/against/drop/low",
    "drop_high": "accuracy/against/drop/high",
    "p_value": "accuracy/against/p_value",
    "flips_images": "accuracy/against/flips/count",
    "flips_confident_images": "accuracy/against/confident",
    "flips_weighted": "accuracy/against/weighted",
    "helped_images": "accuracy/against/helped",
    "hurt_images": "accuracy/against/hurt",
    "kl_nats": "accuracy/against/kl",
    "sqnr_db": "accuracy/against/sqnr_db",
}
"""Column → where a row of the record has it."""

_SPEED: Mapping[str, str] = {
    "runs": "runs",
    "launches": "launches",
    "p50_seconds": "latency_seconds/p50",
    "p50_low_seconds": "intervals/p50/0",
    "p50_high_seconds": "intervals/p50/1",
    "p95_seconds": "latency_seconds/p95",
    "p99_seconds": "latency_seconds/p99",
    "mean_seconds": "latency_seconds/mean",
    "minimum_seconds": "latency_seconds/minimum",
    "images_per_second": "images_per_second",
    "images_per_second_low": "intervals/images_per_second/0",
    "images_per_second_high": "intervals/images_per_second/1",
    "speed_ratio": "ratio/value",
    "speed_ratio_low": "ratio/low",
    "speed_ratio_high": "ratio/high",
    "copy_in_seconds": "stage_seconds/copy_in",
    "device_seconds": "stage_seconds/device",
    "copy_out_seconds": "stage_seconds/copy_out",
}
"""Column → where a speed of a row has it."""

_COMPUTED: Mapping[str, Callable[[Mapping[str, Any], Artifact], Any]] = {
    "reference": lambda record, one: record["rows"][one.reference]["name"] if one.reference is not None else None,
    "machine": lambda record, one: record["machines"][one.row["machine"]]["processor"],
    "cold_start_open_seconds": lambda _, one: _median(one, "open"),
    "cold_start_first_seconds": lambda _, one: _median(one, "first"),
    "recommended": lambda _, one: int(one.recommended),
    "dominated": lambda _, one: int(one.dominated),
    "failure": lambda _, one: one.row["failure"] and one.row["failure"]["cause"],
    "created": lambda record, _: record["created"],
    "complete": lambda record, _: int(record["complete"]),
    "outputs_samples": lambda _, one: (one.row.get("fidelity") or {}).get("samples"),
    "outputs_sqnr_db_least": lambda _, one: _worst(one, "sqnr_db", min),
    "outputs_cosine_least": lambda _, one: _worst(one, "cosine", min),
    "outputs_error_largest": lambda _, one: _worst(one, "max_error", max),
    "outputs_same_least": lambda _, one: _worst(one, "same", min),
    "outputs_non_finite_samples": lambda _, one: _worst(one, "non_finite", max),
}

COLUMNS = (*_ARTIFACT, "batch_images", *_SPEED, "skipped", *_COMPUTED)
"""In this order since the first version; later ones are added at the end."""


def csv_rows(comparison: Comparison) -> Iterator[dict[str, Any]]:
    """A row for each artifact and batch size, timed or skipped; one alone for an artifact without any.

    Rates are from 0 to 1, None is what there is no figure of. Columns that begin with "outputs" are of networks that
    aren't classifiers: the worst of all outputs against the reference; without an SQNR, but with a cosine, all float
    outputs are identical.
    """
    record = comparison.to_json()
    for one in artifacts_of(record):
        facts = {column: look_up(one.row, path) for column, path in _ARTIFACT.items()}
        facts |= {column: compute(record, one) for column, compute in _COMPUTED.items()}
        speeds = {speed["batch"]: speed for speed in one.row["speed"]}
        skipped = {skip["batch"]: skip["reason"] for skip in one.row["skipped"]}
        for batch in sorted({*speeds, *skipped}) or [None]:
            figures = {column: look_up(speeds.get(batch), path) for column, path in _SPEED.items()}
            row = facts | figures | {"batch_images": batch, "skipped": skipped.get(batch)}
            yield {column: row[column] for column in COLUMNS}


def write_csv(comparison: Comparison, path: "str | PathLike[str]") -> None:
    """Write the rows as CSV: UTF-8, a header, points for decimals, full precision, nothing for None.

    A text that a spreadsheet would take for a formula has an apostrophe before it.

    Raises:
        InputError: the file can't be written.
    """
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in csv_rows(comparison):
        writer.writerow({column: _harmless(value) for column, value in row.items()})
    write_atomically(Path(path), file.getvalue())


def _harmless(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value[:1] in {"=", "+", "-", "@", "\t", "\r"} else value


def _worst(one: Artifact, name: str, choose: Callable[[list[float]], float]) -> float | None:
    """Of a figure of the outputs against the reference's, the one of the worst output."""
    outputs = (one.row.get("fidelity") or {}).get("outputs", ())
    found = [output[name] for output in outputs if output[name] is not None]
    return choose(found) if found else None


def _median(one: Artifact, name: str) -> float | None:
    starts = one.row["cold_starts"]
    return statistics.median(start[name] for start in starts) if starts else None
