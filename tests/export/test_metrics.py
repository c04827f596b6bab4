"""Metrics, each against SciPy's, scikit-learn's or a hand-made computation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special, stats
from sklearn.metrics import accuracy_score, top_k_accuracy_score

from engines.errors import InputError
from export import metrics


@given(st.integers(1, 5000), st.floats(0, 1), st.sampled_from([0.8, 0.9, 0.95, 0.99]))
def test_wilson_intervals_equal_scipys(total: int, share: float, confidence: float) -> None:
    successes = round(total * share)
    expected = stats.binomtest(successes, total).proportion_ci(confidence, method="wilson")
    assert metrics.wilson_interval(successes, total, confidence) == pytest.approx(tuple(expected), abs=1e-12)


def test_wilson_intervals_stay_inside_and_reach_the_ends() -> None:
    low, high = metrics.wilson_interval(10, 10)
    assert (low, high) == (pytest.approx(0.7224672, abs=1e-6), 1.0)
    assert metrics.wilson_interval(0, 10) == (0.0, pytest.approx(1 - 0.7224672, abs=1e-6))


@pytest.mark.parametrize(("successes", "total", "confidence"), [(0, 0, 0.95), (3, 2, 0.95), (-1, 2, 0.95), (1, 2, 1)])
def test_no_interval_without_samples(successes: int, total: int, confidence: float) -> None:
    with pytest.raises(InputError, match="no interval"):
        metrics.wilson_interval(successes, total, confidence)


def test_accuracy_equals_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(500, 12)).astype(np.float32), rng.integers(0, 12, 500)
    assert metrics.accuracy(logits, labels) == pytest.approx(accuracy_score(labels, logits.argmax(1)))
    for k in (2, 5):
        expected = top_k_accuracy_score(labels, logits, k=k, labels=np.arange(12))
        assert metrics.accuracy(logits, labels, k) == pytest.approx(expected)


def test_ties_go_to_the_lower_index_as_argmax_has_it() -> None:
    logits = np.array([[1.0, 1.0, 0.0]])
    assert metrics.accuracy(logits, [0]) == 1
    assert metrics.accuracy(logits, [1]) == 0
    assert metrics.accuracy(logits, [1], k=2) == 1


def test_agreement_counts_equal_labels() -> None:
    a = np.eye(4)
    b = a[[0, 1, 3, 3]]
    result = metrics.agreement(a, b)
    assert (result.share, result.total) == (0.75, 4)
    assert (result.low, result.high) == metrics.wilson_interval(3, 4)
    assert result.to_json()["share"] == 0.75


def test_kl_equals_scipys_and_is_zero_for_shifted_logits() -> None:
    rng = np.random.default_rng(1)
    p, q = rng.normal(0, 5, (2, 64, 10))
    expected = special.rel_entr(special.softmax(p, 1), special.softmax(q, 1)).sum(1).mean()
    assert metrics.kl_divergence(p, q) == pytest.approx(expected, rel=1e-12)
    assert metrics.kl_divergence(p, p + 100) == pytest.approx(0, abs=1e-12)
    assert np.isfinite(metrics.kl_divergence(p * 1000, q))


def test_snr_of_known_noise_is_what_was_put_in() -> None:
    rng = np.random.default_rng(2)
    signal = rng.normal(0, 3, 200_000)
    noisy = signal + rng.normal(0, 0.3, signal.shape)
    assert metrics.snr_db(signal, noisy) == pytest.approx(20, abs=0.05)
    assert metrics.snr_db(signal, signal) == np.inf
    assert metrics.snr_db(np.zeros(3), np.ones(3)) == -np.inf


def test_max_abs_finds_the_worst_and_keeps_nan() -> None:
    assert metrics.max_abs([1.0, 2.0, 3.0], [1.0, 2.5, 2.75]) == 0.5
    assert np.isnan(metrics.max_abs([1.0, np.nan], [1.0, 1.0]))


def test_margin_is_the_lead_of_the_best() -> None:
    np.testing.assert_array_equal(metrics.margin([[3.0, 1.0, 2.5], [0.0, 0.0, -1.0]]), [0.5, 0.0])
    assert metrics.margin([[1.0]])[0] == np.inf


@pytest.mark.parametrize("function", [metrics.max_abs, metrics.snr_db, metrics.kl_divergence, metrics.agreement])
def test_shapes_must_agree(function: object) -> None:
    with pytest.raises(InputError, match="can't be compared"):
        function(np.ones((2, 3)), np.ones((3, 2)))  # type: ignore[operator]
    with pytest.raises(InputError, match="can't be compared"):
        function(np.ones((0, 3)), np.ones((0, 3)))  # type: ignore[operator]
