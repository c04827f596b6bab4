"""Writing a baseline, batch by batch; :mod:`toolkit.gate.baseline` says what is in it, and reads it."""

import contextlib
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np

from engines.files import atomic_file
from toolkit.gate.about import About
from toolkit.gate.asking import Logits


class Writer:
    """Writes a baseline batch by batch; made by :func:`writing`."""

    def __init__(self, archive: zipfile.ZipFile, images: int) -> None:
        self._archive, self._images = archive, images
        self._member: IO[bytes] | None = None
        self._digests: list[bytes] = []

    def keep(self, logits: Logits, digest: str) -> None:
        """The next batch, float32 [N, classes], and the digest of the pictures up to its end."""
        if self._member is None:
            self._member = self._archive.open("logits.npy", "w", force_zip64=True)
            _write_header(self._member, "<f4", (self._images, logits.shape[1]))
        self._member.write(np.ascontiguousarray(logits, "<f4").tobytes())
        self._digests.append(bytes.fromhex(digest.removeprefix("sha256:")))

    def conclude(self, about: About) -> None:
        """Write the rest."""
        self.close()
        text = json.dumps(about.to_json(), ensure_ascii=False, allow_nan=False).encode()
        for name, array in (
            ("digests.npy", np.frombuffer(b"".join(self._digests), np.uint8).reshape(-1, 32)),
            ("about.npy", np.frombuffer(text, np.uint8)),
        ):
            with self._archive.open(name, "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)

    def close(self) -> None:
        """End the logits; safe to call twice."""
        if self._member is not None and not self._member.closed:
            self._member.close()


@contextlib.contextmanager
def writing(path: Path, images: int) -> Iterator[Writer]:
    """A baseline of so many pictures at ``path``, whole or not at all.

    Raises:
        InputError: it can't be written.
    """
    with atomic_file(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        writer = Writer(archive, images)
        try:
            yield writer
        finally:
            writer.close()  # an archive with an open member can't be closed, not even to throw it away


def _write_header(file: IO[bytes], descr: str, shape: tuple[int, ...]) -> None:
    np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})
