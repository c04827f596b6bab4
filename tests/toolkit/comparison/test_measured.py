import numpy as np
import pytest

from tests.toolkit.comparison.judged import CPU, GPU, accuracy, comparison, row
from toolkit.comparison.accuracy.paired import paired_interval
from toolkit.comparison.verdicts.measured import Measured, surely_faster, surely_slower


@pytest.mark.parametrize("seed", range(20))
def test_the_interval_of_two_rows_holds_that_of_their_discordant_images(seed):
    """Those images aren't in the record; what is taken in their place may only widen the interval."""
    rng = np.random.default_rng(seed)
    reference, one, other = (rng.random((3, 1000)) < rng.uniform(0.7, 0.99, (3, 1))).astype(bool)

    def against(right):
        return accuracy(
            int(right.sum()), hurt=int((reference & ~right).sum()), helped=int((~reference & right).sum())
        )

    rows = (
        row("r", accuracy=accuracy(int(reference.sum()), against=None)),
        row("a", accuracy=against(one)),
        row("b", accuracy=against(other)),
    )
    measured = Measured(comparison(*rows))
    low, high = paired_interval(int((one & ~other).sum()), int((~one & other).sum()), 1000)
    found = measured.difference(rows[1], rows[2])
    assert found.value == pytest.approx((one.sum() - other.sum()) / 1000)
    assert found.low <= low + 1e-9
    assert found.high >= high - 1e-9
    back = measured.difference(rows[2], rows[1])
    assert (back.low, back.high) == pytest.approx((-found.high, -found.low))
    drop = measured.drop(rows[1])
    exact = paired_interval(int((reference & ~one).sum()), int((~reference & one).sum()), 1000)
    assert (drop.low, drop.high) == pytest.approx(exact)


def test_without_paired_counts_the_interval_is_that_of_separate_samples():
    rows = [row(name, accuracy=accuracy(right, against=None)) for name, right in (("r", 900), ("a", 890), ("b", 880))]
    found = Measured(comparison(*rows)).difference(rows[1], rows[2])
    # Newcombe 1998, method 10, with the Wilson intervals of 890 and 880 of 1000 computed apart.
    assert (found.value, found.low, found.high) == pytest.approx((0.01, -0.018049, 0.038073), abs=1e-6)


def test_ratios_are_those_of_the_record_and_inverse_both_ways():
    rows = row("r", {1: 0.01, 8: 0.02}), row("a", {1: 0.005}), row("b", {1: 0.02})
    measured = Measured(comparison(*rows))
    assert measured.ratio(rows[1], rows[0], 1) == rows[1].speeds[1].ratio
    there, back = measured.ratio(rows[1], rows[2], 1), measured.ratio(rows[2], rows[1], 1)
    assert there.value == pytest.approx(4, rel=0.01)
    assert (back.value, back.low, back.high) == pytest.approx((1 / there.value, 1 / there.high, 1 / there.low))
    assert surely_faster(there)
    assert surely_slower(back)
    assert not surely_faster(None)
    assert measured.ratio(rows[0], rows[1], 8) is None
    assert Measured(comparison(rows[0], row("c", {1: 0.01}, machine=1), machines=(CPU, GPU))).ratio(
        rows[0], row("c", {1: 0.01}, machine=1), 1
    ) is None  # fmt: skip
