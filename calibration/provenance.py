"""Which images a calibration saw, so that an evaluation on the same ones, or on classes that it never saw, is told.

An image is known by a digest of its pixels as the network gets them, before normalisation: uint8, decoded and
resized. The same picture in another file or format is the same image; one pixel's difference makes another.
"""

import base64
import binascii
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration.table import CalibrationTable

SHORT = 8
"""Bytes of a digest that are kept of each image: among a million images two have the same with chance 3e-8."""


def fingerprint(*values: NDArray[Any]) -> str:
    """The digest of one sample: 64 hexadecimal digits.

    Args:
        values: an image, uint8 [height, width, channels]; or one array an input, in their order; contiguous or not.
    """
    digest = hashlib.sha256()
    for array in values:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def data_digest(fingerprints: Iterable[str]) -> str:
    """``sha256:<hex>`` of images in their order, whatever the size of the batches they came in."""
    return f"sha256:{hashlib.sha256(''.join(fingerprints).encode()).hexdigest()}"


def pack(fingerprints: Iterable[str]) -> str:
    """The first :data:`SHORT` bytes of each fingerprint, as one line of base64."""
    return base64.b64encode(b"".join(bytes.fromhex(item)[:SHORT] for item in fingerprints)).decode()


def unpack(text: str) -> frozenset[str]:
    """The fingerprints in what :func:`pack` made, shortened to :data:`SHORT` bytes; none in damaged text."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return frozenset()
    return frozenset(data[start : start + SHORT].hex() for start in range(0, len(data) - SHORT + 1, SHORT))


@dataclass(frozen=True)
class Provenance:
    """What a quantised graph or engine tells of its calibration.

    Attributes:
        data: the data set's name; None where it isn't known.
        images: how many were seen.
        method: how ranges were chosen.
        unseen: classes of the data set that no image of the calibration had.
        seen: the images' short fingerprints (:func:`unpack`).
    """

    data: str | None
    images: int
    method: str
    unseen: tuple[str, ...] = ()
    seen: frozenset[str] = frozenset()

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> "Provenance":
        """Read what :func:`record_of` made; what is damaged or missing in it is taken as unknown."""
        data, unseen = record.get("data"), record.get("unseen_classes")
        return cls(
            str(data) if data else None,
            int(record.get("images") or 0),
            str(record.get("method", "")),
            tuple(map(str, unseen)) if isinstance(unseen, Sequence) and not isinstance(unseen, str) else (),
            unpack(str(record.get("seen", ""))),
        )

    def repeated(self, pixels: NDArray[np.uint8]) -> int:
        """How many images of a batch the calibration saw.

        Args:
            pixels: uint8 [N, height, width, channels].
        """
        return sum(fingerprint(image)[: 2 * SHORT] in self.seen for image in pixels) if self.seen else 0


def record_of(table: CalibrationTable) -> dict[str, Any]:
    """What a passport keeps of the table that an engine was made from."""
    return {
        "data": table.facts.get("data"),
        "images": table.images,
        "method": table.method,
        "unseen_classes": list(table.facts.get("unseen_classes", ())),
        "seen": table.seen,
    }


def overlap_note(repeated: int, images: int) -> str | None:
    """A line of warning for an evaluation on ``images`` images of which ``repeated`` were calibrated on."""
    if not repeated:
        return None
    return f"{repeated} of the {images} evaluated images were calibrated on: its accuracy may be flattered"


def unseen_note(unseen: Sequence[str]) -> str | None:
    """A line of warning for classes that the calibration never saw."""
    if not unseen:
        return None
    more = f" and {len(unseen) - 8} more" if len(unseen) > 8 else ""
    return f"calibrated without any image of {', '.join(repr(name) for name in unseen[:8])}{more}"
