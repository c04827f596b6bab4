"""Calibration caches of TensorRT 8 to 10, which ModelOpt, DLA builds and others read too.

The first line names version and calibrator, ``TRT-101300-EntropyCalibration2`` for 10.13.0; each further line is
``name: hhhhhhhh`` with the big-endian bytes of the float32 scale ``amax / 127``.
"""

import struct
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from calibration.ranges import Group, Ranges
from calibration.table import CalibrationTable, TensorRange
from engines.errors import TableError
from engines.files import read_text

if TYPE_CHECKING:
    import onnx

_CUTS = {"Relu", "Clip"}
"""Operators that cut their input off at bounds: rounding what goes in is the same as rounding what comes out."""
_CALIBRATORS = {"minmax": "MinMaxCalibration"}
_METHODS = {"MinMaxCalibration": "minmax", "EntropyCalibration2": "entropy", "EntropyCalibration": "entropy"}


def to_tensorrt_cache(
    table: CalibrationTable, *, version: str = "10.13.0", groups: Mapping[str, Group] | None = None
) -> str:
    """The table as a calibration cache.

    Args:
        table: the ranges.
        version: of the TensorRT that will read it, "major.minor.patch".
        groups: the tensors that share each range, as :func:`cache_groups` tells of the graph.
            TensorRT wants a line for every one: where one is missing, it leaves the layers around in float.

    Raises:
        TableError: ``version`` is none, a name holds a line break, or the table can't be said in a cache: its ranges
            are of FP8, or of tensors that are equalised first.
    """
    parts = version.split(".")
    if len(parts) != 3 or not all(part.isdecimal() for part in parts):
        raise TableError(f"'{version}' is no version of TensorRT", "give one like 10.13.0")
    if table.precision != "int8":
        raise TableError(f"a calibration cache can't hold ranges of {table.precision}", "calibrate for INT8")
    if table.equalisation:
        first = next(iter(table.equalisation))
        more = f" (and {len(table.equalisation) - 1} more)" if len(table.equalisation) > 1 else ""
        raise TableError(
            f"a calibration cache can't tell that tensor '{first}'{more} is equalised before it is quantised",
            "calibrate with --no-equalise, or build from the table",
        )
    major, minor, patch = map(int, parts)
    number = f"{major}{minor:02d}{patch:02d}" if major >= 10 else f"{major}{minor}{patch:02d}"
    lines = [f"TRT-{number}-{_CALIBRATORS.get(table.method, 'EntropyCalibration2')}"]
    for name, found in table.ranges.items():
        for tensor in groups[name].members if groups and name in groups else (name,):
            if "\n" in tensor or "\r" in tensor:
                raise TableError(f"tensor name {tensor!r} holds a line break", "rename the tensor")
            lines.append(f"{tensor}: {struct.pack('>f', found.amax / 127).hex()}")
    return "\n".join(lines) + "\n"


def cache_groups(model: "onnx.ModelProto") -> dict[str, Group]:
    """The tensors that share each range of a graph, with those that only a cache has to name.

    A DLA, and TensorRT where it doesn't fuse, computes a convolution and the ReLU after it one by one and wants a
    scale between them. That of the ReLU's result loses nothing: what lies beyond it is cut off one step later.
    """
    ranges = Ranges(model)
    groups = ranges.wanted()
    named = {member for group in groups.values() for member in group.members}
    wider = {}
    for name, group in groups.items():
        tensor, members = name, group.members
        while (node := ranges.producers.get(tensor)) is not None and node.op_type in _CUTS:
            tensor = node.input[0]
            alone = len(ranges.consumers.get(tensor, [])) == 1 and not ranges.is_output(tensor)
            if tensor in named or not alone or not ranges.is_activation(tensor):
                break
            members = (*members, tensor)
        wider[name] = replace(group, members=members)
    return wider


def from_tensorrt_cache(text: str, *, weights: str = "", name: str = "the cache") -> CalibrationTable:
    """A table of the ranges in a calibration cache.

    A cache doesn't tell what was seen below zero: each range is taken as symmetric.

    Args:
        text: the cache.
        weights: the digest of the weights of the graph that it belongs to, which it doesn't tell.
        name: what errors call it.

    Raises:
        TableError: it is no calibration cache, or a line is damaged.
    """
    lines = text.splitlines()
    head = lines[0].split("-", maxsplit=2) if lines else []
    if len(head) != 3 or head[0] != "TRT" or not head[1].isdecimal():
        raise TableError(f"{name} is no TensorRT calibration cache", "its first line must be like TRT-101300-…")
    ranges: dict[str, TensorRange] = {}
    for number, line in enumerate(lines[1:], start=2):
        if not line.strip():
            continue
        tensor, separator, value = line.rpartition(": ")
        try:
            if not separator or len(value) != 8:
                raise ValueError
            amax = struct.unpack(">f", bytes.fromhex(value))[0] * 127
        except ValueError as error:
            raise TableError(
                f"line {number} of {name} is damaged: '{line[:60]}'", "export the cache again"
            ) from error
        if not 0 <= amax < float("inf"):
            raise TableError(f"line {number} of {name} gives '{tensor}' the range {amax}", "calibrate again")
        ranges[tensor] = TensorRange(amax, -amax, amax, tensor)
    method = _METHODS.get(head[2], head[2])
    return CalibrationTable(ranges, method, weights, facts={"source": f"TensorRT calibration cache {lines[0]}"})


def read_tensorrt_cache(path: Path | str, *, weights: str = "") -> CalibrationTable:
    """:func:`from_tensorrt_cache` of a file.

    Raises:
        InputError: it can't be read.
        TableError: it is no calibration cache.
    """
    path = Path(path)
    try:
        text = read_text(path)
    except UnicodeDecodeError as error:
        raise TableError(f"'{path}' is no TensorRT calibration cache", "give the text file") from error
    return from_tensorrt_cache(text, weights=weights, name=f"'{path}'")
