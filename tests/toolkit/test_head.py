"""What a classifier makes of pictures and of outputs, for applications that run the engine themselves."""

import io
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engines import pictures
from engines.errors import DataError, InputError, RunError
from engines.sessions.fake import FakeSession
from engines.tensors import Feeds, TensorSpec
from tests.tiny import METADATA, PREPROCESS, tiny_images
from toolkit.runtime import Batcher, Head, Predictor
from toolkit.runtime.overlap import overlapped


def head_of(session: FakeSession) -> Head:
    return Head.of(session.inputs, session.outputs, session.metadata)


def test_a_sample_is_what_the_engine_takes_of_one_picture() -> None:
    image = tiny_images(1)[0]
    pixels = head_of(FakeSession(metadata=replace(METADATA, uint8_input=True)))
    assert np.array_equal(pixels.sample(image), image)
    floats = head_of(FakeSession(metadata=METADATA))
    assert np.array_equal(floats.sample(image), PREPROCESS.normalise(image[None])[0])
    half = Head.of(
        (TensorSpec("input", "float16", ("batch", 3, 16, 16)),),
        (TensorSpec("logits", "float32", ("batch", 5)),),
        METADATA,
    )
    assert half.sample(image).dtype == np.float16
    assert np.array_equal(half.sample(image), PREPROCESS.normalise(image[None])[0].astype(np.float16))
    for wrong in (image.astype(np.float32), image[:8], image[None]):
        with pytest.raises(InputError, match=r"give uint8 \[N, 16, 16, 3\]"):
            floats.sample(wrong)


def test_predictions_are_read_from_a_batch_and_from_one_sample() -> None:
    session = FakeSession(metadata=METADATA)
    images = tiny_images(4)
    head, wanted = head_of(session), Predictor(session).classify(images, top=2)
    outputs = session.run({"input": np.stack([head.sample(image) for image in images])})
    assert head.predictions(outputs, top=2) == wanted
    one = {name: values[1] for name, values in outputs.items()}
    assert head.predictions(one, top=2) == [wanted[1]]
    # An engine that leaves its last pooling's dimensions: [batch, classes, 1, 1].
    deep = Head.of(session.inputs, (TensorSpec("logits", "float32", ("batch", 5, 1, 1)),), METADATA)
    assert deep.predictions({"logits": outputs["logits"][:, :, None, None]}, top=2) == wanted
    assert deep.predictions({"logits": outputs["logits"][1, :, None, None]}, top=2) == [wanted[1]]
    with pytest.raises(InputError, match="top 0"):
        head.predictions(outputs, top=0)
    with pytest.raises(RunError, match=r"not finite \(first in image 2 of a batch of 4\)"):
        head.predictions({"logits": np.where(np.arange(4)[:, None] == 2, np.nan, outputs["logits"])})
    with pytest.raises(RunError, match="answers 4 logits for 5 labels"):
        head.predictions({"logits": outputs["logits"][:, :4]})


def test_an_application_embeds_a_batcher_with_prepare_and_read() -> None:
    images = tiny_images(8)
    predictor = Predictor(FakeSession(metadata=METADATA))
    wanted = predictor.classify(images)
    with Batcher(predictor.session, max_batch=4) as batcher:  # its slots are free: classify took none
        answers = [batcher.submit(predictor.prepare(image)) for image in images]
        assert [predictor.read(answer.result())[0] for answer in answers] == wanted


def test_pictures_of_the_models_size_are_classified_as_they_are() -> None:
    predictor, images = Predictor(FakeSession(metadata=METADATA), batch_size=3), tiny_images(7)
    assert predictor.classify_pixels(images, top=2) == predictor.classify(images, top=2)
    assert predictor.classify_pixels(images[:0]) == []


class _Meeting(FakeSession):
    """Its runs take until something else has happened."""

    def __init__(self, until: dict[int, threading.Event]) -> None:
        super().__init__(metadata=METADATA)
        self.until, self.met = until, list[bool]()

    def run(self, feeds: Feeds) -> dict[str, np.ndarray]:
        if len(self.met) in self.until:
            self.met.append(self.until[len(self.met)].wait(20))
        else:
            self.met.append(True)
        return super().run(feeds)


