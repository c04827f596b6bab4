"""Real networks evaluated side by side: figures, pictures, and an evaluation that was interrupted."""

import base64
import io
import json
import math
import tracemalloc
from dataclasses import replace

import numpy as np
import onnx
import pytest
from PIL import Image
from scipy.special import rel_entr, softmax
from scipy.stats import binomtest
from sklearn.metrics import accuracy_score, confusion_matrix, precision_recall_fscore_support

from engines.errors import RunError
from engines.metadata import METADATA_KEY
from engines.progress import QUIET
from tests.tiny import CLASSES, METADATA
from tests.toolkit.comparison.graphs import ORDER, answers, labelled, open_entries, with_one_more_class, write_graphs
from toolkit.benchmarking.messages import Contestant
from toolkit.comparison.accuracy.accuracy import Accuracy
from toolkit.comparison.accuracy.tally import Tally
from toolkit.comparison.measuring import evaluate as module
from toolkit.comparison.measuring.evaluate import evaluate
from toolkit.comparison.measuring.pictures import MOST, SIDE, data_url, pictures_of
from toolkit.comparison.measuring.plan import Plan
from toolkit.data import Split, choose

GRAPHS = ("a.onnx", "noisy.onnx", "permuted.onnx", "softmax.onnx", "nan.onnx")
IMAGES = 150


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluate")
    write_graphs(folder)
    return folder


@pytest.fixture(scope="module")
def data(folder):
    return labelled(folder / "a.onnx", IMAGES)


class Run:
    """One evaluation of all graphs, by workers that live as long as it."""

    def __init__(self, folder, data, *, reference="a.onnx", failing=None, **options):
        self.entries, self.workers = open_entries([folder / name for name in GRAPHS])
        if failing is not None:
            name, at = failing
            self._fail(self.workers[name], at)
        plan = Plan(tuple(Contestant(str(folder / name), name) for name in GRAPHS), dataset=data)
        try:
            self.found = evaluate(
                plan, data, self.entries, self.workers, reference=reference, progress=QUIET, **options
            )
        finally:
            for worker in self.workers.values():
                worker.close()

    @staticmethod
    def _fail(worker, at):
        real = worker.logits

        def logits(pixels, preprocess):
            if worker.images >= at:
                raise RunError("the GPU fell off the bus", "put it back")
            return real(pixels, preprocess)

        worker.logits = logits

    def __getitem__(self, name):
        return self.entries[name].accuracy


@pytest.fixture(scope="module")
def whole(folder, data):
    return Run(folder, data)


def probabilities(values, name):
    return values.astype(np.float64) if name == "softmax.onnx" else softmax(values.astype(np.float64), axis=1)


