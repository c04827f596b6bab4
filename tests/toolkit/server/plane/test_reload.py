"""Files that are replaced: requests go on."""

import asyncio
import gc
import threading
import weakref
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from engines.errors import GraphError, InputError, RunError, ToolkitError
from engines.sessions.base import Session
from engines.sessions.fake import FakeSession
from tests.tiny import tiny_graph
from tests.toolkit.server.plane.models import (
    PATIENCE,
    Mortal,
    answers,
    fake_plane,
    infer,
    logits,
    plane_of,
    samples,
    until,
    within,
    write,
)
from toolkit.server.plane.plane import DataPlane
from toolkit.server.protocol.messages import UnavailableError


def test_no_request_is_lost_or_mixed_up_while_files_are_replaced(tmp_path: Path) -> None:
    """Each answer, cut requests included, is all of one network: the old or the new one."""
    path = write(tmp_path / "tiny.onnx", 0)
    batch = samples(6)
    networks = [answers(write(tmp_path / f"seed{seed}.onnx", seed), batch) for seed in range(3)]

    async def work(plane: DataPlane) -> None:
        done = asyncio.Event()

        async def ask(number: int) -> list[int]:
            found = []
            while not done.is_set():
                # 1 to 6 samples, of which a batch takes 4.
                part = slice(number % 6, 6)
                answer = logits(await plane.infer(infer("tiny", batch[part])))
                fits = [np.allclose(answer, network[part], rtol=1e-3, atol=1e-4) for network in networks]
                assert sum(fits) == 1
                found.append(fits.index(True))
            return found

        askers = [asyncio.create_task(ask(number)) for number in range(12)]
        for seed in (1, 2, 0, 1, 2):
            write(path, seed)
            await plane.reload("tiny")
            await asyncio.sleep(0.02)
        done.set()
        found = [one for asker in askers for one in await asker]
        assert set(found) == {0, 1, 2}
        model = plane.models["tiny"]
        assert (model.current.generation, model.reloads) == (6, {"succeeded": 5, "failed": 0})
        await until(lambda: not model._leaving)
        counts = plane.statistics()["tiny"]["requests"]
        assert counts["accepted"] == counts["answered"] >= len(found)
        assert counts["failed"] == 0

    within(work, plane_of(path, max_batch=4, threads=1))


def test_a_request_that_waits_when_the_model_is_replaced_is_answered_by_the_old_one() -> None:
    sessions = [FakeSession(seed=seed, delay=0.05) for seed in range(2)]
    left = iter(sessions)

    async def work(plane: DataPlane) -> None:
        batch = samples(8)
        old = [asyncio.create_task(plane.infer(infer("fake", batch[at : at + 1]))) for at in range(8)]
        await until(lambda: plane.statistics()["fake"]["requests"]["accepted"] == 8)
        await plane.reload("fake")
        assert not all(task.done() for task in old)
        assert not sessions[0].closed
        new = logits(await plane.infer(infer("fake", batch)))
        np.testing.assert_array_equal(new, sessions[1].expected(batch))
        answer = np.concatenate([logits(await task) for task in old])
        np.testing.assert_array_equal(answer, FakeSession(seed=0).expected(batch))
        await until(lambda: sessions[0].closed)

    within(work, fake_plane(lambda _: next(left), max_batch=1))


@pytest.mark.parametrize("damage", ["truncated", "text", "gone", "other kind"])
def test_a_file_that_does_not_open_leaves_the_old_one_at_work(tmp_path: Path, damage: str) -> None:
    path = write(tmp_path / "tiny.onnx")
    batch = samples(2)
    expected = answers(path, batch)

    async def work(plane: DataPlane) -> None:
        if damage == "truncated":
            path.write_bytes(path.read_bytes()[:2000])
        elif damage == "text":
            path.write_text("not a graph")
        elif damage == "gone":
            path.unlink()
        else:
            model = tiny_graph()
            model.graph.input[0].type.tensor_type.shape.dim[3].dim_param = "width"
            path.write_bytes(model.SerializeToString())
        with pytest.raises(ToolkitError) as error:
            await plane.reload("tiny")
        assert isinstance(error.value, GraphError) or damage in {"gone", "other kind"}
        found = logits(await plane.infer(infer("tiny", batch)))
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
        assert plane.ready()
        assert plane.models["tiny"].reloads == {"succeeded": 0, "failed": 1}
        write(path, 1)
        await plane.reload("tiny")
        found = logits(await plane.infer(infer("tiny", batch)))
        np.testing.assert_allclose(found, answers(path, batch), rtol=1e-4, atol=1e-5)

    within(work, plane_of(path, threads=1))


def test_another_network_may_take_its_place() -> None:
    left = iter([FakeSession(), FakeSession((2,), 3)])

    async def work(plane: DataPlane) -> None:
        assert plane.metadata("fake").inputs[0].shape == (-1, 3, 16, 16)
        await plane.reload("fake")
        assert plane.metadata("fake").inputs[0].shape == (-1, 2)
        with pytest.raises(InputError):
            await plane.infer(infer("fake", samples(1)))
        assert logits(await plane.infer(infer("fake", np.ones((1, 2), np.float32)))).shape == (1, 3)

    within(work, fake_plane(lambda _: next(left)))


