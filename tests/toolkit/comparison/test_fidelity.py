"""How near outputs are to the reference's, held against numpy over everything at once; and what is recommended."""

import numpy as np
import pytest

from toolkit.comparison.fidelity import Fidelity, OutputFidelity, OutputTally
from toolkit.comparison.goal import Goal
from toolkit.comparison.records.row import Row
from toolkit.comparison.verdicts.faithful import LEAST_DB, cannot_judge, caveats, faithful, judged_by_outputs

RNG = np.random.default_rng(0)


def tallied(reference, found, batch=3):
    tally = OutputTally("out")
    for start in range(0, len(reference), batch):
        tally.add(reference[start : start + batch], found[start : start + batch])
    return tally.result()


def test_figures_of_batches_are_those_of_the_whole():
    reference = RNG.standard_normal((10, 3, 4, 4)).astype(np.float32)
    found = reference + 0.1 * RNG.standard_normal(reference.shape).astype(np.float32)
    result = tallied(reference, found)
    one, two = reference.astype(np.float64), found.astype(np.float64)
    assert result.sqnr_db == pytest.approx(10 * np.log10((one**2).sum() / ((one - two) ** 2).sum()))
    flat, other = one.reshape(10, -1), two.reshape(10, -1)
    cosines = (flat * other).sum(1) / np.linalg.norm(flat, axis=1) / np.linalg.norm(other, axis=1)
    assert result.cosine == pytest.approx(cosines.mean())
    assert result.max_error == pytest.approx(np.abs(one - two).max() / (one.max() - one.min()))
    assert result.same == pytest.approx((one.argmax(1) == two.argmax(1)).mean())
    assert result.same < 1
    assert OutputFidelity.from_json(result.to_json()) == result


def test_what_is_identical_has_no_noise():
    values = RNG.standard_normal((4, 5)).astype(np.float32)
    result = tallied(values, values.copy())
    assert (result.sqnr_db, result.max_error, result.same, result.non_finite) == (None, 0, None, 0)
    assert result.cosine == pytest.approx(1)
    assert Fidelity(4, (result,)).least_db == np.inf


def test_integers_are_the_same_or_not():
    values = RNG.integers(0, 3, (7, 6))
    other = values.copy()
    other[0, :2] += 1
    assert tallied(values, other) == OutputFidelity("out", None, None, None, 40 / 42)


def test_samples_that_are_not_finite_are_counted_and_in_no_mean():
    reference = RNG.standard_normal((5, 2, 3, 3))
    found = reference * 1.01
    found[1, 0, 0, 0], found[4, 1, 2, 2] = np.nan, np.inf
    result = tallied(reference, found)
    assert result.non_finite == 2
    assert result.sqnr_db == pytest.approx(40)
    assert result.same == pytest.approx(3 / 5)


def test_noise_where_the_reference_is_silent_is_not_identical():
    silence = np.zeros((4, 5))
    assert Fidelity(4, (tallied(silence, silence + 0.1),)).least_db < -1000
    assert Fidelity(4, (tallied(silence, silence),)).least_db == np.inf


def test_samples_of_which_the_reference_is_not_finite_are_left_out_and_counted():
    reference = RNG.standard_normal((5, 3))
    found = reference * 1.01
    reference[2, 1] = np.nan
    tally = OutputTally("out")
    tally.add(reference, found)
    assert (tally.left_out, tally.result().non_finite) == (1, 0)
    assert tally.result().sqnr_db == pytest.approx(40)


def test_a_batch_of_nothing_but_nan_is_counted():
    reference = RNG.standard_normal((6, 3))
    found = reference * 1.01
    found[:3] = np.nan
    result = tallied(reference, found)
    assert (result.non_finite, result.sqnr_db) == (3, pytest.approx(40))


def row(name, *levels, non_finite=0):
    outputs = tuple(OutputFidelity(f"o{i}", level, 1.0, 0.0, None, non_finite) for i, level in enumerate(levels))
    return Row(name, name, 1, "sha256:0", fidelity=Fidelity(4, outputs))


def test_only_what_is_near_enough_at_every_output_is_recommended():
    rows = [row("ref"), row("near", LEAST_DB, 60.0), row("far", 60.0, 19.9), row("nan", 60.0, non_finite=1)]
    assert judged_by_outputs(rows)
    assert [one.name for one in faithful(rows)] == ["ref", "near"]
    assert not cannot_judge(rows, Goal("balanced"))
    assert "19.9 dB" in cannot_judge(rows[2:3], Goal("balanced"))
    assert cannot_judge(rows, Goal("accuracy"))
    assert caveats(Goal("balanced", max_drop=2.0))
    assert not caveats(Goal("balanced"))
    assert Row.from_json(rows[1].to_json()) == rows[1]
    assert "fidelity" not in Row("a", "a", 1, "sha256:0").to_json()
