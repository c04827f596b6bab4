"""Every figure of accuracy against scikit-learn, scipy and plain loops, on random answers."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import log_softmax, rel_entr, softmax
from scipy.stats import binomtest
from sklearn.calibration import calibration_curve
from sklearn.metrics import (
    accuracy_score,
    confusion_matrix,
    log_loss,
    precision_recall_fscore_support,
    top_k_accuracy_score,
)

from toolkit.comparison.accuracy import confusion
from toolkit.comparison.accuracy.accuracy import Accuracy
from toolkit.comparison.accuracy.answers import Answers, are_probabilities, class_map, ranks
from toolkit.comparison.accuracy.paired import paired_interval
from toolkit.comparison.accuracy.tally import Tally

CLASSES = 12
NAMES = tuple(f"name {number}" for number in range(CLASSES))


def draw(count=500, classes=CLASSES, seed=0, noise=0.0):
    """Logits that are right about two times in three; with ``noise``, the same ones disturbed."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    logits = rng.standard_normal((count, classes)).astype(np.float32)
    logits[np.arange(count), labels] += 1.5
    logits += noise * np.random.default_rng(9).standard_normal(logits.shape).astype(np.float32)
    return logits, labels.astype(np.int64)


def count(values, labels, reference=None, *, names=NAMES, order=None, batch=37, indices=None, restart=False):
    """The accuracy of answers, counted in batches; ``restart`` goes through JSON between any two."""
    images = np.arange(len(labels)) if indices is None else indices
    tally, base = Tally(names, order), Tally(names)
    truth = labels if order is None else order[labels]
    for start in range(0, len(labels), batch):
        part = slice(start, start + batch)
        against = None if reference is None else base.read(reference[part], truth[part])
        tally.add(tally.read(values[part], labels[part]), images[part].tolist(), against)
        if restart:
            state = json.loads(json.dumps(tally.state(), allow_nan=False))
            tally = Tally(names, order)
            tally.restore(state)
    return tally.result()


def round_trip(accuracy):
    return Accuracy.from_json(json.loads(json.dumps(accuracy.to_json(), allow_nan=False)))


def test_shares_equal_scikit_learns_with_scipys_wilson_intervals():
    logits, labels = draw()
    other, _ = draw(noise=0.5)
    found = count(other, labels, logits)
    top = other.argmax(axis=1)
    assert found.top1.rate == accuracy_score(labels, top)
    assert found.top5.rate == top_k_accuracy_score(labels, other, k=5, labels=np.arange(CLASSES))
    assert found.agreement.rate == accuracy_score(logits.argmax(axis=1), top)
    for share in (found.top1, found.top5, found.agreement, found.against.flips):
        expected = binomtest(share.count, share.total).proportion_ci(method="wilson")
        assert share.interval == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_the_confusion_and_every_class_equal_scikit_learns():
    logits, labels = draw(classes=8)
    labels[labels == 3] = 4  # no image of class 3
    logits[:, 5] = -20  # none is taken for class 5
    found = count(logits, labels, names=NAMES[:8])
    top, every = logits.argmax(axis=1), np.arange(8)
    np.testing.assert_array_equal(found.confusion.counts, confusion_matrix(labels, top, labels=every))
    precision, recall, f1, support = precision_recall_fscore_support(labels, top, labels=every, zero_division=np.nan)
    scores = found.confusion.per_class()
    assert [one.label for one in scores] == list(NAMES[:8])
    assert [one.images for one in scores] == support.tolist()
    for mine, theirs in zip(
        [(one.precision, one.recall, one.f1) for one in scores], zip(precision, recall, f1, strict=True), strict=True
    ):
        assert [math.nan if value is None else value for value in mine] == pytest.approx(theirs, nan_ok=True)
    assert scores[3].recall is None
    assert scores[5].precision is None


def test_the_calibration_of_confidence_equals_a_plain_loop_and_scikit_learns_curve():
    logits, labels = draw(2000)
    found = count(logits, labels).confidence
    chances = softmax(logits.astype(np.float64), axis=1)
    sure, right = chances.max(axis=1), chances.argmax(axis=1) == labels
    ece = 0.0
    for number in range(15):
        inside = (sure > number / 15) & (sure <= (number + 1) / 15)
        assert found.bins[number].count == inside.sum()
        if inside.any():
            ece += abs(right[inside].mean() - sure[inside].mean()) * inside.mean()
        else:
            assert (found.bins[number].accuracy, found.bins[number].confidence) == (None, None)
    assert found.ece == pytest.approx(ece, rel=1e-12)
    share, mean = calibration_curve(right, sure, n_bins=15, strategy="uniform")
    assert [one.accuracy for one in found.bins if one.count] == pytest.approx(share)
    assert [one.confidence for one in found.bins if one.count] == pytest.approx(mean)


