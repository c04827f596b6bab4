import numpy as np
import pytest
from sklearn.metrics import accuracy_score, top_k_accuracy_score

from toolkit.comparison.accuracy import Share, Tally, class_map, ranks


def draw(count=500, classes=12, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    logits = rng.standard_normal((count, classes)).astype(np.float32)
    logits[np.arange(count), labels] += 1.5
    return logits, labels.astype(np.int64)


def test_top1_and_top5_equal_scikit_learns():
    logits, labels = draw()
    tally = Tally()
    for start in range(0, 500, 37):
        tally.add(logits[start : start + 37], labels[start : start + 37])
    result = tally.result()
    assert result.top1.rate == accuracy_score(labels, logits.argmax(axis=1))
    assert result.top5.rate == top_k_accuracy_score(labels, logits, k=5, labels=np.arange(12))
    assert (result.top1.total, result.agreement, result.non_finite) == (500, None, 0)


def test_agreement_is_with_the_reference_and_not_with_the_labels():
    logits, labels = draw()
    other, _ = draw(seed=3)
    reference, tally = Tally(), Tally()
    answers = reference.add(logits, labels)
    tally.add(other, labels, answers)
    assert tally.result().agreement.count == int((other.argmax(1) == logits.argmax(1)).sum())


def test_five_classes_have_no_top5():
    logits, labels = draw(classes=5)
    tally = Tally()
    tally.add(logits, labels)
    assert tally.result().top5 is None


def test_equal_logits_rank_in_class_order_as_argmax_has_it():
    logits = np.zeros((3, 4), np.float32)
    np.testing.assert_array_equal(ranks(logits, np.array([0, 2, 3])), [0, 2, 3])


def test_an_engine_that_answers_nan_is_wrong_and_never_agrees_even_about_class_zero():
    logits = np.array([[np.nan, 0], [0, np.inf], [2, 1]], np.float32)
    tally = Tally()
    answers = tally.add(logits, np.array([0, 1, 0]), np.array([-1, 1, 0]))
    result = tally.result()
    np.testing.assert_array_equal(answers, [-1, -1, 0])
    assert (result.top1.count, result.agreement.count, result.non_finite) == (1, 1, 2)


def test_classes_are_matched_by_name_and_else_by_number():
    np.testing.assert_array_equal(class_map(["b", "c", "a"], ["a", "b", "c"]), [1, 2, 0])
    np.testing.assert_array_equal(class_map(["0", "1", "2"], ["a", "b", "c"]), [0, 1, 2])
    assert class_map(["a"], ["a", "b"]) is None


@pytest.mark.parametrize(("count", "total", "low", "high"), [(0, 10, 0, 0.2775), (358, 360, 0.9800, 0.9985)])
def test_a_share_carries_its_wilson_interval(count, total, low, high):
    """Bounds from solving |p - p0| = z sqrt(p0 (1 - p0) / n) for p0 by hand."""
    share = Share(count, total)
    for bound in share.interval:
        assert abs(share.rate - bound) == pytest.approx(1.959964 * (bound * (1 - bound) / total) ** 0.5, abs=1e-6)
    assert share.interval == pytest.approx((low, high), abs=6e-5)
    assert share.to_json()["rate"] == count / total
