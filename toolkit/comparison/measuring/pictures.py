"""Small pictures of the images that artifacts disagree on, for a report that is one file."""

import base64
import io
from collections.abc import Iterable
from itertools import zip_longest
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from engines.errors import MissingLibraryError
from engines.optional import require
from engines.preprocess import Preprocess
from toolkit.comparison.accuracy.accuracy import Accuracy
from toolkit.data import Split

if TYPE_CHECKING:
    from PIL.Image import Image

SIDE = 112
"""The longer side of a picture, in pixels; smaller images stay as they are."""

MOST = 48
"""Pictures in one comparison."""

_LARGE = 8192
"""Bytes of a PNG beyond which a JPEG is taken: photographs, which it makes a fifth of the size."""


def pictures_of(accuracies: Iterable[Accuracy], split: Split, preprocess: Preprocess) -> dict[int, str]:
    """What the model saw of the worst disagreements.

    The images are decoded again: that takes less than keeping those of every candidate through an evaluation.

    Args:
        accuracies: whose disagreements; each one's worst come first where there are more than :data:`MOST`.
        split: the images.
        preprocess: the reference's, so that the picture shows what is cut off.

    Returns:
        Image index to a ``data:`` URL of a PNG or JPEG; empty without Pillow.

    Raises:
        DataError: an image can't be decoded.
    """
    ranked = zip_longest(*([one.image for one in accuracy.disagreements] for accuracy in accuracies))
    wanted = dict.fromkeys(image for rank in ranked for image in rank if image is not None)
    try:
        return {image: data_url(preprocess.pixels(split.image(image))) for image in list(wanted)[:MOST]}
    except MissingLibraryError:
        return {}


def data_url(pixels: NDArray[np.uint8]) -> str:
    """A picture of at most :data:`SIDE` pixels a side, as a ``data:`` URL.

    Args:
        pixels: uint8 [height, width, 1 or 3].

    Raises:
        MissingLibraryError: Pillow is not installed.
    """
    module = require("PIL.Image", "Pictures in reports", "data")
    image = module.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    image.thumbnail((SIDE, SIDE), module.Resampling.LANCZOS)
    encoded, kind = _encode(image, "png", optimize=True), "png"
    if len(encoded) > _LARGE:
        encoded, kind = _encode(image, "jpeg", quality=88), "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(encoded).decode()}"


def _encode(image: "Image", kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()
