"""Read the record of a comparison, of this version or an earlier one, and believe nothing that isn't checked."""

import json
import math
from collections.abc import Mapping
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from engines.errors import InputError
from engines.files import require_file, unreadable
from engines.optional import require
from toolkit.comparison.records.earlier import upgrade
from toolkit.comparison.records.record import SCHEMA, VERSION, Comparison

MOST_BYTES = 256 << 20
"""A record of dozens of artifacts, with every run's time and its pictures, has a tenth of that."""

_MOST_WORDS = 160


def schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of records of this version."""
    text = (Path(__file__).parent / "comparison.schema.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


def read_record(source: "str | PathLike[str] | Mapping[str, Any]") -> Comparison:
    """Read a record that ``toolkit compare`` or ``toolkit bench`` wrote, with ``--json`` or ``--record``.

    Args:
        source: the file, or its JSON.

    Returns:
        The comparison; one of version 1 lacks what was not measured then.

    Raises:
        InputError: it can't be read, is no record, is damaged, or was written by a newer toolkit.
        MissingLibraryError: jsonschema is not installed.
    """
    if isinstance(source, Mapping):
        return _checked(dict(source), "this")
    path = Path(source)
    name = f"'{fspath(source)}'"
    require_file(path)
    try:
        size = path.stat().st_size
        if size > MOST_BYTES:
            raise InputError(
                f"{name} has {size / 1e6:,.0f} MB, too many for a record", "give the JSON that --record wrote"
            )
        text = path.read_bytes()
    except OSError as error:
        raise unreadable(path, error) from error
    try:
        value = json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise _no_json(name, text, error) from error
    return _checked(value, name)


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number in JSON")


def _no_json(name: str, text: bytes, error: Exception) -> InputError:
    if not text.strip():
        return InputError(f"{name} is empty", "give the JSON that --record wrote")
    if not text.lstrip().startswith(b"{"):
        return InputError(f"{name} is not a record: it holds no JSON object", "give the JSON that --record wrote")
    return InputError(
        f"{name} is a damaged record: {_short(str(error))}", "copy it again; it may have been cut off on its way"
    )


def _checked(value: Any, name: str) -> Comparison:
    """The comparison in parsed JSON, after all that may be wrong with it."""
    if not isinstance(value, dict) or value.get("schema") != SCHEMA:
        raise InputError(f"{name} is not a record of a comparison", "give the JSON that --record wrote")
    version = value.get("version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise InputError(f"{name} is a damaged record: it has no version", "copy it again, or measure again")
    if version > VERSION:
        raise InputError(
            f"{name} has version {version}; this toolkit reads records up to version {VERSION}",
            "upgrade onnx-tensorrt-toolkit",
        )
    try:
        if version < VERSION:
            value = upgrade(value)
        _validate(value)
        comparison = Comparison.from_json(value)
        _consistent(comparison)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError) as error:
        said = f"it has no {error}" if isinstance(error, KeyError) else _short(str(error))
        raise InputError(f"{name} is a damaged record: {said}", "copy it again, or measure again") from error
    return comparison


def _validate(value: dict[str, Any]) -> None:
    """Hold it against the schema; every run's time is looked at apart, a hundred times as fast.

    Raises:
        ValueError: where it is not what the schema says.
    """
    jsonschema = require("jsonschema", "Reading records", "report")
    rows = value.get("rows")
    times: list[Any] = []
    if isinstance(rows, list):
        value = {**value, "rows": [_without_times(row, times) for row in rows]}
    error = jsonschema.exceptions.best_match(jsonschema.Draft202012Validator(schema()).iter_errors(value))
    if error is not None:
        place = error.json_path.removeprefix("$").removeprefix(".")
        raise ValueError(f"{place}: {error.message}" if place else error.message)
    for launches in times:
        if not isinstance(launches, list) or not all(
            isinstance(turns, list) and all(isinstance(turn, list) and all(map(_is_time, turn)) for turn in turns)
            for turns in launches
        ):
            raise ValueError("run_seconds: holds something else than seconds")


def _without_times(row: Any, times: list[Any]) -> Any:
    """The row with empty ``run_seconds``; what was there is added to ``times``."""
    if not isinstance(row, dict) or not isinstance(row.get("speed"), list):
        return row
    speeds = []
    for speed in row["speed"]:
        if isinstance(speed, dict) and "run_seconds" in speed:
            times.append(speed["run_seconds"])
            speeds.append({**speed, "run_seconds": []})
        else:
            speeds.append(speed)
    return {**row, "speed": speeds}


def _is_time(value: Any) -> bool:
    return (type(value) is float and value >= 0 and math.isfinite(value)) or (type(value) is int and value >= 0)


def _consistent(comparison: Comparison) -> None:
    """What no schema can say.

    Raises:
        ValueError: a name that refers to nothing, or to two.
    """
    names = [row.name for row in comparison.rows]
    if len(set(names)) < len(names):
        raise ValueError(f"two rows are called '{next(name for name in names if names.count(name) > 1)}'")
    references = [comparison.reference, *(part.reference for part in comparison.parts)]
    if lost := [name for name in references if name is not None and name not in names]:
        raise ValueError(f"there is no row '{lost[0]}' that others refer to")
    machines = len(comparison.machines)
    if len(comparison.conditions) != machines or (comparison.parts and len(comparison.parts) != machines):
        raise ValueError("it doesn't have as many machines as parts")
    if any(row.machine >= machines for row in comparison.rows):
        raise ValueError("a row refers to a machine that isn't there")


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _MOST_WORDS else f"{line[: _MOST_WORDS // 2]} … {line[-_MOST_WORDS // 2 :]}"