@pytest.mark.parametrize("name", GRAPHS)
def test_every_figure_of_a_real_network_equals_scikit_learns(whole, folder, data, name):
    reference, values = answers(folder / "a.onnx", data.test.images), answers(folder / name, data.test.images)
    if name == "permuted.onnx":
        values = values[:, np.argsort(ORDER)]
    found, truth = whole[name], data.test.labels
    good = np.isfinite(values).all(axis=1)
    top = np.where(good, np.nan_to_num(values).argmax(axis=1), -1)
    assert (name == "nan.onnx") == (not good.all())
    assert found.top1.rate == accuracy_score(truth, top)
    interval = binomtest(found.top1.count, IMAGES).proportion_ci(method="wilson")
    assert found.top1.interval == pytest.approx((interval.low, interval.high), abs=1e-12)
    every = np.arange(CLASSES)
    np.testing.assert_array_equal(found.confusion.counts, confusion_matrix(truth, top, labels=[*every, -1])[:-1, :-1])
    assert found.confusion.labels == METADATA.labels
    scores = precision_recall_fscore_support(truth, top, labels=every, zero_division=np.nan)
    for one, *expected in zip(found.confusion.per_class(), *scores, strict=True):
        mine = [math.nan if value is None else value for value in (one.precision, one.recall, one.f1)]
        assert [*mine, one.images] == pytest.approx(expected, nan_ok=True)

    sure = probabilities(values[good], name).max(axis=1)
    bins = np.ceil(sure * 15) - 1
    right = (top == truth)[good]
    gaps = [abs(right[bins == k].sum() - sure[bins == k].sum()) for k in range(15)]
    assert found.confidence.ece == pytest.approx(sum(gaps) / good.sum(), abs=1e-6)
    if name == "a.onnx":
        assert (found.against, found.agreement, found.disagreements) == (None, None, ())
        return

    first, against = reference.argmax(axis=1), found.against
    flipped = first != top
    assert found.agreement.rate == accuracy_score(first, top)
    ordered = np.sort(softmax(reference.astype(np.float64), axis=1), axis=1)
    margins = ordered[:, -1] - ordered[:, -2]
    assert against.weighted == pytest.approx(margins[flipped].sum() / IMAGES, abs=1e-6)
    assert against.drop.value == pytest.approx(accuracy_score(truth, first) - accuracy_score(truth, top))
    hurt, helped = ((first == truth) & (top != truth)).sum(), ((first != truth) & (top == truth)).sum()
    assert (against.hurt, against.helped) == (hurt, helped)
    expected = binomtest(int(hurt), int(hurt + helped)).pvalue if hurt + helped else 1
    assert against.p_value == pytest.approx(expected)
    kl = rel_entr(softmax(reference[good].astype(np.float64), axis=1), probabilities(values[good], name))
    assert against.kl == pytest.approx(kl.sum(axis=1).mean(), rel=1e-3, abs=1e-8)
    worst = sorted(np.flatnonzero(flipped), key=lambda row: -margins[row])[:12]
    assert [one.image for one in found.disagreements] == worst
    assert [one.label for one in found.disagreements] == [METADATA.labels[truth[row]] for row in worst]
    if name == "noisy.onnx":
        noise = ((reference.astype(np.float64) - values) ** 2).sum()
        signal = (reference.astype(np.float64) ** 2).sum()
        assert against.sqnr_db == pytest.approx(10 * math.log10(signal / noise), rel=1e-4)
        assert flipped.sum() > 5


def test_the_same_network_under_another_class_order_or_with_a_softmax_agrees_everywhere(whole):
    for name in ("permuted.onnx", "softmax.onnx"):
        assert whole[name].agreement.rate == 1
        assert whole[name].against.kl < 1e-9
        assert whole[name].top1 == whole["a.onnx"].top1
        assert whole[name].confidence.ece == pytest.approx(whole["a.onnx"].confidence.ece, abs=1e-6)
    assert whole["permuted.onnx"].against.sqnr_db is None or whole["permuted.onnx"].against.sqnr_db > 100
    assert whole["softmax.onnx"].against.sqnr_db is None
    assert whole["permuted.onnx"].confusion == whole["a.onnx"].confusion


def test_a_network_without_names_is_matched_through_those_of_the_data(folder, data, tmp_path):
    names = ("ant", "bee", "cat", "dog", "elk")
    named = onnx.load(folder / "permuted.onnx")
    labels = tuple(names[number] for number in ORDER)
    onnx.helper.set_model_props(named, {METADATA_KEY: replace(METADATA, labels=labels).dumps()})
    onnx.save(named, tmp_path / "named.onnx")
    entries, workers = open_entries([tmp_path / "named.onnx", folder / "a.onnx"])
    plan = Plan(tuple(entry.contestant for entry in entries.values()))
    evaluate(plan, replace(data, labels=names), entries, workers, reference="named.onnx", progress=QUIET)
    for worker in workers.values():
        worker.close()
    assert entries["a.onnx"].accuracy.agreement.rate == 1
    assert entries["a.onnx"].accuracy.confusion == entries["named.onnx"].accuracy.confusion
    assert entries["a.onnx"].accuracy.confusion.labels == labels


def test_one_with_more_classes_has_its_accuracy_but_is_compared_with_nothing(folder, data, whole, tmp_path):
    with_one_more_class(folder / "a.onnx", (*METADATA.labels, "other"), tmp_path / "wide.onnx")
    with_one_more_class(folder / "a.onnx", METADATA.labels, tmp_path / "wrong.onnx")
    entries, workers = open_entries([folder / "a.onnx", tmp_path / "wide.onnx", tmp_path / "wrong.onnx"])
    plan = Plan(tuple(entry.contestant for entry in entries.values()))
    evaluate(plan, data, entries, workers, reference="a.onnx", progress=QUIET)
    for worker in workers.values():
        worker.close()
    wide = entries["wide.onnx"]
    assert wide.accuracy.top1 == whole["a.onnx"].top1
    assert (wide.accuracy.against, wide.accuracy.agreement, wide.accuracy.top5.total) == (None, None, IMAGES)
    assert wide.notes == ["has another number of classes than the reference: no agreement"]
    assert entries["wrong.onnx"].error.cause == "'wrong.onnx' gives 6 logits for 5 labels"
    assert entries["wrong.onnx"].accuracy is None