def test_divergence_and_noise_at_the_logits_equal_independent_formulas():
    logits, labels = draw()
    other, _ = draw(noise=0.3)
    found = count(other, labels, logits).against
    first, second = logits.astype(np.float64), other.astype(np.float64)
    chances = softmax(first, axis=1)
    assert found.kl == pytest.approx(rel_entr(chances, softmax(second, axis=1)).sum(axis=1).mean(), rel=1e-9)
    # Cross-entropy minus entropy, both by scikit-learn: each image once with every class, weighted by its chance.
    every, weights = np.tile(np.arange(CLASSES), len(first)), chances.ravel()
    losses = [
        log_loss(every, softmax(x, axis=1).repeat(CLASSES, axis=0), sample_weight=weights) for x in (second, first)
    ]
    assert found.kl == pytest.approx(losses[0] - losses[1], rel=1e-6)
    signal, noise = (first**2).sum(), ((first - second) ** 2).sum()
    assert found.sqnr_db == pytest.approx(10 * math.log10(signal / noise), rel=1e-12)


def test_flips_are_weighted_by_how_sure_the_reference_was():
    logits, labels = draw()
    logits, other = 3 * logits, 3 * draw(noise=1.0)[0]
    found = count(other, labels, logits)
    chances = np.sort(softmax(logits.astype(np.float64), axis=1), axis=1)
    margins = chances[:, -1] - chances[:, -2]
    first, second = logits.argmax(axis=1), other.argmax(axis=1)
    flipped = first != second
    assert found.against.flips.count == flipped.sum() > 50
    assert found.against.weighted == pytest.approx(margins[flipped].sum() / len(labels))
    assert found.against.confident == (margins[flipped] > 0.5).sum() > 0
    hurt, helped = ((first == labels) & (second != labels)).sum(), ((first != labels) & (second == labels)).sum()
    assert (found.against.hurt, found.against.helped) == (hurt, helped)
    drop = accuracy_score(labels, first) - accuracy_score(labels, second)
    assert found.against.drop.value == pytest.approx(drop)
    assert (found.against.drop.low, found.against.drop.high) == paired_interval(int(hurt), int(helped), len(labels))
    assert found.against.p_value == pytest.approx(binomtest(int(hurt), int(hurt + helped)).pvalue)


def test_the_worst_disagreements_are_those_that_the_reference_was_surest_of():
    logits, labels = draw()
    other, _ = draw(noise=1.0)
    indices = np.random.default_rng(3).permutation(5000)[: len(labels)]
    found = count(other, labels, logits, indices=indices).disagreements
    chances = softmax(logits.astype(np.float64), axis=1)
    own = softmax(other.astype(np.float64), axis=1)
    ordered = np.sort(chances, axis=1)
    margins = ordered[:, -1] - ordered[:, -2]
    first, second = logits.argmax(axis=1), other.argmax(axis=1)
    worst = sorted(np.flatnonzero(first != second), key=lambda row: -margins[row])[:12]
    assert [one.image for one in found] == indices[worst].tolist()
    assert [one.label for one in found] == [NAMES[labels[row]] for row in worst]
    assert [one.reference for one in found] == [NAMES[first[row]] for row in worst]
    assert [one.answer for one in found] == [NAMES[second[row]] for row in worst]
    assert [one.margin for one in found] == pytest.approx(margins[worst])
    assert [one.reference_probability for one in found] == pytest.approx(chances.max(axis=1)[worst])
    assert [one.answer_probability for one in found] == pytest.approx(own.max(axis=1)[worst])


def test_the_same_answers_differ_in_nothing():
    logits, labels = draw()
    found = count(logits, labels, logits)
    assert (found.against.flips.count, found.against.weighted, found.against.kl) == (0, 0, 0)
    assert (found.against.sqnr_db, found.against.p_value, found.disagreements) == (None, 1.0, ())
    assert found.against.drop.low < 0 < found.against.drop.high


def test_classes_in_another_order_change_no_figure():
    logits, labels = draw()
    other, _ = draw(noise=0.7)
    order = np.random.default_rng(5).permutation(CLASSES)
    permuted = np.empty_like(other)
    permuted[:, np.argsort(order)] = other
    assert count(permuted, np.argsort(order)[labels], logits, order=order) == count(other, labels, logits)


