"""The first bytes of a TensorRT or TensorRT-for-RTX plan, read without either library.

Both kinds share a layout: a tag, a serialisation number, the plan's size, the version of the library
that built it. Seen in plans of TensorRT for RTX 1.7, little-endian::

    0   4 bytes   tag: "vtrt" (RTX), "ftrt" (TensorRT)
    8   u64       serialisation number
    16  u64       size of the whole plan in bytes (RTX)
    24  4 bytes   version: major, minor, patch, build
    28  4 bytes   tag again (RTX)
    32  u32       compute capabilities, a bit each (RTX)

Of the ``ftrt`` header only the tag and the version are documented (``trtexec --getPlanVersionOnly``
prints the latter), so nothing else is judged there; a truncated TensorRT plan shows by its passport.
"""

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from engines.errors import EngineFormatError
from engines.files import read_start, unreadable

PlanKind = Literal["tensorrt", "tensorrt-rtx"]

HEADER_SIZE = 64
"""Bytes of the RTX header; as many as are read of any file."""

RTX_CAPABILITIES = ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")
"""What TensorRT for RTX 1.7 builds for; the position is the bit in a plan's mask."""

OLDEST_FP8 = "8.9"
"""The first compute capability whose tensor cores multiply FP8 (Ada; then 9.0, and all from 10.0 on)."""

AGAIN = "build or copy the engine again"
"""The remedy for a plan that is not whole; where there is a passport, its command follows."""

_TAGS: dict[bytes, PlanKind] = {b"ftrt": "tensorrt", b"vtrt": "tensorrt-rtx"}
_NAMES: dict[PlanKind, str] = {"tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT for RTX"}
_SMALLEST: dict[PlanKind, int] = {"tensorrt": 32, "tensorrt-rtx": HEADER_SIZE}

# What people give instead of a plan, by how it begins.
_OTHERS = (
    (b"PK\x03\x04", "a zip archive (a PyTorch checkpoint, perhaps)", "build the engine with `toolkit build-engine`"),
    (b"\x80\x02", "a Python pickle", "build the engine with `toolkit build-engine`"),
    (b"\x80\x04", "a Python pickle", "build the engine with `toolkit build-engine`"),
    (b"\x1f\x8b", "gzip-compressed", "decompress it first"),
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself", "fetch the file with `git lfs pull`"),
    (b"<", "HTML or XML (a download's error page, perhaps)", "download or build the engine again"),
    (b"{", "JSON (the passport, perhaps)", "give the engine beside it"),
)


@dataclass(frozen=True)
class PlanHeader:
    """What a plan says of itself.

    Attributes:
        kind: the library that reads it, a key in the table of backends.
        version: of the library that built it: major, minor, patch, build.
        serialisation: number of the plan format; a library reads its own number only.
        size: bytes that the plan should have; None where the header isn't known to tell.
        compute_capabilities: ("8.0", "8.6", ...) that an RTX plan claims to cover; None for TensorRT.
            A claim: an FP8 engine was seen to list 8.0 and 8.6, which have no FP8.
        file_size: bytes that the file has.
    """

    kind: PlanKind
    version: tuple[int, ...]
    serialisation: int
    size: int | None
    compute_capabilities: tuple[str, ...] | None
    file_size: int

    @property
    def library(self) -> str:
        """The builder's name and version, for people: "TensorRT for RTX 1.7.1.116"."""
        return f"{_NAMES[self.kind]} {self.version_text}"

    @property
    def version_text(self) -> str:
        """The version as "1.7.1.116"."""
        return ".".join(map(str, self.version))

    def to_json(self) -> dict[str, Any]:
        capabilities = self.compute_capabilities
        return {
            "kind": self.kind,
            "version": self.version_text,
            "serialisation": self.serialisation,
            "size": self.size,
            "compute_capabilities": None if capabilities is None else list(capabilities),
            "file_size": self.file_size,
        }


