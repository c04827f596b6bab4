"""Records of earlier versions, brought up to this one."""

from collections.abc import Mapping
from typing import Any

from toolkit.comparison.records.record import VERSION

EARLIER = "version-1-"
"""What stands before a digest of images that version 1 made."""


def upgrade(value: Mapping[str, Any]) -> dict[str, Any]:
    """A record of version 1 as one of this version; what wasn't measured then stays open.

    Raises:
        KeyError, TypeError, AttributeError: it isn't what version 1 wrote.
    """
    # The bare subscripts are the check that nothing is missing.
    return {
        **{name: value[name] for name in ("schema", "created", "command", "reference", "warnings")},
        "version": VERSION,
        "complete": True,
        "key": "",
        "machines": [{"caches": {}, "virtual": None, **value["machine"]}],
        "conditions": [None],
        "settings": {"launches": 1, **value["settings"]},
        # The images were digested otherwise then: the same ones had another digest.
        "data": value["data"] and {**value["data"], "digest": f"{EARLIER}{value['data']['digest']}"},
        "goal": None,
        "verdicts": [],
        "rows": [_row(row) for row in value["rows"]],
        "pictures": {},
        "progress": None,
        "parts": [],
    }


def _row(row: Mapping[str, Any]) -> dict[str, Any]:
    session, start = row["session"], row["cold_start_seconds"]
    kept = (
        "name",
        "path",
        "size_bytes",
        "digest",
        "architecture",
        "peak_resident_bytes",
        "skipped",
        "failure",
        "notes",
    )
    return {
        **{name: row[name] for name in kept},
        "session": session and {**session, "open_seconds": start["open"], "first_seconds": start["first_run"]},
        "cold_starts": [{"open": start["open"], "first": start["first_run"]}] if start else [],
        "peak_device_bytes": None,
        "accuracy": row["accuracy"] and _accuracy(row["accuracy"]),
        "speed": [_speed(speed) for speed in row["speed"]],
        "proof": None,
        "layers": None,
        "passport": None,
        "machine": 0,
    }


def _accuracy(accuracy: Mapping[str, Any]) -> dict[str, Any]:
    return {**accuracy, "confusion": None, "confidence": None, "against": None, "disagreements": []}


def _speed(speed: Mapping[str, Any]) -> dict[str, Any]:
    known = {name: value for name, value in speed.items() if name != "block_seconds"}
    return {**known, "launches": 1, "intervals": {}, "run_seconds": [speed["block_seconds"]]}
