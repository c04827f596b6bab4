"""The growing histogram against numpy's own."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from calibration.histogram import GrowingHistogram, Histogram, pieces
from engines.errors import GraphError


def collected(*parts: np.ndarray) -> Histogram:
    histogram = GrowingHistogram()
    for part in parts:
        histogram.add(part.astype(np.float32))
    return histogram.freeze()


def same(a: Histogram, b: Histogram) -> bool:
    return (
        np.array_equal(a.edges, b.edges)
        and np.array_equal(a.counts, b.counts)
        and (a.minimum, a.maximum) == (b.minimum, b.maximum)
    )


def test_counts_equal_numpys_over_the_same_edges():
    values = np.random.default_rng(0).normal(0, 3, 100_003).astype(np.float32)
    found = collected(values)
    edges = found.edges.copy()
    edges[-1] = np.inf  # numpy's last bin is closed too, but the largest value may be on its lower edge
    expected, _ = np.histogram(np.abs(values).astype(np.float64), edges)
    np.testing.assert_array_equal(found.counts, expected)
    assert found.total == values.size
    assert found.amax == np.abs(values).max()
    assert (found.minimum, found.maximum) == (values.min(), values.max())


def test_bins_are_never_wider_than_a_2048th_of_the_range():
    found = collected(np.random.default_rng(0).uniform(-1.9, 1.9, 50_000))
    widths = np.diff(found.edges)[1:]
    assert widths.max() <= 2.0**-10  # the range reaches into [1, 2), whose bins are 2^-10 wide


def test_linear_bins_equal_numpys_where_the_bins_fall_on_edges():
    values = np.random.default_rng(1).uniform(0, 2, 200_000).astype(np.float32)
    values[0] = 2.0
    found = collected(values)
    expected, _ = np.histogram(values.astype(np.float64), 512, (0, 2))
    np.testing.assert_allclose(found.linear(512, 2.0), expected, atol=1e-6)


def test_linear_bins_keep_the_total_and_leave_out_what_lies_above():
    values = np.random.default_rng(2).normal(0, 1, 100_000)
    found = collected(values)
    assert found.linear(2048).sum() == pytest.approx(found.total)
    kept = found.linear(2048, 1.5).sum()
    assert kept == pytest.approx((np.abs(values) < 1.5).sum(), abs=60)


def test_an_outlier_a_billion_times_larger_leaves_the_rest_its_bins():
    values = np.random.default_rng(3).normal(0, 1, 10_000)
    found = collected(values, np.array([1e9]))
    alone = collected(values)
    bulk = (found.edges[1:-1] > 0.5) & (found.edges[1:-1] < 2)
    assert found.amax == np.float32(1e9)
    assert bulk.sum() == 2 * 1024 - 1  # two octaves, at full resolution
    assert np.isin(alone.edges[(alone.edges > 0.5) & (alone.edges < 2)], found.edges).all()


@settings(deadline=None, max_examples=60)
@given(
    arrays(np.float32, st.integers(1, 60), elements=st.floats(width=32, allow_nan=False, allow_infinity=False)),
    st.integers(0, 60),
    st.randoms(use_true_random=False),
)
def test_counts_depend_neither_on_order_nor_on_how_the_data_is_cut(values, cut, random):
    shuffled = values.tolist()
    random.shuffle(shuffled)
    whole = collected(values)
    shuffled = np.array(shuffled, np.float32)
    parts = [part for part in (shuffled[:cut], shuffled[cut:]) if part.size]
    assert same(whole, collected(*parts))
    merged = GrowingHistogram()
    for part in parts:
        other = GrowingHistogram()
        other.add(part)
        merged.merge(other)
    assert same(whole, merged.freeze())
    stored = GrowingHistogram()
    for part in parts:
        stored = GrowingHistogram.restored(stored.state)
        stored.add(part)
    assert same(whole, GrowingHistogram.restored(stored.state).freeze())


def test_threads_that_add_to_one_histogram_lose_nothing():
    rng = np.random.default_rng(6)
    # Ranges from tiny to huge, so that the window moves while others count.
    parts = [(rng.normal(size=30_000) * 2.0**exponent).astype(np.float32) for exponent in range(-40, 41, 2)]
    histogram = GrowingHistogram()
    with ThreadPoolExecutor(8) as pool:
        list(
            pool.map(histogram.add, [part[start : start + 500] for part in parts for start in range(0, 30_000, 500)])
        )
    assert same(histogram.freeze(), collected(*parts))


def test_pieces_are_the_values_in_their_order_without_a_copy():
    values = np.arange(3 * 400_001, dtype=np.float32).reshape(3, -1)
    found = list(pieces(values))
    assert len(found) > 1
    assert all(np.shares_memory(piece, values) for piece in found)
    np.testing.assert_array_equal(np.concatenate(found), values.ravel())


def test_large_arrays_of_either_sign_are_counted_as_numpy_does():
    values = np.random.default_rng(7).normal(0, 2, 1_500_000).astype(np.float32)
    values[::3] = 0
    values[1::3] *= -0.0  # both zeros are zero
    for part in (values, -np.abs(values), np.abs(values)):
        found = collected(part)
        edges = found.edges.copy()
        edges[-1] = np.inf
        expected, _ = np.histogram(np.abs(part).astype(np.float64), edges)
        np.testing.assert_array_equal(found.counts, expected)


def test_strided_and_many_dimensional_arrays_count_every_element_once():
    values = np.random.default_rng(4).normal(size=(4, 6, 10)).astype(np.float32)
    assert same(collected(values.ravel()), collected(values.transpose(2, 0, 1)))


def test_a_tensor_of_zeros_has_no_range():
    found = collected(np.zeros(7), -np.zeros(5))
    assert (found.amax, found.total, found.counts.tolist()) == (0.0, 12, [12])


@pytest.mark.parametrize(("value", "word"), [(np.nan, "NaN"), (np.inf, "infinite"), (-np.inf, "infinite")])
def test_values_that_are_not_finite_are_an_error_that_names_the_tensor(value, word):
    with pytest.raises(GraphError, match=f"'relu3' becomes {word}"):
        GrowingHistogram().add(np.array([1, value, 2], np.float32), "relu3")


def test_its_memory_does_not_grow():
    histogram = GrowingHistogram()
    rng = np.random.default_rng(5)
    for exponent in range(-30, 31, 5):
        histogram.add((rng.normal(size=1000) * 2.0**exponent).astype(np.float32))
    assert histogram._counts.nbytes == 32 * 1024 * 8
    assert histogram.freeze().total == 13_000


def test_nothing_added_has_no_histogram():
    with pytest.raises(ValueError, match="empty"):
        GrowingHistogram().freeze()
