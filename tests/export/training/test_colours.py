from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from engines.errors import DataError
from engines.preprocess import Preprocess
from export.evaluation import Batch, normalise
from export.training import TrainingData
from export.training.colours import IMAGES, colour_axes
from tests.export.tiny_training import QUICK, data, pictures


def test_the_axes_are_the_principal_components_of_all_training_pixels() -> None:
    axes = colour_axes(data(48), 3, QUICK)
    flat = pictures(48, 1)[0].reshape(-1, 3).astype(np.float64)
    oracle = PCA().fit(flat)
    lengths = np.linalg.norm(axes, axis=0)
    np.testing.assert_allclose(lengths, oracle.singular_values_[::-1] / np.sqrt(len(flat)), rtol=1e-6)
    for axis, component in zip((axes / lengths).T, oracle.components_[::-1], strict=True):
        assert abs(axis @ component) == pytest.approx(1, abs=1e-6)
        assert axis[np.abs(axis).argmax()] > 0
    np.testing.assert_allclose(axes @ axes.T, np.cov(flat.T, bias=True), rtol=1e-6)


def test_neither_order_nor_batches_change_a_bit() -> None:
    first = colour_axes(data(48, batch=8), 3, QUICK)
    for source, seed in [(data(48, batch=5), 0), (data(48), 9)]:
        assert colour_axes(source, 3, replace(QUICK, seed=seed)).tobytes() == first.tobytes()


def test_grey_pictures_have_one_axis_as_long_as_their_deviation() -> None:
    pixels = pictures(20, 3)[0][..., :1]
    grey = TrainingData(lambda *_: [(pixels, np.zeros(20, np.int64))], list, 20, 1)
    assert colour_axes(grey, 1, QUICK) == pytest.approx(np.array([[pixels.std()]]))


def test_no_more_images_are_read_than_needed_and_none_is_an_error() -> None:
    pixels, labels = pictures(2, 1)
    read = 0

    def endless(*_: object) -> Iterator[Batch]:
        nonlocal read
        while True:
            read += 1
            yield pixels, labels

    source = TrainingData(endless, list, 10**9, 1)
    colour_axes(source, 3, replace(QUICK, batch_size=500))
    assert read == IMAGES / 500
    with pytest.raises(DataError, match="no images to learn the colours from"):
        colour_axes(TrainingData(lambda *_: [], list, 1, 1), 3, QUICK)


def test_an_offset_in_pixels_is_added_before_normalisation() -> None:
    preprocess = Preprocess(16, 16)
    pixels = pictures(5, 1)[0]
    offsets = np.random.default_rng(0).normal(0, 20, (5, 3)).astype(np.float32)
    x = normalise(pixels, preprocess, offsets=torch.from_numpy(offsets)).double().numpy()
    moved = (pixels + offsets.astype(np.float64)[:, None, None]) / 255
    expected = (moved - np.array(preprocess.mean)) / np.array(preprocess.std)
    np.testing.assert_allclose(x, np.moveaxis(expected, -1, 1), atol=2e-6)
