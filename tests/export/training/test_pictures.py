from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from engines.errors import DataError, InputError
from engines.preprocess import Preprocess
from export.recipe import NAMED, Recipe
from export.training import TrainingData, frame_of
from export.training.distributed import ALONE, Group
from export.training.pictures import Augmented, augmented, smallest_share
from tests.export.tiny_training import QUICK

SMALL = Preprocess(8, 10)
RICH = replace(QUICK, crop=True, flip=True, pca_jitter=0.1, mixup=0.3, shift=0.2, batch_size=7)
AXES = np.array([[3.0, 1, 0], [0, 2, 0], [0, 0, 1]])


def frames(count: int = 20) -> NDArray[np.uint8]:
    return np.random.default_rng(4).integers(0, 256, (count, 12, 15, 3), np.uint8)


def source(recipe: Recipe, group: Group = ALONE, count: int = 20) -> TrainingData:
    """Each process's share of the batches, in order."""
    pixels, labels = frames(count), np.arange(count)

    def batches(*_: object) -> list[tuple[NDArray[np.uint8], NDArray[np.int64]]]:
        found = []
        for start in range(0, count, recipe.batch_size):
            whole = np.arange(start, min(count, start + recipe.batch_size))
            own = whole[group.share(len(whole))]
            found.append((pixels[own], labels[own]))
        return found

    return TrainingData(batches, list, count, 1)


def run(recipe: Recipe, group: Group = ALONE, count: int = 20) -> list[Augmented]:
    axes = AXES if recipe.pca_jitter else None
    rng = np.random.default_rng(1)
    return list(augmented(source(recipe, group, count), SMALL, recipe, 0, rng, axes, group))


def test_every_image_becomes_a_window_of_itself_and_half_are_mirrored() -> None:
    recipe = replace(QUICK, crop=True, flip=True, batch_size=50)
    ((pixels, labels, offsets, share),) = run(recipe, count=50)
    assert pixels.shape == (50, 8, 10, 3)
    assert (offsets.shape, share.shape) == ((50, 0), (0,))
    found = set()
    for image, frame in zip(pixels, frames(50), strict=True):
        places = [
            (top, left, flip)
            for top in range(5)
            for left in range(6)
            for flip in (1, -1)
            if np.array_equal(frame[top : top + 8, left : left + 10][:, ::flip], image)
        ]
        assert len(places) == 1
        found.add(places[0])
    assert {top for top, _, _ in found} == set(range(5))
    assert {left for _, left, _ in found} == set(range(6))
    assert {flip for *_, flip in found} == {1, -1}
    assert labels.tolist() == list(range(50))


def test_colours_are_shifted_along_the_axes_by_normal_shares_of_them() -> None:
    recipe = replace(QUICK, pca_jitter=0.1, batch_size=4000)
    offsets = run(recipe, count=4000)[0][2].astype(np.float64)
    np.testing.assert_allclose(np.cov(offsets.T), 0.01 * AXES @ AXES.T, atol=0.01)
    np.testing.assert_allclose(offsets.mean(0), 0, atol=0.02)


@pytest.mark.parametrize("world", [2, 3])
def test_shares_put_together_are_what_one_process_sees(world: int) -> None:
    alone = run(RICH)
    parts = [run(RICH, Group(rank, world)) for rank in range(world)]
    for step, (pixels, labels, offsets, share) in enumerate(alone):
        own = [part[step] for part in parts]
        assert np.array_equal(np.concatenate([one[0] for one in own]), pixels)
        assert np.array_equal(np.concatenate([one[1] for one in own]), labels)
        assert np.array_equal(np.concatenate([one[2] for one in own]), offsets)
        assert all(np.array_equal(one[3], share) for one in own)
        assert all(len(one[1]) % 2 == 0 for one in own if one[1][-1:] != labels[-1:])  # pairs stay together


def test_the_smallest_share_is_known_before_it_comes() -> None:
    assert [smallest_share(count, Group(0, 2)) for count in (1, 2, 3, 4, 5, 8)] == [0, 0, 1, 2, 2, 4]
    assert smallest_share(1, ALONE) == 1


def test_data_that_do_not_suit_the_recipe_are_refused() -> None:
    with pytest.raises(DataError, match="12x15 are too small to cut 16x16"):
        next(augmented(source(RICH), Preprocess(16, 16), RICH, 0, np.random.default_rng(0), AXES, ALONE))
    with pytest.raises(DataError, match="has 7 images for process 1, not 4"):
        next(augmented(source(RICH), SMALL, RICH, 0, np.random.default_rng(0), AXES, Group(0, 2)))


def test_the_frame_is_the_papers() -> None:
    recipe = NAMED["paper"]
    for size in (224, 227):
        preprocess = Preprocess(size, size, crop_fraction=size / 256)
        assert frame_of(preprocess, recipe) == replace(preprocess, height=256, width=256, crop_fraction=1)
        assert frame_of(preprocess, NAMED["default"]) is preprocess
    wide = np.random.default_rng(0).integers(0, 256, (300, 500, 3), np.uint8)
    frame = frame_of(Preprocess(224, 224), recipe).pixels(wide)
    assert np.array_equal(frame[16:240, 16:240], Preprocess(224, 224).pixels(wide))
    with pytest.raises(InputError, match="nothing to crop: pictures are scaled to 224x224"):
        frame_of(Preprocess(224, 224, crop_fraction=1), recipe)