def test_answers_that_are_nan_are_wrong_and_flips_and_count_nowhere_else():
    logits, labels = draw(60)
    other, _ = draw(60, noise=0.5)
    gone = np.zeros(60, bool)
    gone[[0, 7, 33]] = True
    broken = other.copy()
    broken[0, 3], broken[7], broken[33, 0] = np.nan, np.inf, -np.inf
    found, rest = count(broken, labels, logits), count(other[~gone], labels[~gone], logits[~gone])
    assert found.non_finite == 3
    assert (found.top1.count, found.top5.count) == (rest.top1.count, rest.top5.count)
    assert found.agreement.count == rest.agreement.count
    assert found.against.flips.count == rest.against.flips.count + 3
    assert found.against.kl == pytest.approx(rest.against.kl)
    assert found.against.sqnr_db == pytest.approx(rest.against.sqnr_db)
    assert found.confidence.ece == pytest.approx(rest.confidence.ece)
    assert [one.count for one in found.confidence.bins] == [one.count for one in rest.confidence.bins]
    assert found.confusion.unanswered.sum() == 3
    assert [score.recall for score in found.confusion.per_class()] == pytest.approx(
        [(labels[logits_right(broken, labels)] == k).sum() / (labels == k).sum() for k in range(CLASSES)]
    )
    unanswered = {one.image for one in found.disagreements if one.answer is None}
    assert unanswered
    assert unanswered <= {0, 7, 33}


def logits_right(values, labels):
    return np.isfinite(values).all(axis=1) & (np.nan_to_num(values).argmax(axis=1) == labels)


def test_a_reference_that_is_nan_has_no_margin_and_shows_no_disagreement():
    logits, labels = draw(60)
    other, _ = draw(60, noise=0.5)
    broken = logits.copy()
    broken[5] = np.nan
    found = count(other, labels, broken)
    assert found.against.flips.count == count(other, labels, logits).against.flips.count + (
        logits[5].argmax() == other[5].argmax()
    )
    assert 5 not in {one.image for one in found.disagreements}
    alone = count(np.ones((1, 1), np.float32), np.array([0]), np.full((1, 1), np.nan, np.float32), names=NAMES[:1])
    assert (alone.against.flips.count, alone.against.weighted, alone.against.helped) == (1, 0, 1)
    assert alone.disagreements == ()
    assert math.isfinite(found.against.kl)


def test_an_artifact_that_only_answers_nan_has_no_confidence_and_no_divergence():
    logits, labels = draw(40)
    found = count(np.full_like(logits, np.nan), labels, logits)
    assert (found.top1.count, found.non_finite, found.confidence) == (0, 40, None)
    assert (found.against.kl, found.against.sqnr_db, found.against.flips.count) == (None, None, 40)
    assert found.against.weighted > 0
    assert round_trip(found) == found


def test_a_head_that_gives_probabilities_is_taken_at_its_word():
    logits, labels = draw()
    other, _ = draw(noise=0.3)
    plain = count(other, labels, logits)
    chances = softmax(other.astype(np.float64), axis=1).astype(np.float32)
    one, both = count(chances, labels, logits), count(chances, labels, softmax(logits, axis=1))
    for found in (one, both):
        assert (found.top1, found.agreement, found.top5) == (plain.top1, plain.agreement, plain.top5)
        assert found.against.kl == pytest.approx(plain.against.kl, rel=1e-4)
        assert found.against.weighted == pytest.approx(plain.against.weighted, rel=1e-4)
        assert found.confidence.ece == pytest.approx(plain.confidence.ece, rel=1e-4)
    assert one.against.sqnr_db is None
    reference = softmax(logits, axis=1).astype(np.float64)
    noise = ((reference - chances) ** 2).sum()
    assert both.against.sqnr_db == pytest.approx(10 * math.log10((reference**2).sum() / noise))


def test_what_a_head_gives_is_learnt_from_the_first_answer_that_is_finite():
    logits, labels = draw(111)
    reference, chances = softmax(logits, axis=1), softmax(draw(111, noise=0.3)[0], axis=1)
    chances[:37] = np.nan
    found = count(chances, labels, reference, batch=37).against
    noise = np.square(reference[37:].astype(np.float64) - chances[37:]).sum()
    signal = np.square(reference[37:].astype(np.float64)).sum()
    assert found.sqnr_db == pytest.approx(10 * math.log10(signal / noise))


def test_probabilities_that_were_rounded_to_zero_make_no_divergence_infinite():
    values = np.eye(4, dtype=np.float32)
    found = count(values[[1, 0, 2, 3]], np.arange(4), values, names=NAMES[:4])
    assert found.against.kl == pytest.approx(2 / 4 * -math.log(np.finfo(np.float32).tiny))


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("classes", [2, 10, 1000])
def test_probabilities_are_told_from_logits(dtype, classes):
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((32, classes)) * 5
    assert are_probabilities(softmax(logits, axis=1).astype(dtype).astype(np.float32))
    assert not are_probabilities(logits.astype(dtype).astype(np.float32))
    assert not are_probabilities(np.abs(logits).astype(np.float32))
    assert not are_probabilities(log_softmax(logits, axis=1).astype(np.float32))
    assert are_probabilities(np.full((3, classes), np.nan, np.float32)) is None


