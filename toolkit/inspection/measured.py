"""What was measured of an engine, out of its passport: accuracy in words, speed as a table."""

from collections.abc import Mapping
from typing import Any

from toolkit.inspection.report import Facts, Table, count_text, flatten

_TITLE = "as last measured"


def measured_sections(measurements: Mapping[str, Any]) -> list[Facts | Table]:
    """Sections for people; nothing where nothing was measured.

    What isn't laid out as ``toolkit compare`` and ``toolkit bench`` write it is shown name by name.
    """
    rest, rows, tables = dict(measurements), list[tuple[str, str]](), list[Facts | Table]()
    for name, describe in (("accuracy", _accuracy), ("fidelity", _fidelity), ("speed", _speed)):
        if name not in rest:
            continue
        try:
            more, table = describe(rest[name])
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError):
            continue  # somebody else's layout
        del rest[name]
        rows += more
        tables += table
    rows += flatten(rest)
    return [Facts(_TITLE, tuple(rows)), *tables] if rows else []


def _accuracy(value: Mapping[str, Any]) -> tuple[list[tuple[str, str]], list[Facts | Table]]:
    data = value["data"]
    rows = [
        ("accuracy", f"top-1 {_share(value['top1'])}"),
        *((("", f"top-5 {_share(value['top5'])}"),) if value["top5"] else ()),
        *((("", f"agrees with {value['reference']} on {_share(value['agreement'])}"),) if value["agreement"] else ()),
        ("", f"{count_text(data['images'])} images of {data['name']}, {data['split']} split"),
        ("", _where(value)),
    ]
    if value["non_finite"]:
        rows.append(("", f"logits of {value['non_finite']} images hold NaN or infinity"))
    return rows, []


def _fidelity(value: Mapping[str, Any]) -> tuple[list[tuple[str, str]], list[Facts | Table]]:
    data = value["data"]
    rows = [("outputs", f"against {value['reference']} on {count_text(data['images'])} samples of {data['name']}")]
    for one in value["outputs"]:
        level = "identical" if one["sqnr_db"] is None else f"{one['sqnr_db']:.1f} dB SQNR"
        rows.append(("", f"{one['name']}: {level}" if one["cosine"] is not None else f"{one['name']}: integers"))
        if one["same"] is not None:
            rows.append(("", f"{one['name']}: {100 * one['same']:.2f} % the same"))
    return [*rows, ("", _where(value))], []


def _speed(value: Mapping[str, Any]) -> tuple[list[tuple[str, str]], list[Facts | Table]]:
    rows = tuple(
        (
            str(batch["batch"]),
            *(f"{1000 * batch['latency_seconds'][name]:.3g} ms" for name in ("p50", "p95", "p99")),
            f"{batch['images_per_second']:,.0f}",
            f"{batch['ratio']['value']:.2f}x" if batch["ratio"] else "",
        )
        for batch in value["batches"]
    )
    columns = ("batch", "p50", "p95", "p99", "images/s", f"against {value['reference']}" if rows[0][-1] else "")
    table = Table("speed as last measured", columns, rows, frozenset(range(len(columns))))
    return [("speed", _where(value))], [table]


def _share(value: Mapping[str, Any]) -> str:
    return f"{100 * value['rate']:.2f} % ({100 * value['low']:.1f}-{100 * value['high']:.1f})"


def _where(value: Mapping[str, Any]) -> str:
    driver = f", driver {value['driver']}" if value.get("driver") else ""
    with_ = f" with {value['provider']}" if value.get("provider") else ""
    return f"on {value['device']}{with_}{driver}, {value['machine']}, {value['measured']}"
