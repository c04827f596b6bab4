"""The likeliest classes as Triton's extension writes them."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.errors import InputError
from toolkit.server.protocol.classification import classes
from toolkit.server.protocol.messages import Tensor, TooLargeError


def ask(values, count, labels=(), dtype=np.float32):
    return classes(Tensor("y", "FP32", np.array(values, dtype)), count, labels)


def test_values_indices_and_labels_the_largest_first():
    found = ask([[1.1, 3.3, 0.5, 2.4], [9, 8, 7, 6]], 2, ["a", "b:c", "d"])
    assert (found.name, found.datatype) == ("y", "BYTES")
    assert found.data.tolist() == [[b"3.3:1:b:c", b"2.4:3"], [b"9.0:0:a", b"8.0:1:b:c"]]


def test_a_single_sample_has_no_batch():
    assert ask([1, 10, 5], 2, dtype=np.uint8).data.tolist() == [b"10:1", b"5:2"]


def test_equal_values_come_in_the_order_of_their_index():
    assert ask([[2, 7, 7, 2, 7]], 5, dtype=np.int8).data.tolist() == [[b"7:1", b"7:2", b"7:4", b"2:0", b"2:3"]]


def test_no_more_classes_than_there_are():
    assert ask([[1, 2], [3, 4], [6, 5]], 10).data.shape == (3, 2)


@pytest.mark.parametrize(
    ("shape", "expected"), [((0, 4), (0, 2)), ((3, 0), (3, 0)), ((2, 3, 4), (2, 2)), ((0,), (0,))]
)
def test_shapes_of_all_kinds(shape, expected):
    assert ask(np.zeros(shape), 2).data.shape == expected


def test_small_probabilities_keep_their_digits_and_nan_is_last():
    assert ask([[1e-9, np.nan, -np.inf]], 3).data.tolist() == [[b"1e-09:0", b"nan:1", b"-inf:2"]]
    found = classes(Tensor("y", "BF16", np.array([[1.5, 2.5]], ml_dtypes.bfloat16)), 1)
    assert found.data.tolist() == [[b"2.5:1"]]


@pytest.mark.parametrize("values", [np.array(["a"], object), np.array([True]), np.array(1.0)])
def test_what_has_no_classes(values):
    with pytest.raises(InputError, match="'y' holds no scores"):
        classes(Tensor("y", "FP32", values), 1)


def test_more_texts_than_are_written_in_passing_are_refused():
    values = np.zeros((2, 1 << 15), np.float32)
    assert ask(values, 1 << 40).data.shape == values.shape
    with pytest.raises(TooLargeError, match="at most 65536"):
        ask(np.zeros((2, (1 << 15) + 1)), 1 << 40)


def test_at_least_one_class():
    with pytest.raises(InputError, match="0 classes"):
        ask([1.0], 0)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=20),
    st.integers(1, 25),
)
def test_the_classes_are_those_of_a_sort(values, count):
    array = np.array(values, np.float32)
    expected = sorted(range(len(values)), key=lambda index: (-array[index], index))[:count]
    found = [text.split(b":") for text in ask([values], count).data[0]]
    assert [int(index) for _, index in found] == expected
    assert [np.float32(value) for value, _ in found] == [array[index] for index in expected]
