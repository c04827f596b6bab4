"""Inputs and outputs read out of a TensorRT for RTX plan, on any machine: for a plan without its passport.

A plan holds an archive of tagged fields, each a tag and a version, and in it a record for every input and output of
every optimisation profile ("input", "input [profile 1]"), whose sizes are those of its profile where that has only
one. Seen in plans of TensorRT for RTX 1.7, little-endian::

    13 80 01 00  u64 length   01 80 0C 80 01 00  u64 length  name
    1C 80 01 00  03 80 01 00  u8
    0D 80 01 00  07 80 01 00  i32 element type, as the library's DataType counts
    ...
    59 80 01 00  07 80 01 00  i32 dimensions   01 80 09 80 01 00  u64 count  i64 sizes (varying ones below 0)  A6 7F
    15 80 01 00  07 80 01 00  i32
    28 80 01 00  07 80 01 00  i32 0 for an input, 1 for an output

How far this can be trusted: the format isn't documented. A test compares what is read with what the builder says of
plans of every element type; where the layout is another, nothing is found, and nothing is claimed. It is for people
to read: what runs a plan asks the library for its tensors.
"""

import mmap
import re
import struct
from collections.abc import Iterator
from pathlib import Path

from engines.files import require_file, unreadable
from engines.plan_dtypes import PLAN_DTYPES, UNFED_DTYPES
from engines.tensors import TensorSpec

_SEARCHED = 16 << 20
"""The records stand before the weights, among the first kilobytes; more than this isn't read."""

_LONGEST = 4096
"""Bytes of a name; what claims more isn't one."""

_MOST_DIMS = 8
"""As many as the library's Dims has."""

# DataType in the order of its values, 0 first.
_TYPES = ("FLOAT", "HALF", "INT8", "INT32", "BOOL", "UINT8", "FP8", "BF16", "INT64")
_INT = rb"\x07\x80\x01\x00(.{4})"
_NAME = re.compile(rb"\x13\x80\x01\x00.{8}\x01\x80\x0c\x80\x01\x00(.{8})", re.DOTALL)
_TYPE = re.compile(rb"\x1c\x80\x01\x00\x03\x80\x01\x00.\x0d\x80\x01\x00" + _INT, re.DOTALL)
_SHAPE = re.compile(rb"\x59\x80\x01\x00" + _INT + rb"\x01\x80\x09\x80\x01\x00(.{8})", re.DOTALL)
_MODE = re.compile(rb"\xa6\x7f\x15\x80\x01\x00\x07\x80\x01\x00.{4}\x28\x80\x01\x00" + _INT, re.DOTALL)
_MODES = {struct.pack("<i", 0): False, struct.pack("<i", 1): True}
_PROFILE = re.compile(r" \[profile \d+\]$")
_BETWEEN = 256
"""Bytes between a tensor's element type and its shape are fewer."""


def read_plan_tensors(path: Path) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """The inputs and the outputs of the plan at ``path``, each sorted by name; empty where they can't be read.

    A size that all profiles fix to the same number is that number, where the library says that it varies.

    Raises:
        InputError: the file can't be read.
    """
    require_file(path)
    try:
        with Path(path).open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as plan:
            data = plan[:_SEARCHED]
    except OSError as error:
        raise unreadable(path, error) from error
    except ValueError:  # an empty file can't be mapped
        return (), ()
    found: dict[tuple[str, str, bool], list[tuple[int, ...]]] = {}
    for name, kind, is_output, sizes in _records(data):
        found.setdefault((_PROFILE.sub("", name), kind, is_output), []).append(sizes)
    inputs, outputs = (
        tuple(_spec(name, kind, shapes) for (name, kind, mode), shapes in sorted(found.items()) if mode is is_output)
        for is_output in (False, True)
    )
    return (inputs, outputs) if inputs and outputs else ((), ())


def _spec(name: str, kind: str, shapes: list[tuple[int, ...]]) -> TensorSpec:
    """A tensor of which each profile has one shape; as a session says it, only the first dimension is the batch."""
    sizes = (set(column) for column in zip(*shapes, strict=False))
    dims = (
        ("batch" if axis == 0 else f"{name}.{axis}") if len(seen) > 1 or min(seen) < 0 else min(seen)
        for axis, seen in enumerate(sizes)
    )
    return TensorSpec(name, kind, tuple(dims))


def _records(data: bytes) -> Iterator[tuple[str, str, bool, tuple[int, ...]]]:
    """Each record's name, element type, whether it is an output, and sizes."""
    for match in _NAME.finditer(data):
        (length,) = struct.unpack("<Q", match.group(1))
        start = match.end()
        if not 0 < length <= _LONGEST:
            continue
        kind = _TYPE.match(data, start + length)
        shape = _SHAPE.search(data, kind.end(), kind.end() + _BETWEEN) if kind else None
        if kind is None or shape is None:
            continue
        dims, count = struct.unpack("<i", shape.group(1))[0], struct.unpack("<Q", shape.group(2))[0]
        (number,), end = struct.unpack("<i", kind.group(1)), shape.end() + 8 * count
        mode = _MODE.match(data, end) if dims == count <= _MOST_DIMS else None
        names = PLAN_DTYPES | UNFED_DTYPES
        if mode is None or not 0 <= number < len(_TYPES) or mode.group(1) not in _MODES:
            continue
        try:
            name = data[start : start + length].decode()
        except UnicodeDecodeError:
            continue
        sizes = struct.unpack(f"<{count}q", data[shape.end() : end])
        yield name, names[_TYPES[number]], _MODES[mode.group(1)], sizes
