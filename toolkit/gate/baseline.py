"""What an artifact answered, kept in a file: the old one of an upgrade often can't run any more afterwards.

A plain NumPy archive, uncompressed: ``logits`` float32 [images, classes]; ``digests`` uint8 [batches, 32], the
SHA-256 of all pictures and labels up to each batch's end; ``about`` uint8, everything else as JSON. It is written
and read batch by batch, whatever its size.
"""

import contextlib
import json
import math
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np
from numpy.typing import NDArray

from engines.errors import DataError, EngineFormatError, InputError, ToolkitError
from engines.files import require_file, unreadable
from toolkit.data import Dataset
from toolkit.gate.about import FORMAT, VERSION, About, labels_digest
from toolkit.gate.asking import BATCH, Logits
from toolkit.gate.distance import Distance

SUFFIX = ".npz"

MAX_ABOUT = 64 << 20
"""Bytes of JSON: raw times of every run are in it."""

MAX_IMAGES, MAX_CLASSES = 1 << 28, 1 << 20

_AGAIN = "write it again where the old artifact runs: toolkit diff OLD --data DATA --baseline FILE"
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    ValueError,
    KeyError,
    TypeError,
    struct.error,
    RuntimeError,  # an encrypted archive
)


def digest_of_artifact(path: Path) -> str | None:
    """Of what artifact the baseline at ``path`` is; EngineFormatError when it is none."""
    with Baseline(path) as baseline:
        return baseline.about.row.digest