def test_huge_logits_overflow_nothing():
    logits = np.array([[3e38, -3e38, 0], [1e4, 1e4, -1e4]], np.float32)
    found = count(logits[:, [1, 0, 2]], np.array([0, 1]), logits, names=NAMES[:3])
    assert (found.against.flips.count, found.against.confident) == (1, 1)
    assert round_trip(found) == found


def test_equal_logits_rank_in_class_order_as_argmax_has_it():
    logits = np.zeros((3, 4), np.float32)
    np.testing.assert_array_equal(ranks(logits, np.array([0, 2, 3])), [0, 2, 3])


def test_of_equal_logits_an_artifact_answers_the_first_in_its_own_order():
    order = np.array([2, 0, 1])
    found = Answers.of(np.zeros((1, 3), np.float32), np.array([1]), to_reference=order)
    assert (found.predicted.tolist(), found.truth.tolist(), found.margin.tolist()) == ([2], [0], [0])


@pytest.mark.parametrize(("classes", "with_top5"), [(1, False), (5, False), (6, True)])
def test_top5_needs_more_than_five_classes(classes, with_top5):
    logits, labels = draw(20, classes)
    assert (count(logits, labels, logits, names=NAMES[:classes]).top5 is not None) == with_top5


def test_no_confusion_is_counted_for_more_classes_than_it_has_memory_for(monkeypatch):
    monkeypatch.setattr("toolkit.comparison.accuracy.tally.MOST_CLASSES", CLASSES - 1)
    logits, labels = draw()
    found = count(logits, labels, logits, restart=True)
    assert found.confusion is None
    assert found.top1.rate == accuracy_score(labels, logits.argmax(axis=1))
    assert confusion.MOST_CLASSES**2 * 8 < 64 << 20


def test_classes_are_matched_by_name_and_else_by_number():
    np.testing.assert_array_equal(class_map(["b", "c", "a"], ["a", "b", "c"]), [1, 2, 0])
    np.testing.assert_array_equal(class_map(["0", "1", "2"], ["a", "b", "c"]), [0, 1, 2])
    assert class_map(["a"], ["a", "b"]) is None


def test_counts_of_other_classes_are_refused():
    logits, labels = draw(10)
    tally = Tally(NAMES)
    tally.add(tally.read(logits, labels), range(10))
    with pytest.raises(ValueError, match="other classes"):
        Tally(NAMES[::-1]).restore(tally.state())


values = st.sampled_from([-30.0, -1.0, 0.0, 0.5, 1.0, 1.0, 88.0, 3e38, np.nan, np.inf, -np.inf])


@given(st.data(), st.integers(1, 7), st.integers(1, 9), st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_ties_nan_and_permuted_classes_are_counted_as_a_plain_loop_counts_them(data, classes, images, batch):
    logits, other = (data.draw(arrays(np.float32, (images, classes), elements=values)) for _ in range(2))
    labels = data.draw(arrays(np.int64, images, elements=st.integers(0, classes - 1)))
    order = np.array(data.draw(st.permutations(range(classes))))
    found = count(other, labels, logits, names=NAMES[:classes], order=order, batch=batch)

    truth = order[labels]
    answers = [int(order[row.argmax()]) if np.isfinite(row).all() else -1 for row in other]
    first = [int(row.argmax()) if np.isfinite(row).all() else -1 for row in logits]
    agree = [a == b >= 0 for a, b in zip(answers, first, strict=True)]
    assert found.top1.count == accuracy_score(truth, answers, normalize=False)
    assert found.agreement.count == sum(agree)
    assert found.against.flips.count == images - sum(agree)
    assert found.non_finite == answers.count(-1)
    hurt = sum(a != t == b for a, b, t in zip(answers, first, truth, strict=True))
    helped = sum(b != t == a for a, b, t in zip(answers, first, truth, strict=True))
    assert (found.against.hurt, found.against.helped) == (hurt, helped)
    matrix = confusion_matrix(truth, answers, labels=[*range(classes), -1])
    np.testing.assert_array_equal(found.confusion.counts, matrix[:classes, :classes])
    np.testing.assert_array_equal(found.confusion.unanswered, matrix[:classes, classes])
    assert found.against.kl is None or 0 <= found.against.kl < np.inf
    assert all(0 <= one.margin <= 1 for one in found.disagreements)
    assert round_trip(found) == found
    restarted = count(other, labels, logits, names=NAMES[:classes], order=order, batch=batch, restart=True)
    assert restarted == found
