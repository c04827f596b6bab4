"""Any picture as upright pixels of 8 bits: in grey or in colour, opaque, its first frame.

What decides is the file's format, never the picture's own values, so that equal values stay equal from one picture
to the next:

- 16 bits become 8 by their high byte. A scan of 12 bits in 16-bit values is nearly black then; rescale such data
  before. A TIFF that says that it holds 12 bits is taken at these.
- 32-bit integers and floating-point values have no scale, and are refused.
- Transparency is laid on white.
- CMYK becomes RGB by (255 - ink) (255 - black) / 255. A JPEG holds its inks inverted where Adobe's marker says so.
- EXIF orientation is obeyed. Colour profiles (ICC) and gamma are not, as in torchvision, so that a picture is seen as
  the published weights saw theirs.
- Of an animation or a file of several pages, the first.
"""

import io
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from engines.errors import DataError
from engines.optional import require

if TYPE_CHECKING:
    from PIL.Image import Image

ImageLike: TypeAlias = "str | os.PathLike[str] | bytes | NDArray[np.uint8] | Image"

MAX_PIXELS = 178_956_970
"""The largest picture that is decoded (width times height): Pillow's own limit for a decompression bomb."""

MAX_BYTES = 512 << 20
"""The largest encoded picture that is read: what :data:`MAX_PIXELS` take in 8-bit RGB without any compression."""

_PROGRAMS = frozenset({"EPS", "WMF"})
"""Formats that aren't decoded but run, by Ghostscript or the operating system."""

_REMEDY = "replace or remove the file"


class NamedBytes(bytes):
    """An encoded picture that knows where it comes from, for the error that names it."""

    name: str

    def __new__(cls, data: bytes, name: str) -> "NamedBytes":
        """The bytes ``data``, called ``name``."""
        self = super().__new__(cls, data)
        self.name = name
        return self


def open_image(image: ImageLike) -> "Image":
    """Open any image as a decoded, upright PIL image of mode "1", "L", "P", "RGB", "CMYK" or another of 8 bits.

    What is too large is refused by its size and its header, before it is decoded.

    Raises:
        DataError: it is damaged, larger than :data:`MAX_PIXELS` or :data:`MAX_BYTES`, of values without a scale, or
            no image at all; or Pillow was told to show what it can of truncated files.
    """
    if isinstance(image, np.ndarray):
        return _from_array(image)
    module = require("PIL.Image", "Decoding images", "data")
    if isinstance(image, module.Image):
        return _decode(image, "the image")
    if not isinstance(image, str | bytes | os.PathLike):
        raise DataError(
            f"a {type(image).__name__} is not an image", "give a path, encoded bytes, a PIL image or a uint8 array"
        )
    if isinstance(image, bytes):
        name = image.name if isinstance(image, NamedBytes) else "the image"
    else:
        name = f"'{os.fspath(image)}'"
    try:
        size = len(image) if isinstance(image, bytes) else _file_size(Path(image), name)
        if size > MAX_BYTES:
            raise DataError(f"{name} is too large: {size >> 20} MiB", f"give pictures of up to {MAX_BYTES >> 20} MiB")
        with module.open(io.BytesIO(image) if isinstance(image, bytes) else Path(image)) as pil:
            return _decode(pil, name)
    except module.UnidentifiedImageError as error:
        raise _unknown(image, name) from error
    except (OSError, ValueError, SyntaxError, Warning, module.DecompressionBombError) as error:
        raise _damaged(name, error) from error


def _file_size(path: Path, name: str) -> int:
    """In bytes; raises DataError for a pipe, which would be waited for, and for a device, which has no end."""
    facts = path.stat()
    if not stat.S_ISREG(facts.st_mode) and not stat.S_ISDIR(facts.st_mode):
        raise DataError(f"can't read {name} as an image: it is a pipe or a device", "give the path of a file")
    return facts.st_size


def _decode(pil: "Image", name: str) -> "Image":
    """The picture's first frame, decoded, upright, of 8 bits, opaque, and independent of the file.

    Pillow's warnings are left alone: suppressing them changes the filters of the whole process, which
    goes wrong when several threads decode.
    """
    if pil.width * pil.height > MAX_PIXELS:
        raise DataError(f"{name} is too large: {pil.width}x{pil.height} pixels", "shrink it before")
    if pil.format in _PROGRAMS:
        raise DataError(f"{name} is a drawing ({pil.format}) that has to be run", "convert it to PNG")
    if require("PIL.ImageFile", "Decoding images", "data").LOAD_TRUNCATED_IMAGES:
        raise DataError(
            "PIL.ImageFile.LOAD_TRUNCATED_IMAGES is set in this process, so a truncated picture would be half grey",
            "set it to False",
        )
    ops = require("PIL.ImageOps", "Decoding images", "data")
    try:
        pil.load()
        upright: Image = ops.exif_transpose(pil)
    except Exception as error:  # decoders raise what they like on damaged data: struct.error, EOFError, ...
        raise _damaged(name, error) from error
    if 0 in upright.size:
        raise DataError(f"{name} is empty: {pil.width}x{pil.height} pixels", _REMEDY)
    if pil.mode == "CMYK" and pil.format in {"JPEG", "MPO"} and "adobe" not in pil.info:
        # Pillow takes every JPEG for Adobe's, which hold their inks inverted, also one without Adobe's marker.
        upright = _from_bytes("CMYK", ~np.asarray(upright))
    if upright.mode == "F" or upright.mode.startswith("I"):
        return _from_array(_eight_bits(pil, np.asarray(upright), name))
    return _opaque(upright)


