"""The preprocessing of images: one spec, one implementation.

Training, calibration, evaluation and serving all call this, and the spec travels with the model,
so the four can't differ. It has two halves: :meth:`Preprocess.pixels` makes any image a ``uint8``
array of the model's size, and :meth:`Preprocess.normalise` turns such pixels into the floats that
the network sees. A graph exported with ``--uint8-input`` does the second half itself.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from engines.errors import InputError
from engines.files import digest_bytes
from engines.optional import require
from engines.pictures import MAX_BYTES, MAX_PIXELS, ImageLike, NamedBytes, open_image

__all__ = [
    "MAX_BYTES",
    "MAX_PIXELS",
    "ImageLike",
    "Interpolation",
    "NamedBytes",
    "Preprocess",
    "Resize",
    "open_image",
]

Resize = Literal["stretch", "crop"]
Interpolation = Literal["nearest", "bilinear", "bicubic"]


@dataclass(frozen=True)
class Preprocess:
    """How an image becomes a network's input.

    Attributes:
        height, width: the network's input size in pixels.
        channels: 3 (RGB) or 1 (luminance).
        resize: "stretch" scales both sides to the size; "crop" scales the image so that it covers
            the size divided by ``crop_fraction``, keeping its aspect, and cuts the centre out.
        crop_fraction: the share of each side that the centre crop keeps (ImageNet's 224/256 = 0.875).
        interpolation: "nearest", "bilinear" or "bicubic", with Pillow's antialiasing when shrinking.
        mean, std: one value a channel, on pixels scaled to [0, 1].
    """

    height: int
    width: int
    channels: int = 3
    resize: Resize = "crop"
    crop_fraction: float = 0.875
    interpolation: Interpolation = "bilinear"
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        """Reject a spec that can't work."""
        problem = None
        if not (0 < self.height <= 16384 and 0 < self.width <= 16384):
            problem = f"input size {self.height}x{self.width} is outside 1..16384"
        elif self.channels not in {1, 3}:
            problem = f"{self.channels} channels; 1 and 3 are supported"
        elif len(self.mean) != self.channels or len(self.std) != self.channels:
            problem = f"mean and std need {self.channels} value(s), got {len(self.mean)} and {len(self.std)}"
        elif not all(np.isfinite(self.mean)) or not all(np.isfinite(self.std)) or min(self.std) <= 0:
            problem = "mean and std must be finite, and std positive"
        elif self.resize not in {"stretch", "crop"}:
            problem = f"resize '{self.resize}' is not stretch or crop"
        elif self.interpolation not in {"nearest", "bilinear", "bicubic"}:
            problem = f"interpolation '{self.interpolation}' is not nearest, bilinear or bicubic"
        elif not 0 < self.crop_fraction <= 1:
            problem = f"crop_fraction {self.crop_fraction} is outside (0, 1]"
        if problem:
            raise InputError(f"bad preprocessing: {problem}", "correct the model's preprocessing metadata")

    def pixels(self, image: ImageLike) -> NDArray[np.uint8]:
        """Decode, orient, convert and resize one image; :mod:`engines.pictures` says how each kind is read.

        Args:
            image: a path, encoded bytes, a PIL image, or a uint8 array [H, W], [H, W, 1] or [H, W, 3] (RGB).

        Returns:
            uint8 [height, width, channels], contiguous.

        Raises:
            DataError: the picture is damaged, too large or of an unusable type.
        """
        pil = open_image(image).convert("RGB" if self.channels == 3 else "L")
        target = (self.width, self.height)
        module = require("PIL.Image", "Resizing images", "data")
        method = module.Resampling[self.interpolation.upper()]
        if self.resize == "stretch":
            pil = pil if pil.size == target else pil.resize(target, method)
        else:
            scale = max(self.width / pil.width, self.height / pil.height) / self.crop_fraction
            size = (max(self.width, round(pil.width * scale)), max(self.height, round(pil.height * scale)))
            pil = pil if pil.size == size else pil.resize(size, method)
            left, top = (pil.width - self.width) // 2, (pil.height - self.height) // 2
            pil = pil.crop((left, top, left + self.width, top + self.height))
        return np.ascontiguousarray(np.asarray(pil, np.uint8).reshape(self.height, self.width, self.channels))

    def normalise(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Scale pixels to [0, 1], subtract the mean, divide by the standard deviation.

        Computed as ``pixels * a + b`` in float32 with ``a = 1 / (255 std)`` and ``b = -mean / std``,
        which is also what a graph exported with ``--uint8-input`` computes.

        Args:
            pixels: uint8 [N, height, width, channels].

        Returns:
            float32 [N, channels, height, width], contiguous.
        """
        scale, shift = self.affine()
        planes = np.ascontiguousarray(np.moveaxis(pixels, -1, 1))
        result = planes.astype(np.float32)
        result *= scale[:, None, None]
        result += shift[:, None, None]
        return result

    def affine(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The factor and the offset of :meth:`normalise`, float32 [channels] each."""
        mean, std = np.asarray(self.mean, np.float64), np.asarray(self.std, np.float64)
        return (1 / (255 * std)).astype(np.float32), (-mean / std).astype(np.float32)

    def batch(self, images: Iterable[ImageLike]) -> NDArray[np.float32]:
        """Preprocess images into one float32 batch [N, channels, height, width]."""
        return self.normalise(np.stack([self.pixels(image) for image in images]))

    def digest(self) -> str:
        """A digest of the spec: equal digests mean equal preprocessing."""
        return digest_bytes(repr(sorted(self.to_json().items())).encode())

    def to_json(self) -> dict[str, Any]:
        value = asdict(self)
        return value | {"mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Preprocess":
        """Read what :meth:`to_json` wrote.

        Raises:
            InputError: fields are missing, unknown or of a wrong type.
        """
        try:
            fields = dict(value)
            fields["mean"], fields["std"] = (
                tuple(map(float, fields["mean"])),
                tuple(map(float, fields["std"])),
            )
            return cls(**fields)
        except (TypeError, ValueError, KeyError) as error:
            raise InputError(
                f"bad preprocessing metadata: {error}", "export the model again with this version of toolkit"
            ) from error
