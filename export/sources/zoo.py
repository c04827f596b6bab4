"""Networks of other libraries by name, ``torchvision:resnet50`` or ``timm:resnet50d``, for weights in a file.

Nothing is downloaded: the network is built empty. Its preprocessing is the one that the library keeps with its
published weights: torchvision's ``get_model_weights(name).DEFAULT.transforms()`` (crop_size, resize_size, mean,
std, interpolation) and ``meta["categories"]``, timm's ``pretrained_cfg`` (input_size, mean, std, interpolation,
crop_pct, crop_mode). Whoever trained otherwise says so with ``--input-size``, ``--mean`` and so on.
"""

import difflib
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from torch import nn

from engines.errors import InputError, UnsupportedError
from engines.preprocess import Interpolation, Preprocess
from export.sources.code import blamed, said

INTERPOLATIONS = ("nearest", "bilinear", "bicubic")


@dataclass(frozen=True)
class Facts:
    """What a library says of its network."""

    preprocess: Preprocess | None = None
    labels: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Known:
    """A library's network.

    Attributes:
        make: builds it empty; takes ``num_classes`` and what else the library takes.
        facts: what the library says of it, once it is built.
    """

    make: Callable[..., Any]
    facts: Callable[[nn.Module], Facts]


def find(library: str, name: str) -> Known | None:
    """The network that a library calls ``name``; None where ``library`` is none of the two.

    Raises:
        UnsupportedError: the library can't be imported.
        InputError: it has no such network.
    """
    if library == "torchvision":
        return _torchvision(name)
    return _timm(name) if library == "timm" else None


def _torchvision(name: str) -> Known:
    models = _imported("torchvision", "torchvision.models")
    names = list(models.list_models())
    _check(name, names, "torchvision")

    def make(num_classes: int | None = None, **options: Any) -> Any:
        counted = {} if num_classes is None else {"num_classes": num_classes}
        return models.get_model(name, weights=None, **counted, **options)

    def facts(module: nn.Module) -> Facts:
        with blamed(f"torchvision's preprocessing of {name} can't be read"):
            weights = models.get_model_weights(name).DEFAULT
            transform = weights.transforms()
            labels = tuple(map(str, weights.meta.get("categories", ())))
            size, resized = _side(transform.crop_size), _side(transform.resize_size)
            spec = _preprocess(
                size, size / resized, transform.interpolation, transform.mean, transform.std, f"torchvision's {name}"
            )
        return Facts(spec, labels or None, (f"preprocessing as of torchvision's {weights}",))

    return Known(make, facts)


def _timm(name: str) -> Known:
    timm = _imported("timm", "timm")
    _check(name, list(timm.list_models()), "timm")

    def make(num_classes: int | None = None, **options: Any) -> Any:
        counted = {} if num_classes is None else {"num_classes": num_classes}
        return timm.create_model(name, pretrained=False, **counted, **options)

    def facts(module: nn.Module) -> Facts:
        config = getattr(module, "pretrained_cfg", None)
        if not isinstance(config, Mapping) or "input_size" not in config:
            return Facts(notes=(f"timm knows no preprocessing of {name}: ImageNet's at 224×224 is taken",))
        channels, height, width = config["input_size"]
        if channels != 3 or height != width or config.get("crop_mode", "center") not in {"center", "squash"}:
            return Facts(notes=(f"timm's preprocessing of {name} is none that the toolkit has: say it by options",))
        stretch = config.get("crop_mode") == "squash"
        spec = _preprocess(
            height,
            float(config.get("crop_pct") or 1.0),
            config.get("interpolation", "bilinear"),
            config["mean"],
            config["std"],
            f"timm's {name}",
            stretch=stretch,
        )
        return Facts(spec, notes=(f"preprocessing as of timm's {name}",))

    return Known(make, facts)


def _preprocess(
    size: int, fraction: float, interpolation: Any, mean: Any, std: Any, whose: str, *, stretch: bool = False
) -> Preprocess:
    kind = str(getattr(interpolation, "value", interpolation))
    if kind not in INTERPOLATIONS:
        raise InputError(
            f"{whose} resizes by '{kind}' interpolation, which the toolkit hasn't", "give --interpolation bicubic"
        )
    return Preprocess(
        size,
        size,
        resize="stretch" if stretch else "crop",
        crop_fraction=min(fraction, 1.0),
        interpolation=cast("Interpolation", kind),
        mean=tuple(map(float, mean)),
        std=tuple(map(float, std)),
    )


def _side(size: Any) -> int:
    """Torchvision keeps sizes as a list of one or two numbers."""
    sides = [size] if isinstance(size, int) else list(size)
    return int(sides[0])


def _imported(library: str, module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name == library:
            raise UnsupportedError(
                f"--model {library}: needs the package '{library}', which is not installed", f"pip install {library}"
            ) from error
        raise UnsupportedError(
            f"--model {library}: needs {library}, which can't be imported here: {error}",
            f"pip install {error.name}",
        ) from error
    except Exception as error:  # a build of torchvision for another torch fails with RuntimeError
        raise UnsupportedError(
            f"--model {library}: needs {library}, which can't be imported here: {said(error)}",
            f"install the {library} that fits this PyTorch",
        ) from error


def _check(name: str, names: list[str], library: str) -> None:
    if name not in names:
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"it has {len(names)} others"
        raise InputError(f"{library} has no network '{name}'", hint)
