"""Pictures in, labels out, decoded beside the event loop."""

import asyncio
import io
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

import toolkit
from engines.errors import DataError, DeadlineExceeded, InputError, Overloaded
from engines.preprocess import Preprocess
from engines.sessions.fake import FakeSession
from tests.tiny import METADATA, tiny_images
from tests.toolkit.server.plane.models import fake_plane, infer, plane_of, samples, until, within, write
from toolkit.server.plane import pictures
from toolkit.server.plane.plane import DataPlane
from toolkit.server.protocol.messages import UnavailableError


def encoded(number: int, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(tiny_images(number + 1)[number]).resize((40, 30)).save(file, kind)
    return file.getvalue()


class Slow:
    """Decoding that waits until a test lets it."""

    def __init__(self) -> None:
        self.let, self.begun = threading.Event(), threading.Semaphore(0)

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        real = Preprocess.pixels

        def pixels(spec: Preprocess, image: bytes) -> object:
            self.begun.release()
            assert self.let.wait(10)
            return real(spec, image)

        monkeypatch.setattr(Preprocess, "pixels", pixels)


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[Slow]:
    found = Slow()
    found.install(monkeypatch)
    yield found
    found.let.set()


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_it_says_what_a_predictor_says(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path / "tiny.onnx")
    pictures = [encoded(number, kind) for number in range(5)]
    with toolkit.load(path) as predictor:
        expected = predictor.classify(pictures, top=3)

    async def work(plane: DataPlane) -> None:
        found = await asyncio.gather(*(plane.classify(picture, top=3) for picture in pictures))
        for one, other in zip(found, expected, strict=True):
            assert (one.model, one.prediction.label) == ("tiny", other.label)
            assert [c.index for c in one.prediction.top] == [c.index for c in other.top]
            assert one.prediction.probability == pytest.approx(other.probability, rel=1e-4)
            assert one.seconds.keys() == {"decode", "wait", "stage", "run", "total"}
            assert all(seconds >= 0 for seconds in one.seconds.values())
            parts = sum(seconds for name, seconds in one.seconds.items() if name != "total")
            assert parts <= one.seconds["total"] + 1e-6
            assert 1 <= one.batch <= 5
        assert plane.models["tiny"].decoding.count == 5

    within(work, plane_of(path, threads=1))


def test_what_is_wrong_with_a_picture_is_said(tmp_path: Path) -> None:
    foreign = write(tmp_path / "foreign.onnx", metadata=None)
    tiny = write(tmp_path / "tiny.onnx")

    async def work(plane: DataPlane) -> None:
        for picture in (b"", b"no picture", encoded(0)[:60]):
            with pytest.raises(DataError):
                await plane.classify(picture)
        with pytest.raises(InputError, match="top 0"):
            await plane.classify(encoded(0), top=0)
        with pytest.raises(InputError, match="no classifier"):
            await plane.classify(encoded(0), model="foreign")
        assert (await plane.classify(encoded(0))).prediction.label in METADATA.labels

    within(work, plane_of(foreign, tiny, threads=1))


def test_a_full_queue_refuses_at_once_and_the_loop_goes_on(slow: Slow) -> None:
    async def work(plane: DataPlane) -> None:
        tasks = [asyncio.create_task(plane.classify(encoded(0))) for _ in range(3)]
        await until(lambda: slow.begun.acquire(blocking=False))
        with pytest.raises(Overloaded, match="2 pictures"):
            await plane.classify(encoded(0))
        # Who gives up doesn't make room before a thread has seen to it: the pool holds the picture until then.
        tasks[2].cancel()
        with pytest.raises(asyncio.CancelledError):
            await tasks[2]
        with pytest.raises(Overloaded):
            await plane.classify(encoded(0))
        assert len((await plane.infer(infer("fake", samples(1)))).outputs) == 1
        slow.let.set()
        await tasks[0]
        await until(lambda: plane._decoders._places._value == 3)  # type: ignore[attr-defined]
        await plane.classify(encoded(0))

    within(work, fake_plane(lambda _: FakeSession(metadata=METADATA), decoders=1, pictures=2))


def test_the_time_is_up_while_a_picture_waits(slow: Slow) -> None:
    async def work(plane: DataPlane) -> None:
        with pytest.raises(DeadlineExceeded, match="before its picture was decoded"):
            await plane.classify(encoded(0), timeout=0.05)
        slow.let.set()
        assert (await plane.classify(encoded(0), timeout=5)).batch == 1

    within(work, fake_plane(lambda _: FakeSession(metadata=METADATA), decoders=1))


def test_a_picture_that_is_being_decoded_when_the_plane_closes_is_answered(slow: Slow) -> None:
    async def work(plane: DataPlane) -> None:
        tasks = [asyncio.create_task(plane.classify(encoded(0))) for _ in range(3)]
        await until(lambda: slow.begun.acquire(blocking=False))
        closing = asyncio.create_task(plane.close())
        await asyncio.sleep(0.02)
        assert not closing.done()
        slow.let.set()
        assert [(await task).model for task in tasks] == ["fake"] * 3
        await closing

    within(work, fake_plane(lambda _: FakeSession(metadata=METADATA), decoders=1))


def test_closing_waits_for_pictures_only_so_long(slow: Slow) -> None:
    async def work(plane: DataPlane) -> None:
        task = asyncio.create_task(plane.classify(encoded(0)))
        await until(lambda: slow.begun.acquire(blocking=False))
        await plane.close(0.05)
        assert not task.done()
        slow.let.set()
        with pytest.raises(UnavailableError):
            await task

    within(work, fake_plane(lambda _: FakeSession(metadata=METADATA), decoders=1))


def test_nothing_is_classified_after_the_end() -> None:
    async def work(plane: DataPlane) -> None:
        await plane.close()
        with pytest.raises(UnavailableError):
            await plane.classify(encoded(0))

    within(work, fake_plane(lambda _: FakeSession(metadata=METADATA)))


def test_a_picture_that_meets_a_replaced_model_is_answered_by_its_successor(slow: Slow) -> None:
    sessions = iter([FakeSession(metadata=METADATA, seed=seed) for seed in range(2)])

    async def work(plane: DataPlane) -> None:
        task = asyncio.create_task(plane.classify(encoded(1)))
        await until(lambda: slow.begun.acquire(blocking=False))
        await plane.reload("fake")
        await until(lambda: not plane.models["fake"]._leaving)
        slow.let.set()
        found = (await task).prediction
        assert found == (await plane.classify(encoded(1))).prediction

    within(work, fake_plane(lambda _: next(sessions)))


@pytest.mark.parametrize("large", [False, True])
def test_large_pictures_are_decoded_one_at_a_time(monkeypatch: pytest.MonkeyPatch, large: bool) -> None:
    monkeypatch.setattr(pictures, "LARGE", 40 * 30 - large)
    real, together, met = Preprocess.pixels, threading.Barrier(2), []

    def pixels(spec: Preprocess, image: bytes) -> object:
        try:
            met.append(together.wait(0.1 if large else 10))
        except threading.BrokenBarrierError:
            together.reset()
        return real(spec, image)

    monkeypatch.setattr(Preprocess, "pixels", pixels)

    async def work(plane: DataPlane) -> None:
        await asyncio.gather(*(plane.classify(encoded(0)) for _ in range(4)))

    within(work, fake_plane(lambda _: FakeSession(metadata=METADATA), decoders=2))
    assert len(met) == (0 if large else 4)