def test_reloads_asked_for_at_once_are_shared() -> None:
    opened: list[str] = []
    let = threading.Event()
    let.set()

    def open_session(device: str) -> Session:
        opened.append(device)
        assert let.wait(PATIENCE)
        return FakeSession()

    async def work(plane: DataPlane) -> None:
        await asyncio.gather(*(plane.reload("fake") for _ in range(20)))
        assert len(opened) == 2
        # Who asks while one is under way may have replaced the file since: there is one more, for all of them.
        let.clear()
        first = asyncio.create_task(plane.reload("fake"))
        await until(lambda: len(opened) == 3)
        others = [asyncio.create_task(plane.reload("fake")) for _ in range(20)]
        await asyncio.sleep(0)
        let.set()
        await asyncio.gather(first, *others)
        assert len(opened) == 4

    within(work, fake_plane(open_session))


def test_closing_ends_a_model_that_waits_to_be_mended() -> None:
    session = Mortal()

    def open_session(_: str) -> Session:
        if session.killed:
            raise RunError("the device isn't back", "wait")
        return session

    async def work(plane: DataPlane) -> None:
        session.kill()
        with pytest.raises(UnavailableError):
            await plane.infer(infer("fake", samples(1)))

    within(work, fake_plane(open_session))


def test_closing_while_a_new_one_is_opened_closes_both() -> None:
    opened: list[FakeSession] = []
    late = FakeSession(delay=0.2)

    def open_session(_: str) -> Session:
        opened.append(late if opened else FakeSession())
        return opened[-1]

    async def work(plane: DataPlane) -> None:
        task = asyncio.create_task(plane.reload("fake"))
        await until(lambda: len(opened) == 2)
        await plane.close()
        with pytest.raises(UnavailableError):
            await task
        assert [session.closed for session in opened] == [True, True]

    within(work, fake_plane(open_session))


def test_openings_that_were_replaced_are_freed(tmp_path: Path) -> None:
    path = write(tmp_path / "tiny.onnx")

    async def work(plane: DataPlane) -> None:
        model = plane.models["tiny"]
        gone = []
        for _ in range(5):
            await plane.infer(infer("tiny", samples(1)))
            gone += [weakref.ref(model.current), weakref.ref(model.current.batcher)]
            gone += [weakref.ref(session) for session in model.current._sessions]
            await plane.reload("tiny")
        await until(lambda: not model._leaving)
        gc.collect()
        assert [one() for one in gone] == [None] * 15
        assert len(model._past) == 1
        stats = plane.statistics()["tiny"]
        assert (stats["requests"]["answered"], stats["batches"], stats["running"]["count"]) == (5, {"1": 5}, 5)
        assert (stats["sessions"], stats["limit"]) == (1, 1024)

    within(work, plane_of(path, threads=1))


def test_a_storm_of_good_and_bad_requests_through_reloads_and_deaths() -> None:
    """Every good request gets its own right answer, every other one a typed error, and the books balance."""
    sessions: list[Mortal] = []
    rng = np.random.default_rng(0)
    batch = samples(40)
    weights = FakeSession()
    expected = weights.expected(batch)

    def open_session(_: str) -> Session:
        sessions.append(Mortal(delay=0.0002))
        return sessions[-1]

    async def ask(plane: DataPlane, number: int, kind: int) -> str:
        at, count = number % 30, 1 + number % 10
        part = slice(at, at + count)
        if kind == 0:
            request = infer("fake", batch[part], timeout=0.001)
        elif kind == 1:
            request = infer("fake", batch[part, :2])
        elif kind == 2:
            request = infer("fake", np.repeat(batch, 20, axis=0))
        else:
            request = infer("fake", batch[part], priority=number % 3)
        task = asyncio.create_task(plane.infer(request))
        if kind == 3:
            await asyncio.sleep(0)
            task.cancel()
        try:
            np.testing.assert_array_equal(logits(await task), expected[part])
        except ToolkitError as error:
            if kind < 3:
                return type(error).__name__
            raise
        except asyncio.CancelledError:
            return "cancelled" if kind == 3 else "lost"
        return "wrongly answered" if kind in {1, 2} else "answered"

    async def work(plane: DataPlane) -> None:
        async def client(number: int) -> list[str]:
            return [await ask(plane, number + 32 * turn, int(rng.integers(0, 12))) for turn in range(40)]

        async def disturb() -> None:
            for turn in range(8):
                await asyncio.sleep(0.03)
                if turn % 2:
                    await plane.reload("fake")
                else:
                    sessions[-1].kill()

        *found, _ = await asyncio.gather(*map(client, range(32)), disturb())
        outcomes = Counter(outcome for one in found for outcome in one)
        assert sum(outcomes.values()) == 32 * 40
        assert outcomes["answered"] > 32 * 40 / 2
        kinds = {"answered", "InputError", "TooLargeError", "DeadlineExceeded", "cancelled"}
        assert {"answered", "InputError", "TooLargeError"} <= outcomes.keys() <= kinds
        model = plane.models["fake"]
        await until(lambda: not model._leaving)
        stats = plane.statistics()["fake"]
        assert (stats["depth"], model.reloads["succeeded"]) == (0, 4)
        assert stats["restarts"] >= 1
        counts = stats["requests"]
        ends = sum(counts[kind] for kind in ("answered", "failed", "cancelled", "expired"))
        assert counts["accepted"] == ends

    within(work, fake_plane(open_session, max_batch=4, queue=512, instances=2))
    assert all(session.closed for session in sessions)
