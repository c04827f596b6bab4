"""Which kind of artifact a file is, by its name and its first bytes."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from engines.errors import InputError
from engines.files import read_start, unreadable
from engines.header import plan_kind
from engines.passport import FORMAT as PASSPORT

Kind = Literal["checkpoint", "graph", "plan", "table", "passport"]

SUFFIXES: Mapping[str, Kind] = {
    ".pt": "checkpoint",
    ".pth": "checkpoint",
    ".pkl": "checkpoint",
    ".ckpt": "checkpoint",
    ".pt2": "checkpoint",
    ".ts": "checkpoint",
    ".torchscript": "checkpoint",
    ".safetensors": "checkpoint",
    ".onnx": "graph",
    ".engine": "plan",
    ".plan": "plan",
    ".trt": "plan",
}

MAX_JSON = 64 << 20
"""The largest JSON file that is read."""

_ALL = "artifacts are checkpoints (.pt), graphs (.onnx), engines (.engine), tables (.calibration.json) and passports"


def kind_of(path: Path) -> Kind:
    """Which kind of artifact ``path`` is.

    A known suffix decides, so that a damaged file is reported by the reader of its kind; any other
    name is decided by the first bytes.

    Raises:
        InputError: it doesn't exist, is a folder, or is none of them.
    """
    path = Path(path)
    start = read_start(path, 64)
    if known := SUFFIXES.get(path.suffix.lower()):
        return known
    if path.suffix.lower() == ".json" or start.lstrip()[:1] == b"{":
        if path.name.endswith(".safetensors.index.json"):
            return "checkpoint"
        return "passport" if read_json(path).get("format") == PASSPORT else "table"
    if plan_kind(start):
        return "plan"
    safetensors = start[8:9] == b"{" and int.from_bytes(start[:8], "little") < MAX_JSON  # a length, then JSON
    if safetensors or start.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04")):
        return "checkpoint"
    if start[:1] == b"\x08":  # an ONNX ModelProto begins with its field 1, ir_version
        return "graph"
    raise InputError(f"'{path}' is no artifact that toolkit knows", _ALL)


def read_json(path: Path) -> Mapping[str, Any]:
    """The JSON object in ``path``.

    Raises:
        InputError: it can't be read, is too large, damaged or no object.
    """
    try:
        if path.stat().st_size > MAX_JSON:
            raise InputError(f"'{path}' is too large for an artifact in JSON", _ALL)
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise unreadable(path, error) from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"'{path}' is not valid JSON: {error}", "write it again; it may be cut off") from error
    if not isinstance(value, dict):
        raise InputError(f"'{path}' holds JSON but no object", _ALL)
    return value
