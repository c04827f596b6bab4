"""Graphs with FP8 in ONNX Runtime: how to tell one, and which of its optimisations leave it what it is.

ONNX Runtime 1.31 quantises to FP8 and back on the CPU, saturating as ONNX has it, but its optimisations mistake FP8
for an 8-bit integer: it takes the bits 0 for the lowest number and drops the ReLU in front of a QuantizeLinear (seen:
results with more error than signal), and it moves FP8 tensors through MaxPool and Flatten, which have no kernels for
them (seen: "invalid graph"). Without both its results are those of the graph as it was written.
"""

import mmap
from collections.abc import Iterator
from pathlib import Path

DISABLED = ("ReluQuantRewrite",)
"""Optimisations that are wrong for FP8, beside those that are for every graph."""

CONFIG = {"session.disable_quant_qdq": "1"}
"""Session entries that a graph with FP8 needs."""

_FP8 = frozenset(range(17, 21))
"""ONNX's codes of the four FP8 types."""

# Field numbers on the way to element types, by message: model, graph, node, attribute; and a tensor's data_type.
_INSIDE = {
    "model": {7: "graph"},
    "graph": {1: "node", 5: "tensor"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph"},
    "tensor": {},
}
_TYPE_FIELD = {"tensor": 2}

Bytes = bytes | mmap.mmap


def holds_fp8(path: Path) -> bool:
    """Whether constants of the ONNX file at ``path`` are FP8: a zero point or a weight, wherever it stands.

    The file is mapped and its fields are walked over, so that weights aren't read. A file that can't be walked
    has none: that it is damaged is for ONNX Runtime to say.
    """
    return holds(path, _FP8)


def holds(path: Path, types: frozenset[int]) -> bool:
    """Whether constants of the ONNX file at ``path`` are of one of ONNX's ``types``; as :func:`holds_fp8`."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _holds(data, 0, len(data), "model", types)
    except (OSError, ValueError, IndexError):
        return False


def _holds(data: Bytes, start: int, end: int, message: str, types: frozenset[int]) -> bool:
    inside, type_field = _INSIDE[message], _TYPE_FIELD.get(message)
    for field, value, stop in fields(data, start, end):
        if stop is None:
            if field == type_field:
                return value in types
        elif field in inside and _holds(data, value, stop, inside[field], types):
            return True
    return False


def fields(data: Bytes, start: int, end: int) -> Iterator[tuple[int, int, int | None]]:
    """A protobuf message's fields: (number, value, None) for a number, (number, start, end) for what has a length.

    Raises:
        ValueError: this isn't protobuf.
    """
    while start < end:
        tag, start = _varint(data, start)
        field, wire = tag >> 3, tag & 7
        if wire == 0:
            value, start = _varint(data, start)
            yield field, value, None
        elif wire == 2:
            size, start = _varint(data, start)
            if start + size > end:
                raise ValueError("cut short")
            yield field, start, start + size
            start += size
        elif wire in {1, 5}:
            start += 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire}")


def _varint(data: Bytes, start: int) -> tuple[int, int]:
    """A number and where it ends."""
    value = shift = 0
    while True:
        byte = data[start]
        start += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, start
        shift += 7