class Baseline:
    """A baseline being read: it answers as the artifact did, as long as it is asked the same pictures in order.

    Raises:
        InputError: the file can't be read.
        EngineFormatError: it is no baseline, is damaged, or a newer version's.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        require_file(self.path)
        self._stack = contextlib.ExitStack()
        self._logits: IO[bytes] | None = None
        self._batch = self._given = 0
        try:
            with self._reading():
                self._archive = self._stack.enter_context(zipfile.ZipFile(self.path))
                missing = {"about.npy", "logits.npy", "digests.npy"} - set(self._archive.namelist())
                if missing:
                    raise EngineFormatError(f"'{self.path}' is an archive but no baseline", _AGAIN)
                if any(one.compress_type != zipfile.ZIP_STORED for one in self._archive.infolist()):
                    raise ValueError("it is compressed")  # and might unfold to any size
                self.about = About.from_json(self._about())
                if not 0 < self.images <= MAX_IMAGES:
                    raise ValueError(f"it is of {self.images} pictures")
                self._digests = self._array("digests.npy", (math.ceil(self.images / BATCH), 32))
                self._check_logits()
        except BaseException:
            self.close()
            raise
        self.name, self.metadata = self.about.row.name, self.about.metadata

    @property
    def images(self) -> int:
        """How many pictures it has answers to."""
        return self.about.data.images

    def check(self, dataset: Dataset) -> None:
        """Refuse other data before anything is decoded.

        Raises:
            DataError: the labels of its test split are others.
        """
        if labels_digest(dataset) != self.about.labels:
            raise DataError(
                f"'{self.path}' was answered on other data than '{dataset.name}': its classes or labels differ",
                f"give the data that it was written with: {self.about.command}",
            )

    def answers(self, pixels: NDArray[np.uint8], digest: str) -> Logits:
        """The kept logits of the next pictures, float32 [N, classes].

        Raises:
            DataError: they aren't the pictures that were answered.
            EngineFormatError: the file is damaged.
        """
        count, first = len(pixels), self._given
        if (
            self._batch >= len(self._digests)
            or self._digests[self._batch].tobytes().hex() != digest[len("sha256:") :]
        ):
            raise DataError(
                f"'{self.path}' was answered on other pictures: they differ between the {first + 1}. and the "
                f"{first + count}.",
                "give the data that it was written with, decoded by the same version of Pillow; or write it again",
            )
        with self._reading():
            if self._logits is None:
                self._logits = self._stack.enter_context(self._archive.open("logits.npy"))
                _read_header(self._logits)
            size = 4 * count * len(self.metadata.labels)
            data = self._logits.read(size)
            if len(data) < size:
                raise EOFError("its logits are cut off")
            self._batch, self._given = self._batch + 1, first + count
            if self._given == self.images and self._logits.read(1):  # the end is where the checksum is compared
                raise ValueError("its logits are too long")
        return np.frombuffer(data, "<f4").reshape(count, -1).astype(np.float32)

    def floor(self, pixels: NDArray[np.uint8], answers: Logits, seed: tuple[int, ...]) -> None:
        """It was measured when the file was written."""

    def measured(self) -> Distance:
        """The floor that was measured then."""
        return self.about.floor

    def close(self) -> None:
        """Close the file; safe to call twice."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        """Say that the file is damaged when it turns out to be."""
        try:
            yield
        except EngineFormatError:
            raise
        except (*_DAMAGE, ToolkitError, AttributeError, OverflowError) as error:
            reason = error.cause if isinstance(error, ToolkitError) else f"{error}"
            raise EngineFormatError(
                f"'{self.path}' is no baseline, or a damaged one: {reason or type(error).__name__}", _AGAIN
            ) from error
        except OSError as error:
            raise unreadable(self.path, error) from error

    def _about(self) -> Mapping[str, Any]:
        size = self._archive.getinfo("about.npy").file_size
        if size > MAX_ABOUT:
            raise ValueError(f"its facts have {size} bytes")
        value = json.loads(self._array("about.npy").tobytes())
        if not isinstance(value, dict) or value.get("format") != FORMAT:
            raise EngineFormatError(f"'{self.path}' is an archive but no baseline", _AGAIN)
        if int(value["version"]) > VERSION:
            raise EngineFormatError(
                f"'{self.path}' has format version {value['version']}; this toolkit reads {VERSION}",
                "upgrade onnx-tensorrt-toolkit",
            )
        return value

    def _array(self, name: str, shape: tuple[int, ...] | None = None) -> NDArray[np.uint8]:
        """A small array of bytes, whole."""
        size = self._archive.getinfo(name).file_size
        with self._archive.open(name) as member:
            found, kind = _read_header(member)  # which may promise anything: the member's size is what counts
            room = size - member.tell()
            if kind != np.uint8 or math.prod(found) != room or (shape is not None and found != shape):
                raise ValueError(f"'{name}' is {kind} {list(found)} in {size} bytes")
            return np.frombuffer(member.read(room), np.uint8).reshape(found)

    def _check_logits(self) -> None:
        with self._archive.open("logits.npy") as member:
            shape, kind = _read_header(member)
            start = member.tell()
        wanted = (self.images, len(self.about.metadata.labels))
        if not 0 < wanted[1] <= MAX_CLASSES:
            raise ValueError(f"it is of {wanted[1]} classes")
        size = self._archive.getinfo("logits.npy").file_size
        if shape != wanted or kind != np.dtype("<f4") or size != start + 4 * math.prod(wanted):
            raise ValueError(f"its logits are {kind} {list(shape)} in {size} bytes, not float32 {list(wanted)}")


def _read_header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError("its logits are of another version of NumPy's format")
    shape, fortran, kind = np.lib.format.read_array_header_1_0(file)
    if fortran:
        raise ValueError("its logits are in Fortran order")
    return tuple(shape), kind


def is_baseline(path: Path | str) -> bool:
    """Whether a path is taken for a baseline: by its suffix, which no artifact has."""
    return Path(path).suffix.lower() == SUFFIX


def require_artifact(path: Path | str, role: str) -> None:
    """Refuse a baseline where an artifact is needed.

    Raises:
        InputError: it is one.
    """
    if is_baseline(path):
        raise InputError(f"{role} '{path}' is a baseline, which doesn't run", "give a checkpoint, graph or engine")
