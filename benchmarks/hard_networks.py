"""Networks that quantisation tools fall over: recipes, each with data of its own, made once and kept in a folder.

    python benchmarks/hard_networks.py --work FOLDER          # all of them: a few minutes of training on two cores
    python benchmarks/hard_networks.py --work FOLDER --only bright_pairs

Every recipe leaves ``NAME/model.onnx`` (an FP32 master graph with its preprocessing inside) and ``NAME/data.npz``
(uint8 images with a train and a test split: the test split is the digits' own, each image at five positions). All is
seeded: the same machine makes the same networks. ``benchmarks/calibration.py`` quantises them with every tool.
"""

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

FOLDER = Path(__file__).resolve().parent
# Python puts a script's folder first, where calibration.py would be taken for the package of the same name.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != FOLDER]

if TYPE_CHECKING:
    from torch import nn

    from engines.preprocess import Preprocess
    from toolkit.data import Dataset

Pixels = NDArray[np.uint8]
SIDE, HIDDEN = 96, 512
LABELS = tuple(map(str, range(10)))


@dataclass(frozen=True)
class HardNetwork:
    """A recipe.

    Attributes:
        name: its folder.
        about: what is hard about it.
        make: (work folder, own folder) -> None; writes the graph and the data.
    """

    name: str
    about: str
    make: Callable[[Path, Path], None]


def prepare(work: Path, network: HardNetwork) -> Path:
    """The folder of a network, made unless it is there already."""
    folder = work / network.name
    if not (folder / "model.onnx").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        start = time.monotonic()
        network.make(work, folder)
        print(f"{network.name}: made in {time.monotonic() - start:.0f} s", flush=True)
    return folder


# ---- data


