import numpy as np
from numpy.typing import NDArray

from export.augment import moved, shifts


def shifted(pixels: NDArray[np.uint8], share: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    return moved(pixels, shifts(len(pixels), pixels.shape[1:3], share, rng))


def test_every_image_is_moved_whole_and_its_edge_repeated() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (200, 10, 20, 3), np.uint8)
    before = pixels.copy()
    result = shifted(pixels, 0.25, np.random.default_rng(1))
    padded = np.pad(before, ((0, 0), (2, 2), (5, 5), (0, 0)), mode="edge")
    found = set()
    for image, frame in zip(result, padded, strict=True):
        places = [
            (2 - down, 5 - right)
            for down in range(5)
            for right in range(11)
            if np.array_equal(frame[down : down + 10, right : right + 20], image)
        ]
        assert len(places) == 1
        found.add(places[0])
    assert {down for down, _ in found} == set(range(-2, 3))
    assert {right for _, right in found} == set(range(-5, 6))
    assert np.array_equal(pixels, before)


def test_a_generator_of_the_same_seed_moves_alike() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 10, 10, 1), np.uint8)
    first, again, other = (shifted(pixels, 0.3, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_shift_of_less_than_a_pixel_is_none() -> None:
    pixels = np.zeros((2, 10, 10, 3), np.uint8)
    assert shifted(pixels, 0.05, np.random.default_rng(0)) is pixels
