"""Feeds are checked before an engine sees them."""

import numpy as np
import pytest

from engines.errors import InputError
from engines.tensors import TensorSpec, check_feeds

IMAGE = TensorSpec("image", "float32", ("batch", 3, 4, 4))
SCALE = TensorSpec("scale", "float32", ("batch", 1))


def test_the_batch_size_is_the_first_dimension() -> None:
    assert check_feeds([IMAGE], {"image": np.zeros((7, 3, 4, 4), np.float32)}) == 7


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({}, "no value for input image"),
        ({"image": np.zeros((1, 3, 4, 4), np.float32), "other": np.zeros(1)}, "unknown input other"),
        ({"image": np.zeros((1, 3, 4, 4))}, "image is float64, not float32"),
        ({"image": [[1.0]]}, "image is list, not float32"),
        ({"image": np.zeros((1, 3, 4, 5), np.float32)}, r"shape \[1, 3, 4, 5\]"),
        ({"image": np.zeros((3, 4, 4), np.float32)}, r"shape \[3, 4, 4\]"),
        ({"image": np.zeros((0, 3, 4, 4), np.float32)}, "empty"),
    ],
)
def test_feeds_that_do_not_fit_are_refused_with_the_reason(feeds: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_feeds([IMAGE], feeds)


def test_a_dimension_with_one_name_has_one_size() -> None:
    with pytest.raises(InputError, match="scale has shape"):
        check_feeds(
            [IMAGE, SCALE], {"image": np.zeros((2, 3, 4, 4), np.float32), "scale": np.zeros((3, 1), np.float32)}
        )


def test_a_spec_survives_json() -> None:
    assert TensorSpec.from_json(IMAGE.to_json()) == IMAGE