def _eight_bits(pil: "Image", values: NDArray[Any], name: str) -> NDArray[np.uint8]:
    """The grey levels of a file that holds more than 8 bits of them: uint8 [H, W]."""
    tags = getattr(pil, "tag_v2", {})  # of a TIFF
    if pil.mode == "F" or (pil.mode == "I" and pil.format not in {"PNG", "PPM"}):
        kind = "floating-point values" if pil.mode == "F" else "32-bit or signed integers"
        raise DataError(
            f"{name} is a picture of {kind}, which have no scale to display them in", "convert it to 8 or 16 bits"
        )
    bits = 12 if tuple(tags.get(258, ())) == (12,) else 16
    grey = (values.astype(np.uint32) >> (bits - 8)).clip(0, 255).astype(np.uint8)
    if tags.get(262) == 0:  # white is zero
        grey = ~grey
    key = pil.info.get("transparency")
    return np.where(values == key, np.uint8(255), grey) if isinstance(key, int) else grey


def _opaque(image: "Image") -> "Image":
    if image.mode not in {"LA", "La", "PA", "RGBA", "RGBa"} and "transparency" not in image.info:
        return image
    module = require("PIL.Image", "Decoding images", "data")
    white = module.new("RGBA", image.size, (255, 255, 255, 255))
    laid: Image = module.alpha_composite(white, image.convert("RGBA"))
    return laid.convert("RGB")


def _from_array(array: NDArray[Any]) -> "Image":
    if array.dtype != np.uint8 or array.ndim not in {2, 3} or (array.ndim == 3 and array.shape[2] not in {1, 3}):
        raise DataError(
            f"an image array must be uint8 [H, W], [H, W, 1] or [H, W, 3], got {array.dtype} {list(array.shape)}",
            "convert it before",
        )
    if 0 in array.shape:
        raise DataError(f"an image array is empty: {list(array.shape)}", "give an image with pixels")
    module = require("PIL.Image", "Decoding images", "data")
    squeezed = array[:, :, 0] if array.ndim == 3 and array.shape[2] == 1 else array
    image: Image = module.fromarray(np.ascontiguousarray(squeezed))
    return image


def _from_bytes(mode: str, array: NDArray[np.uint8]) -> "Image":
    module = require("PIL.Image", "Decoding images", "data")
    image: Image = module.frombytes(mode, (array.shape[1], array.shape[0]), array.tobytes())
    return image


def _damaged(name: str, error: Exception) -> DataError:
    known = {"FileNotFoundError": "no such file"}
    reason = known.get(type(error).__name__) or str(error) or type(error).__name__
    return DataError(f"can't read {name} as an image: {reason}", _REMEDY)


_CONTAINERS = {
    b"heic": "HEIC", b"heix": "HEIC", b"heim": "HEIC", b"hevc": "HEIC", b"mif1": "HEIC", b"msf1": "HEIC",
    b"avif": "AVIF", b"avis": "AVIF", b"crx ": "a camera's raw picture",
}  # fmt: skip
"""Brands of an ISO media file (ISO/IEC 14496-12, section 4.3), at byte 8 behind "ftyp"."""

_STARTS = {
    b"\xff\x0a": "JPEG XL", b"\0\0\0\x0cJXL ": "JPEG XL", b"<svg": "SVG", b"<?xml": "XML or SVG", b"%PDF": "PDF",
    b"<html": "a web page", b"<!DOC": "a web page", b"\x93NUMPY": "a NumPy array", b"PK\x03\x04": "a ZIP archive",
    b"FUJIFILM": "a camera's raw picture", b"version https://git-lfs": "a Git LFS pointer",
}  # fmt: skip


def _unknown(image: Any, name: str) -> DataError:
    """The error for what Pillow knows no format of, told by its first bytes; Pillow's tells an address in memory."""
    if isinstance(image, bytes):
        head = image[:132]
    else:
        with Path(image).open("rb") as file:
            head = file.read(132)
    kind = _CONTAINERS.get(head[8:12]) if head[4:8] == b"ftyp" else None
    kind = kind or next((kind for start, kind in _STARTS.items() if head.startswith(start)), None)
    if head[128:132] == b"DICM":
        kind = "DICOM"
    if not head:
        return DataError(f"can't read {name} as an image: it is empty", _REMEDY)
    if kind is None:
        return DataError(f"can't read {name} as an image: it is of no format that Pillow knows", _REMEDY)
    return DataError(
        f"can't read {name} as an image: it is {kind}, which the Pillow here can't decode",
        "convert it to PNG or JPEG, or remove the file",
    )