def test_the_next_batch_is_prepared_and_the_last_one_read_while_the_engine_runs() -> None:
    prepared, read = threading.Event(), threading.Event()
    session = _Meeting({0: prepared, 2: read})

    def images() -> Iterator[np.ndarray]:
        for number in range(24):
            if number == 13:  # beyond what is decoded ahead of the first batch, 8 of them behind its 4
                prepared.set()
            yield tiny_images(1, seed=number)[0]

    count = 0
    for count, _ in enumerate(Predictor(session, batch_size=4, threads=2).answers(images()), 1):
        if count == 8:  # the last of the second batch, while the third runs
            read.set()
    assert (count, session.met) == (24, [True] * 6)


def test_a_picture_may_be_classified_in_the_midst_of_others() -> None:
    predictor, images = Predictor(FakeSession(metadata=METADATA, delay=0.002), batch_size=2), tiny_images(12)
    wanted = predictor.classify(images)
    found = []
    for answer in predictor.answers(images):
        found.append(answer)
        assert predictor.classify(images[0]) == wanted[:1]
    assert found == wanted


def test_an_engine_that_fails_ends_the_stream_behind_the_answers_that_it_gave() -> None:
    predictor = Predictor(FakeSession(metadata=METADATA, fail_on={2}), batch_size=4)
    found = []
    with pytest.raises(RunError, match="run 2"):
        found.extend(predictor.answers(tiny_images(20)))
    found = []
    with pytest.raises(RunError, match="run 5"):
        for answer in Predictor(FakeSession(metadata=METADATA, fail_on={5}), batch_size=2).answers(tiny_images(20)):
            found.append(answer)
    assert len(found) == 10


def test_overlapped_ends_its_thread_when_it_is_left() -> None:
    before = threading.active_count()
    pairs = overlapped(lambda number: number * 2, iter(range(1000)))
    assert [next(pairs) for _ in range(3)] == [(0, 0), (1, 2), (2, 4)]
    pairs.close()
    assert threading.active_count() == before


def png(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("1", (width, height)).save(buffer, "PNG")
    return buffer.getvalue()


def test_what_is_too_large_is_refused_before_it_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = Predictor(FakeSession(metadata=METADATA))

    def load(self: object) -> None:
        pytest.fail("a picture that is too large was decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", load)
    with pytest.raises(DataError, match=r"as an image: Image size .* exceeds limit|too large"):
        predictor.prepare(png(20_000, 20_000))
    monkeypatch.setattr(pictures, "MAX_PIXELS", 99)
    with pytest.raises(DataError, match="too large: 10x10 pixels"):
        predictor.prepare(png(10, 10))
    monkeypatch.setattr(pictures, "MAX_BYTES", 1 << 20)
    (tmp_path / "large.png").write_bytes(bytes((1 << 20) + 1))
    for image in (bytes((1 << 20) + 1), tmp_path / "large.png"):
        with pytest.raises(DataError, match="is too large: 1 MiB"):
            predictor.prepare(image)


def test_a_pipe_is_refused_rather_than_waited_for(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(DataError, match="it is a pipe or a device"):
        Predictor(FakeSession(metadata=METADATA)).classify(tmp_path / "pipe.png")


def test_scores_that_are_probabilities_are_given_as_they_are() -> None:
    metadata = replace(METADATA, scores="probabilities")
    head = head_of(FakeSession(metadata=metadata))
    chances = np.array([[0.1, 0.6, 0.05, 0.05, 0.2]], np.float32)

    found = head.predictions({head.output: chances}, top=2)[0]

    assert [(one.label, round(one.probability, 6)) for one in found.top] == [("class 1", 0.6), ("class 4", 0.2)]


def test_an_engine_that_is_no_classifier_has_no_head() -> None:
    session = FakeSession(metadata=METADATA)
    with pytest.raises(InputError, match="is no classifier"):
        Head.of(session.inputs, session.outputs, replace(METADATA, scores="none", labels=()))
