"""What training and measuring a PyTorch network share: normalisation, device, precision, accuracy."""

from collections.abc import Callable, Iterable
from typing import TypeAlias

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own abbreviation
from numpy.typing import NDArray
from torch import nn

from engines.errors import DataError, UnsupportedError
from engines.preprocess import Preprocess
from engines.progress import QUIET, Progress
from export.augment import ten_crops

Batch: TypeAlias = tuple[NDArray[np.uint8], NDArray[np.int64]]


@torch.no_grad()
def evaluate(
    module: nn.Module,
    batches: Iterable[Batch],
    preprocess: Preprocess,
    device: torch.device | str = "cpu",
    *,
    precision: str = "fp32",
    progress: Progress = QUIET,
) -> tuple[float, float]:
    """Mean cross-entropy loss and top-1 accuracy (0 to 1) of a network over batches of pixels.

    Raises:
        DataError: there are no images.
    """
    loss, right, seen = tally(module, batches, preprocess, device, precision=precision, progress=progress)
    if not seen:
        raise DataError("there are no images to evaluate on", "give a data set with test images")
    return loss / seen, right / seen


@torch.no_grad()
def tally(
    module: nn.Module,
    batches: Iterable[Batch],
    preprocess: Preprocess,
    device: torch.device | str = "cpu",
    *,
    precision: str = "fp32",
    progress: Progress = QUIET,
    parts: int = 1,
) -> tuple[float, int, int]:
    """What :func:`evaluate` divides: the sum of the losses, how many images are right, and how many there are.

    ``progress`` is told of ``parts`` times as many images: those of all processes that share them out.
    """
    device = torch.device(device)
    module.eval()
    seen, right, loss = 0, 0, 0.0
    for pixels, labels in batches:
        y = torch.from_numpy(labels).to(device)
        with autocast(device, precision):
            logits = module(normalise(pixels, preprocess, device))
        loss += float(F.cross_entropy(logits.float(), y, reduction="sum"))
        right += int((logits.argmax(1) == y).sum())
        seen += len(labels)
        progress.advance(len(labels) * parts)
    return loss, right, seen


@torch.no_grad()
def tally_ten_crops(
    module: nn.Module,
    frames: Iterable[Batch],
    preprocess: Preprocess,
    device: torch.device | str = "cpu",
    *,
    progress: Progress = QUIET,
    parts: int = 1,
) -> tuple[int, int]:
    """Images that are right, and all, by the mean of the softmax over :func:`export.augment.ten_crops`.

    Args:
        module: the network; computed in FP32.
        frames: batches in the size of :func:`export.training.ten_crop_frame`.
        preprocess: the network's.
        device: where the network is.
        progress: told of ``parts`` times as many images: those of all processes that share them out.
        parts: how many processes.
    """
    device = torch.device(device)
    module.eval()
    seen, right = 0, 0
    for pixels, labels in frames:
        views = ten_crops(pixels, preprocess.height, preprocess.width)
        shares = sum(module(normalise(view, preprocess, device)).float().softmax(1) for view in views)
        right += int((torch.as_tensor(shares).argmax(1).cpu() == torch.from_numpy(labels)).sum())
        seen += len(labels)
        progress.advance(len(labels) * parts)
    return right, seen


def normalise(
    pixels: NDArray[np.uint8] | torch.Tensor,
    preprocess: Preprocess,
    device: torch.device | str = "cpu",
    *,
    offsets: torch.Tensor | None = None,
) -> torch.Tensor:
    """:meth:`engines.preprocess.Preprocess.normalise` on the device, bit for bit, in channels-last layout.

    Args:
        pixels: uint8 [N, height, width, channels].
        preprocess: gives factor and offset.
        device: where to compute; only the uint8 pixels cross to it.
        offsets: float32 [N, channels], in pixel units, added to every pixel of the image (as floats: neither rounded
            nor clipped).

    Returns:
        float32 [N, channels, height, width], channels-last in memory.
    """
    factor, shift = (torch.from_numpy(values)[:, None, None].to(device) for values in preprocess.affine())
    if offsets is not None:  # a (p + o) + b = a p + (b + a o)
        shift = shift + factor * offsets.to(device)[:, :, None, None]
    # Two roundings, like numpy's: a fused multiply-add would differ in the last bit.
    found = pixels if isinstance(pixels, torch.Tensor) else torch.from_numpy(np.ascontiguousarray(pixels))
    planes = found.to(device).permute(0, 3, 1, 2)
    return planes.to(torch.float32).mul_(factor).add_(shift)


def resolve_device(device: str) -> torch.device:
    """The device that "auto" means here, or the one that was named.

    Raises:
        UnsupportedError: it isn't there.
    """
    if device == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
    except RuntimeError:
        raise UnsupportedError(f"there is no device '{device}'", "use auto, cpu or cuda:0") from None
    if found.type == "cuda":
        index, count = found.index or 0, torch.cuda.device_count()
        if index >= count:
            raise UnsupportedError(f"PyTorch sees {count} CUDA devices, not '{device}'", "use --device cpu, or auto")
        return torch.device("cuda", index)
    if found.type != "cpu":
        raise UnsupportedError(f"training on '{device}' is not supported", "use auto, cpu or cuda:0")
    return found


def resolve_precision(precision: str, device: torch.device) -> str:
    """What "auto" means on this device: "bf16" where that is faster, else "fp32"."""
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    # Measured: with AMX tiles bf16 halves the time; AVX512-BF16 alone makes it 1.4 times as long as FP32.
    # An older torch has no public way to ask a CPU; FP32 is always right.
    ask: Callable[[], dict[str, object]] = getattr(torch.cpu, "get_capabilities", dict)
    return "bf16" if ask().get("amx_bf16") else "fp32"


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The context in which convolutions and products are computed in ``precision``."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")