def digits(side: int = SIDE, test_copies: int = 5) -> "tuple[Pixels, Any, Pixels, Any]":
    """The digits at ``side`` pixels: train once, test at several positions; (images, labels, images, labels)."""
    from engines.preprocess import Preprocess
    from toolkit.data.digits import open_digits

    dataset = open_digits()
    scale = Preprocess(side, side, channels=1, resize="stretch", mean=(0.0,), std=(1.0,))
    parts: list[Any] = []
    rng = np.random.default_rng(1)
    for split, copies in ((dataset.train, 1), (dataset.test, test_copies)):
        images = np.stack([scale.pixels(split.image(i))[..., 0] for i in range(len(split))])
        moved = [images] + [_moved(images, rng, side // 32) for _ in range(copies - 1)]
        parts += [np.concatenate(moved), np.tile(split.labels, copies)]
    return tuple(parts)


def _moved(images: Pixels, rng: np.random.Generator, reach: int) -> Pixels:
    """Each image shifted by up to ``reach`` pixels, on black."""
    padded = np.pad(images, ((0, 0), (reach, reach), (reach, reach)))
    height, width = images.shape[1:]
    starts = rng.integers(0, 2 * reach + 1, (len(images), 2))
    cut = [image[y : y + height, x : x + width] for image, (y, x) in zip(padded, starts, strict=True)]
    return np.stack(cut)


def save_data(folder: Path, x_train: Pixels, y_train: Any, x_test: Pixels, y_test: Any) -> "Dataset":
    from toolkit.data import open_dataset

    names = np.array(LABELS)
    path = folder / "data.npz"
    np.savez(path, x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test, label_names=names)
    return open_dataset(path)


# ---- training and surgery


def grey(mean: float = 0.0, std: float = 0.5, side: int = SIDE) -> "Preprocess":
    from engines.preprocess import Preprocess

    return Preprocess(side, side, channels=1, resize="stretch", mean=(mean,), std=(std,))


def narrow(name: str) -> "nn.Module":
    """A network of the registry at half its width and with hidden layers of 512, which learns in a minute."""
    import torch

    from export.models.alexnet import initialise_kaiming
    from export.models.registry import build

    torch.manual_seed(0)
    module: Any = build(name, len(LABELS), 1)
    for layer in list(module.modules()):
        for key, child in list(layer.named_children()):
            if isinstance(child, torch.nn.Conv2d):
                entering = child.in_channels if child.in_channels == 1 else child.in_channels // 2
                shape: Any = (child.kernel_size, child.stride, child.padding)
                narrower = torch.nn.Conv2d(entering, child.out_channels // 2, *shape, groups=child.groups)
                setattr(layer, key, narrower)
    linear = torch.nn.Linear
    if name == "alexnet":
        layers = module.classifier
        layers[1], layers[4], layers[6] = linear(128 * 36, HIDDEN), linear(HIDDEN, HIDDEN), linear(HIDDEN, 10)
    else:  # at 99×99 the last pool is 2 wide
        module.fc6, module.fc7, module.fc8 = linear(128 * 4, HIDDEN), linear(HIDDEN, HIDDEN), linear(HIDDEN, 10)
    initialise_kaiming(module)
    return module  # type: ignore[no-any-return]


def trained(
    name: str, dataset: "Dataset", preprocess: "Preprocess", epochs: int, module: "nn.Module | None" = None
) -> "nn.Module":
    """A network, trained as ``toolkit train`` does, from scratch or on from ``module``."""
    from export.recipe import Recipe
    from export.training import TrainingData, train
    from toolkit.data import pixel_batches

    recipe = Recipe(epochs=epochs, batch_size=16, learning_rate=5e-4, shift=0.05)
    module = narrow(name) if module is None else module
    size = len(dataset.train)
    data = TrainingData(
        train=lambda _, rng: pixel_batches(
            dataset.train, preprocess, recipe.batch_size, indices=rng.permutation(size).astype(np.int64)
        ),
        test=lambda: pixel_batches(dataset.test, preprocess, 64, indices=np.arange(360)),
        train_size=size,
        test_size=360,
    )
    result = train(module, data, preprocess, recipe, device="cpu")
    print(f"  trained {name} in {result.seconds:.0f} s: {100 * result.accuracy:.2f} % of the test images", flush=True)
    return module


def save_graph_of(module: "nn.Module", preprocess: "Preprocess", folder: Path, name: str = "alexnet") -> None:
    from engines.metadata import ModelMetadata
    from export.graph import save_graph
    from export.onnx_export import to_onnx

    save_graph(to_onnx(module.eval(), ModelMetadata(name, LABELS, preprocess)), folder / "model.onnx")


def plain_network(work: Path) -> "tuple[nn.Module, Preprocess, Path]":
    """The AlexNet, trained on ordinary digits, that the surgical recipes start from; made once."""
    import torch

    folder, preprocess = work / "plain", grey()
    weights, module = folder / "weights.pt", narrow("alexnet").eval()
    if not weights.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        dataset = save_data(folder, *digits())
        module = trained("alexnet", dataset, preprocess, epochs=8)
        torch.save(module.state_dict(), weights)
    module.load_state_dict(torch.load(weights, weights_only=True))
    return module, preprocess, folder / "data.npz"


def scale_channels(module: "nn.Module", maker: str, reader: str, channels: NDArray[np.int64], factor: float) -> None:
    """Multiply channels of ``maker``'s output and divide ``reader``'s weights for them.

    A power of two through ReLU and max pooling changes nothing in exact arithmetic, and nothing in FP32.
    """
    import torch

    layers = dict(module.named_modules())
    first: Any = layers[maker]
    second: Any = layers[reader]
    with torch.no_grad():
        first.weight[channels] *= factor
        first.bias[channels] *= factor
        if second.weight.dim() == 2 and first.weight.dim() == 4:  # behind a Flatten a channel is many columns
            area = second.weight.shape[1] // first.weight.shape[0]
            columns = (channels[:, None] * area + np.arange(area)).ravel()
            second.weight[:, columns] /= factor
        else:
            second.weight[:, channels] /= factor


# ---- recipes


def rare_extremes(work: Path, folder: Path) -> None:
    """Pictures from the dark, of 3 grey levels; one of a hundred to calibrate on is a frame blinded by a light.

    The plain network behind a normalisation that brings the dark pictures to the scale it was trained on. Of four
    designs this one was kept because tools differ on it; on milder ones, of 5 grey levels or with a few hot pixels,
    all but min-max stay within 3 points.
    """
    rng = np.random.default_rng(2)

    def dimmed(images: Pixels) -> Pixels:
        return np.rint(images * (3 / 255)).astype(np.uint8)

    module, preprocess, _ = plain_network(work)
    x_train, y_train, x_test, y_test = digits()
    x_train = dimmed(x_train)
    x_train[rng.choice(len(x_train), len(x_train) // 100, replace=False)] = 255
    save_data(folder, x_train, y_train, dimmed(x_test), y_test)
    save_graph_of(module, grey(std=preprocess.std[0] * 3 / 255), folder)


LOUD = (
    ("features.0", "features.3", 32, 2),
    ("features.6", "features.8", 192, 4),
    ("classifier.1", "classifier.4", HIDDEN, 4),
)
"""Layer that makes the channels, layer that reads them, how many there are, how many become loud."""


def make_loud(module: "nn.Module") -> None:
    rng = np.random.default_rng(3)
    for maker, reader, width, count in LOUD:
        scale_channels(module, maker, reader, rng.choice(width, count, replace=False), 256.0)


def loud_channels(work: Path, folder: Path) -> None:
    """A few channels of two convolutions and of a hidden layer 256 times above the rest: the same function."""
    module, preprocess, data = plain_network(work)
    make_loud(module)
    save_graph_of(module, preprocess, folder)
    (folder / "data.npz").write_bytes(data.read_bytes())


def mixture(work: Path, folder: Path) -> None:
    """Loud channels on the pictures from the dark."""
    rare_extremes(work, folder)
    module, preprocess, _ = plain_network(work)
    make_loud(module)
    save_graph_of(module, grey(std=preprocess.std[0] * 3 / 255), folder)


def heavy_weights(work: Path, folder: Path) -> None:
    """Every row of three layers has a few weights 512 times too large, for channels that are as much too quiet.

    That is what folding a batch normalisation of an almost dead channel leaves. The same function.
    """
    module, preprocess, data = plain_network(work)
    rng = np.random.default_rng(4)
    for maker, reader, width, count in (
        ("features.3", "features.6", 96, 2),
        ("features.10", "classifier.1", 128, 2),
        ("classifier.1", "classifier.4", HIDDEN, 4),
    ):
        scale_channels(module, maker, reader, rng.choice(width, count, replace=False), 1 / 512)
    save_graph_of(module, preprocess, folder)
    (folder / "data.npz").write_bytes(data.read_bytes())


def bright_pairs(work: Path, folder: Path) -> None:
    """Two digits in grainy darkness, one brighter: the class is the brighter one's.

    Almost all values are grain; what tells the digits apart is how far the rare large ones reach.
    """
    rng = np.random.default_rng(5)
    x_train, y_train, x_test, y_test = digits(SIDE // 2, 5)

    def paired(images: Pixels, labels: Any, copies: int) -> tuple[Pixels, Any]:
        drawn, names = [], []
        for _ in range(copies):
            others = rng.permutation(len(images))
            for index, other in enumerate(others):
                scene = np.abs(rng.normal(0, 4.0, (SIDE, SIDE)))
                side, top = rng.permutation(2), rng.integers(0, SIDE // 2 + 1, 2)
                for place, which, level in ((0, index, 1.0), (1, other, 0.45)):
                    half = slice(side[place] * SIDE // 2, (side[place] + 1) * SIDE // 2)
                    scene[top[place] : top[place] + SIDE // 2, half] += images[which] * level
                drawn.append(np.clip(np.rint(scene), 0, 255).astype(np.uint8))
                names.append(labels[index])
        return np.stack(drawn), np.array(names)

    dataset = save_data(folder, *paired(x_train, y_train, 3), *paired(x_test, y_test, 1))
    module, preprocess, _ = plain_network(work)
    module = trained("alexnet", dataset, preprocess, epochs=4, module=module)
    save_graph_of(module, preprocess, folder)


def local_response(work: Path, folder: Path) -> None:
    """The paper's AlexNet at 99×99 with its two local response normalisations, fed
    with 0…255 as its authors did: what comes before them has a range a hundred times as wide as what comes after.
    """
    preprocess = grey(mean=0.5, std=1 / 255, side=99)
    dataset = save_data(folder, *digits(99))
    module = trained("alexnet-2012", dataset, preprocess, epochs=8)
    save_graph_of(module, preprocess, folder, "alexnet-2012")


NETWORKS = {
    network.name: network
    for network in (
        HardNetwork("rare_extremes", "rare extreme inputs", rare_extremes),
        HardNetwork("loud_channels", "a few channels 256 times above the rest", loud_channels),
        HardNetwork("heavy_weights", "heavy-tailed weights", heavy_weights),
        HardNetwork("bright_pairs", "long-tailed activations that carry the class", bright_pairs),
        HardNetwork("local_response", "local response normalisation on unscaled inputs", local_response),
        HardNetwork("mixture", "rare extreme inputs and loud channels together", mixture),
    )
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="the folder to keep them in")
    parser.add_argument("--only", choices=NETWORKS, action="append", help="this one only (repeatable)")
    options = parser.parse_args()
    for name in options.only or NETWORKS:
        prepare(options.work, NETWORKS[name])


if __name__ == "__main__":
    main()
