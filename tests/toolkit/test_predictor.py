import io
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import scipy.special
from onnx.reference import ReferenceEvaluator
from PIL import Image

from engines.errors import DataError, InputError, RunError
from engines.metadata import METADATA_KEY, ModelMetadata
from engines.sessions.fake import FakeSession
from tests.tiny import CLASSES, METADATA, PREPROCESS, tiny_graph, tiny_images
from toolkit.loading import load, open_artifact
from toolkit.runtime import Predictor
from toolkit.runtime.decode import decode
from toolkit.runtime.prediction import softmax


def expected(session: FakeSession, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Classes by falling probability, and all probabilities, computed apart from the predictor."""
    pixels = np.stack([PREPROCESS.pixels(image) for image in images])
    logits = session.expected(PREPROCESS.normalise(pixels)).astype(np.float64)
    return np.argsort(-logits, axis=1, kind="stable"), scipy.special.softmax(logits, axis=1)


@pytest.fixture
def session() -> FakeSession:
    return FakeSession(metadata=METADATA)


def png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def test_each_image_gets_its_own_likeliest_classes(session: FakeSession) -> None:
    images = tiny_images(7)
    order, probabilities = expected(session, images)
    answers = Predictor(session).classify(images, top=3)
    assert [[c.index for c in answer.top] for answer in answers] == order[:, :3].tolist()
    for answer, row in zip(answers, probabilities, strict=True):
        assert [c.probability for c in answer.top] == pytest.approx([row[c.index] for c in answer.top], rel=1e-12)
        assert [c.label for c in answer.top] == [f"class {c.index}" for c in answer.top]
        assert (answer.label, answer.index, answer.probability) == (
            answer.top[0].label, answer.top[0].index, answer.top[0].probability,
        )  # fmt: skip


def test_top_is_all_classes_where_there_are_fewer(session: FakeSession) -> None:
    (answer,) = Predictor(session).classify(tiny_images(1), top=50)
    assert len(answer.top) == CLASSES
    assert sum(c.probability for c in answer.top) == pytest.approx(1)
    with pytest.raises(InputError, match="top 0"):
        Predictor(session).classify(tiny_images(1), top=0)


def test_an_image_may_be_given_in_any_form_alone_or_with_others(session: FakeSession, tmp_path: Path) -> None:
    image = tiny_images(1)[0]
    path = tmp_path / "a.png"
    path.write_bytes(png(image))
    predictor = Predictor(session)
    forms = [path, str(path), png(image), Image.fromarray(image), image]
    answers = predictor.classify(forms)
    assert answers == [answers[0]] * len(forms)
    for form in forms:
        assert predictor.classify(form) == answers[:1]
    assert predictor.classify(image for _ in range(2)) == answers[:2]
    assert predictor.classify([]) == []


def test_images_go_to_the_session_in_its_largest_batches() -> None:
    session = FakeSession(metadata=METADATA, max_batch=3)
    order, _ = expected(session, tiny_images(8))
    answers = Predictor(session).classify(tiny_images(8))
    assert session.batches == [3, 3, 2]
    assert [answer.index for answer in answers] == order[:, 0].tolist()
    assert Predictor(session, batch_size=100).batch_size == 3
    assert Predictor(session, batch_size=2).batch_size == 2
    assert Predictor(FakeSession(metadata=METADATA)).batch_size == 32


def test_a_damaged_picture_is_named_and_the_others_are_answered(session: FakeSession, tmp_path: Path) -> None:
    images = tiny_images(5)
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"\xff\xd8\xff damaged")
    mixed = [*images[:2], bad, *images[2:]]
    predictor = Predictor(session, batch_size=2)
    answers = list(predictor.answers(mixed))
    assert isinstance(answers[2], DataError)
    assert str(bad) in answers[2].cause
    assert [a for i, a in enumerate(answers) if i != 2] == predictor.classify(images)
    with pytest.raises(DataError, match=r"bad\.jpg"):
        predictor.classify(mixed)


def test_any_number_of_images_streams_through_in_bounded_memory() -> None:
    session = FakeSession(metadata=METADATA)
    taken = 0

    def endless() -> Iterator[np.ndarray]:
        nonlocal taken
        while True:
            taken += 1
            yield tiny_images(1, seed=taken)[0]

    answers = Predictor(session, batch_size=4, threads=2).answers(endless())
    assert [next(answers) for _ in range(10)]
    assert taken <= 10 + 4 * 4
    answers.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("threads", [1, 3])
def test_decoding_keeps_the_order_whatever_finishes_first(threads: int) -> None:
    sizes = [400, 4, 300, 8, 200, 16, 100]
    images = [np.full((size, size, 3), i, np.uint8) for i, size in enumerate(sizes)]
    decoded = list(decode(images, PREPROCESS, threads=threads, ahead=4))
    assert [int(np.asarray(pixels)[0, 0, 0]) for pixels in decoded] == list(range(7))


def test_an_engine_that_takes_pixels_gets_pixels() -> None:
    metadata = replace(METADATA, uint8_input=True)
    session = FakeSession(metadata=metadata)
    images = tiny_images(3)
    logits = session.expected(images)
    assert np.array_equal(Predictor(session).logits(images), logits.astype(np.float64))
    assert [a.index for a in Predictor(session).classify(images)] == logits.argmax(axis=1).tolist()


def test_an_engine_of_a_fixed_batch_gets_full_batches(tmp_path: Path) -> None:
    model = tiny_graph()
    onnx.save(model, tmp_path / "free.onnx")
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 4
    onnx.save(model, tmp_path / "fixed.onnx")
    images = tiny_images(6)
    with load(tmp_path / "free.onnx", device="cpu") as free, load(tmp_path / "fixed.onnx", device="cpu") as fixed:
        assert fixed.batch_size == 4
        assert fixed.logits(images).shape == (6, CLASSES)
        assert np.allclose(fixed.logits(images), free.logits(images), rtol=1e-5, atol=1e-5)


def test_logits_of_ready_pixels_need_the_models_size(session: FakeSession) -> None:
    predictor = Predictor(session, batch_size=4)
    images = tiny_images(9)
    assert np.array_equal(predictor.logits(images), session.expected(PREPROCESS.normalise(images)).astype(np.float64))
    assert predictor.logits(images[:0]).shape == (0, CLASSES)
    for wrong in (images.astype(np.float32), images[0], images[:, :8], images[..., :1]):
        with pytest.raises(InputError, match=r"give uint8 \[N, 16, 16, 3\]"):
            predictor.logits(wrong)


def test_an_engine_without_metadata_needs_preprocessing() -> None:
    foreign = FakeSession((3, 16, 16), CLASSES)
    with pytest.raises(InputError, match="carries no metadata") as caught:
        Predictor(foreign)
    assert "preprocess=Preprocess(...)" in caught.value.remedy
    nameless = Predictor(foreign, preprocess=PREPROCESS)
    assert {c.label for c in nameless.classify(tiny_images(1))[0].top} == set("01234")
    named = Predictor(foreign, preprocess=PREPROCESS, labels="abcde")
    assert {c.label for c in named.classify(tiny_images(1))[0].top} == set("abcde")
    assert Predictor(foreign, METADATA).labels == METADATA.labels


def test_metadata_that_does_not_fit_the_engine_is_refused() -> None:
    with pytest.raises(InputError, match=r"input: float32\[batch, 3, 32, 32\], but its preprocessing makes"):
        Predictor(FakeSession((3, 32, 32), CLASSES), METADATA)
    with pytest.raises(InputError, match="float64"):
        Predictor(FakeSession((3, 16, 16), CLASSES, dtype="float64"), METADATA)
    with pytest.raises(InputError, match="6 classes but there are 5 labels"):
        Predictor(FakeSession((3, 16, 16), 6), METADATA)
    with pytest.raises(InputError, match="batch size"):
        Predictor(FakeSession(metadata=METADATA), batch_size=-1)


class _Answering(FakeSession):
    def __init__(self, logits: np.ndarray) -> None:
        super().__init__(metadata=ModelMetadata("x", ("a", "b", "c"), PREPROCESS))
        self.answer = logits

    def expected(self, samples: np.ndarray) -> np.ndarray:
        return np.repeat(self.answer[None], len(samples), axis=0)


def test_logits_that_are_not_finite_are_an_error_not_a_label() -> None:
    for bad in (np.nan, np.inf, -np.inf):
        predictor = Predictor(_Answering(np.array([1, bad, 0], np.float32)))
        with pytest.raises(RunError, match="not finite"):
            predictor.classify(tiny_images(1))


def test_probabilities_of_huge_logits_do_not_overflow_and_equal_ones_keep_their_order() -> None:
    (answer,) = Predictor(_Answering(np.array([3e38, -3e38, 3e38], np.float32))).classify(tiny_images(1))
    assert [(c.label, c.probability) for c in answer.top] == [("a", 0.5), ("c", 0.5), ("b", 0.0)]
    rows = np.random.default_rng(0).normal(0, 30, (50, 7))
    assert np.allclose(softmax(rows), scipy.special.softmax(rows, axis=1), rtol=1e-12, atol=0)


def test_closing_the_predictor_closes_its_session(session: FakeSession) -> None:
    with Predictor(session) as predictor:
        predictor.close()
    with pytest.raises(RunError, match="closed"):
        predictor.classify(tiny_images(1))


def test_loading_a_graph_gives_a_predictor_with_the_models_own_preprocessing(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(tiny_graph(), path)
    with load(path, device="cpu", threads=1) as predictor:
        assert predictor.preprocess == METADATA.preprocess
        assert predictor.session.info.backend == "onnxruntime"
        reference = ReferenceEvaluator(str(path))
        images = tiny_images(3)
        (logits,) = reference.run(None, {"input": PREPROCESS.normalise(images)})
        assert np.allclose(predictor.logits(images), logits, atol=1e-4)


def test_loading_a_graph_without_metadata_closes_it_and_says_what_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(tiny_graph(metadata=None), path)
    with pytest.raises(InputError, match="carries no metadata"):
        load(path, device="cpu")
    assert METADATA_KEY not in path.read_bytes().decode("latin-1")
    with load(path, device="cpu", preprocess=PREPROCESS, labels="abcde") as told:
        assert told.classify(tiny_images(1))[0].label in "abcde"
    with load(path, device="cpu", preprocess=PREPROCESS) as nameless:
        assert nameless.classify(tiny_images(1))[0].label in "01234"


def test_loading_a_checkpoint_runs_it_in_pytorch(tmp_path: Path) -> None:
    import torch

    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 7, stride=32), torch.nn.Flatten(), torch.nn.Linear(196, 3))
    torch.save(module, tmp_path / "model.pt")
    with pytest.raises(InputError, match="pickle"):
        load(tmp_path / "model.pt", device="cpu")
    with load(tmp_path / "model.pt", device="cpu", trust_pickle=True) as predictor:
        spec = predictor.preprocess
        image = np.random.default_rng(0).integers(0, 256, (spec.height, spec.width, 3), np.uint8)
        with torch.inference_mode():
            logits = module(torch.from_numpy(spec.normalise(image[None]))).numpy()
        assert predictor.session.info.backend == "torch"
        assert np.allclose(predictor.logits(image[None]), logits, atol=1e-5)
    with pytest.raises(InputError, match="backend 'onnxruntime' doesn't run the checkpoint"):
        open_artifact(tmp_path / "model.pt", backend="onnxruntime")


def test_loading_what_does_not_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.calibration.json").write_text("{}")
    with pytest.raises(InputError, match="is a calibration table"):
        load(tmp_path / "m.calibration.json")
    (tmp_path / "m.engine").write_bytes(b"x")
    (tmp_path / "m.engine.json").write_text('{"format": "onnx-tensorrt-toolkit/passport"}')
    with pytest.raises(InputError, match="is a passport") as caught:
        load(tmp_path / "m.engine.json")
    assert caught.value.remedy == f"give the engine: {tmp_path / 'm.engine'}"
    with pytest.raises(InputError, match="does not exist"):
        load(tmp_path / "none.onnx")
    with pytest.raises(InputError, match="is a folder"):
        load(tmp_path)
    (tmp_path / "m.bin").write_bytes(b"what is this")
    with pytest.raises(InputError, match="no artifact that toolkit knows"):
        load(tmp_path / "m.bin")


def test_the_runtime_imports_alone() -> None:
    code = (
        "import sys, toolkit.runtime, toolkit.runtime.predictor\n"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'tensorrt', 'tensorrt_rtx', 'click', 'rich', 'PIL', 'sklearn'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_ready_pixels_are_classified_where_pillow_is_missing() -> None:
    code = (
        "import sys; sys.modules['PIL'] = None\n"
        "import numpy as np\n"
        "from engines.sessions.fake import FakeSession\n"
        "from engines.preprocess import Preprocess\n"
        "from toolkit.runtime import Predictor\n"
        "p = Predictor(FakeSession((3, 4, 4), 5), preprocess=Preprocess(4, 4))\n"
        "print(p.logits(np.zeros((2, 4, 4, 3), np.uint8)).shape)\n"
        "try: p.classify(b'x')\n"
        "except Exception as e: print(type(e).__name__, e)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("(2, 5)\nMissingLibraryError Decoding images needs the package 'PIL")
    assert "pip install 'onnx-tensorrt-toolkit[data]'" in done.stdout