def test_what_holds_nan_is_said(whole, folder, data):
    gone = ~np.isfinite(answers(folder / "nan.onnx", data.test.images)).all(axis=1)
    assert whole["nan.onnx"].non_finite == gone.sum() > 3
    assert whole.entries["nan.onnx"].notes == [f"logits of {gone.sum()} images hold NaN or infinity"]


def test_accuracy_survives_its_json(whole):
    for name in GRAPHS:
        accuracy = whole[name]
        assert Accuracy.from_json(json.loads(json.dumps(accuracy.to_json(), allow_nan=False))) == accuracy


def test_a_record_of_the_first_version_is_read(whole):
    value = whole["noisy.onnx"].to_json()
    for name in ("confusion", "confidence", "against", "disagreements"):
        del value[name]
    found = Accuracy.from_json(value)
    assert (found.top1, found.agreement) == (whole["noisy.onnx"].top1, whole["noisy.onnx"].agreement)
    assert (found.confusion, found.confidence, found.against, found.disagreements) == (None, None, None, ())


def test_pictures_show_what_the_model_saw_of_every_disagreement(whole, data):
    wanted = {one.image for name in GRAPHS for one in whole[name].disagreements}
    assert set(whole.found.pictures) == wanted
    for image, url in whole.found.pictures.items():
        kind, _, text = url.partition(",")
        assert kind == "data:image/png;base64"
        np.testing.assert_array_equal(
            np.asarray(Image.open(io.BytesIO(base64.b64decode(text)))), data.test.images[image]
        )


@pytest.mark.parametrize(
    ("shape", "size", "mode"),
    [((224, 300, 3), (112, 84), "RGB"), ((300, 200, 1), (75, 112), "L"), ((28, 28, 1), (28, 28), "L")],
)
@pytest.mark.parametrize("noise", [False, True])
def test_a_picture_is_small_and_keeps_its_shape(shape, size, mode, noise):
    """Noise makes a large PNG, so that a JPEG is taken; a drawing stays exact."""
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8) if noise else np.full(shape, 40, np.uint8)
    kind, _, text = data_url(pixels).partition(",")
    found = Image.open(io.BytesIO(base64.b64decode(text)))
    assert (found.size, found.mode) == (size, mode)
    assert max(found.size) <= SIDE
    assert len(text) < 16_000
    assert kind == f"data:image/{found.format.lower()};base64"
    if not noise:
        assert set(np.asarray(found).ravel()) == {40}


def test_at_most_48_pictures_are_kept_the_worst_of_each_first(whole):
    sample = whole["noisy.onnx"].disagreements[0]

    def with_images(numbers):
        values = {**sample.to_json()}
        made = [type(sample).from_json({**values, "image": number}) for number in numbers]
        return Accuracy(whole["a.onnx"].top1, None, None, 0, disagreements=tuple(made))

    split = Split(np.zeros((200, 16, 16, 3), np.uint8), np.zeros(200, np.int64))
    found = pictures_of(
        [with_images(range(start, start + 12)) for start in range(0, 72, 12)], split, METADATA.preprocess
    )
    assert len(found) == MOST
    assert {start + rank for start in range(0, 72, 12) for rank in range(8)} == set(found)


class StoppedError(Exception):
    pass


def interrupted(folder, data, monkeypatch, batches, **options):
    """The state, through JSON, of an evaluation that ends after so many batches."""
    monkeypatch.setattr(module, "KEEP_SECONDS", -1)
    states = []

    def keep(state):
        states.append(json.dumps(state, allow_nan=False))
        if len(states) == batches:
            raise StoppedError

    with pytest.raises(StoppedError):
        Run(folder, data, keep=keep, **options)
    return json.loads(states[-1])


@pytest.mark.parametrize("batches", [1, 3, 5])
def test_an_interrupted_evaluation_goes_on_where_it_was(whole, folder, data, monkeypatch, batches):
    state = interrupted(folder, data, monkeypatch, batches)
    again = Run(folder, data, known=state)
    for name in GRAPHS:
        assert again[name] == whole[name]
        assert again.workers[name].images == max(0, IMAGES - 32 * batches)
    assert again.found == whole.found
    assert again.entries["nan.onnx"].notes == whole.entries["nan.onnx"].notes