def runs_fp8(capability: str) -> bool:
    """Whether GPUs of a compute capability ("8.9") multiply FP8."""
    return capability_number(capability) >= capability_number(OLDEST_FP8)


def capability_number(capability: str) -> tuple[int, ...]:
    """A compute capability as numbers that can be compared: (8, 9) of "8.9"."""
    return tuple(int(part) for part in capability.split(".") if part.isdigit())


def plan_kind(start: bytes) -> PlanKind | None:
    """The kind of plan that begins with ``start`` (4 bytes suffice); None when it is none."""
    return _TAGS.get(bytes(start[:4]))


def read_header(path: Path) -> PlanHeader:
    """Read a plan's header, and check that the file is a whole plan.

    Raises:
        InputError: the file doesn't exist or can't be read.
        EngineFormatError: it is a folder, empty, truncated, or not a plan.
    """
    path = Path(path)
    try:
        if path.is_dir():
            raise EngineFormatError(f"'{path}' is a folder, not an engine", "give the path of the engine file")
        start = read_start(path, HEADER_SIZE)
        file_size = path.stat().st_size
    except OSError as error:
        raise unreadable(path, error) from error
    return parse_header(start, file_size, name=f"'{path}'")


def parse_header(start: bytes, file_size: int, *, name: str = "the engine") -> PlanHeader:
    """Parse the first 64 bytes of a plan of ``file_size`` bytes.

    Args:
        start: the plan's beginning, 64 bytes of it or all.
        file_size: bytes of the whole plan.
        name: what errors call it.

    Raises:
        EngineFormatError: it is empty, truncated, or not a plan.
    """
    if file_size == 0:
        raise EngineFormatError(f"{name} is empty", AGAIN)
    kind = plan_kind(start)
    if kind is None:
        raise EngineFormatError(*_not_a_plan(start, name))
    if len(start) < _SMALLEST[kind]:
        raise EngineFormatError(f"{name} is truncated: {file_size} bytes, less than a plan's header", AGAIN)
    (serialisation,) = struct.unpack_from("<Q", start, 8)
    version = tuple(start[24:28])
    if kind == "tensorrt":
        return PlanHeader(kind, version, serialisation, None, None, file_size)
    size, mask = struct.unpack_from("<Q8xQ", start, 16)
    if start[28:32] != b"vtrt" or version[0] == 0:
        raise EngineFormatError(f"{name} begins like a TensorRT for RTX plan but its header is damaged", AGAIN)
    if size != file_size:
        state = "truncated" if file_size < size else "longer than it should be"
        raise EngineFormatError(f"{name} is {state}: {file_size} bytes, its header says {size}", AGAIN)
    capabilities = tuple(name for bit, name in enumerate(RTX_CAPABILITIES) if mask >> bit & 1)
    return PlanHeader(kind, version, serialisation, size, capabilities, file_size)


def _not_a_plan(start: bytes, name: str) -> tuple[str, str]:
    # Some exporters put a length and JSON metadata before the plan.
    if len(start) > 4 and start[4:5] == b"{":
        return (
            f"{name} has a block of JSON before the plan, as some exporters write it; it is not a plain plan",
            "export it as a plain plan, or build one with `toolkit build-engine`",
        )
    # An ONNX ModelProto begins with field 1, ir_version, a varint: 0x08 and a small number.
    if len(start) > 2 and start[0] == 0x08 and 1 <= start[1] <= 32 and start[2] in {0x12, 0x3A, 0x42, 0x72}:
        return (
            f"{name} is an ONNX graph, not a TensorRT plan",
            "name it .onnx to run it with ONNX Runtime, or build an engine from it with `toolkit build-engine`",
        )
    for magic, what, remedy in _OTHERS:
        if start.startswith(magic):
            return f"{name} is not an engine: it looks like {what}", remedy
    return (
        f"{name} is not a TensorRT plan: it begins with {start[:4].hex(' ')}, not 'ftrt' or 'vtrt'",
        "give an engine built by `toolkit build-engine`, trtexec or tensorrt_rtx",
    )