def test_one_that_had_failed_is_taken_through_what_it_missed(whole, folder, data, monkeypatch):
    state = interrupted(folder, data, monkeypatch, 4, failing=("noisy.onnx", 64))
    assert set(state["tallies"]) == set(GRAPHS) - {"noisy.onnx"}
    again = Run(folder, data, known=state)
    assert [again[name] for name in GRAPHS] == [whole[name] for name in GRAPHS]
    assert again.found == whole.found
    assert again.workers["noisy.onnx"].images == again.workers["a.onnx"].images == IMAGES
    assert again.workers["softmax.onnx"].images == IMAGES - 4 * 32


@pytest.mark.parametrize(
    "change",
    [
        lambda state: [tally.update(images=31) for tally in state["tallies"].values()],
        lambda state: [tally.pop("against") for tally in state["tallies"].values()],
        lambda state: [tally.update(labels=["x"]) for tally in state["tallies"].values()],
        lambda state: state.update(images=7, tallies={}),
        lambda state: state.update(digest="no digest", tallies={}),
    ],
)
def test_a_state_that_does_not_fit_is_not_built_upon(whole, folder, data, monkeypatch, change):
    state = interrupted(folder, data, monkeypatch, 2)
    change(state)
    again = Run(folder, data, known=state)
    assert [again[name] for name in GRAPHS] == [whole[name] for name in GRAPHS]
    assert again.found == whole.found


def test_what_was_held_against_another_reference_is_not_built_upon(whole, folder, data, monkeypatch):
    state = interrupted(folder, data, monkeypatch, 2, reference="noisy.onnx")
    again = Run(folder, data, known=state)
    assert [again[name] for name in GRAPHS] == [whole[name] for name in GRAPHS]


def test_against_a_reference_that_failed_half_way_nothing_is_compared(folder, data, monkeypatch):
    monkeypatch.setattr(module, "KEEP_SECONDS", -1)
    kept = []
    found = Run(folder, data, failing=("a.onnx", 64), keep=kept.append)
    assert found["a.onnx"] is None
    assert found.entries["a.onnx"].error.cause == "the GPU fell off the bus"
    assert (found["noisy.onnx"].agreement, found["noisy.onnx"].against) == (None, None)
    assert found["noisy.onnx"].disagreements == ()
    assert found["noisy.onnx"].top1.total == IMAGES
    assert len(kept) == 2
    assert found.found.pictures == {}


def test_an_accuracy_that_is_there_is_not_measured_again(whole, folder, data):
    entries, workers = open_entries([folder / name for name in GRAPHS])
    for name in set(GRAPHS) - {"noisy.onnx"}:
        entries[name].accuracy = whole[name]
    plan = Plan(tuple(Contestant(str(folder / name), name) for name in GRAPHS), dataset=data)
    evaluate(plan, data, entries, workers, reference="a.onnx", progress=QUIET)
    assert entries["noisy.onnx"].accuracy == whole["noisy.onnx"]
    assert [workers[name].images for name in GRAPHS] == [IMAGES, IMAGES, 0, 0, 0]
    assert evaluate(plan, data, entries, workers, reference="a.onnx", progress=QUIET) == whole.found
    assert workers["a.onnx"].images == IMAGES
    for worker in workers.values():
        worker.close()


def test_the_data_is_known_by_its_pixels_and_labels(whole, folder, data):
    other = labelled(folder / "a.onnx", IMAGES)
    other.test.labels[choose(data.test, IMAGES)[-1]] += 1
    other.test.labels[:] %= CLASSES
    found = Run(folder, other).found.data
    assert found.digest != whole.found.data.digest
    assert (found.images, found.name, found.split) == (IMAGES, "blobs", "test")


def test_ten_times_the_images_take_no_more_memory():
    rng = np.random.default_rng(0)
    names = tuple(map(str, range(100)))

    def peak(batches):
        base, tally = Tally(names), Tally(names)
        tracemalloc.start()
        for start in range(0, 32 * batches, 32):
            logits, labels = rng.standard_normal((2, 32, 100), np.float32), rng.integers(0, 100, 32)
            tally.add(tally.read(logits[1], labels), range(start, start + 32), base.read(logits[0], labels))
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    assert peak(100) < 1.1 * peak(10)
