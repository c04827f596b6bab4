"""Sessions that die: requests go on, and files that were replaced meanwhile are never mixed with those that run."""

import asyncio
import threading
from pathlib import Path

import numpy as np
import pytest

from engines.errors import DeadlineExceeded, RunError
from engines.sessions.base import Session
from engines.sessions.fake import FakeSession
from engines.tensors import Array, Feeds
from tests.toolkit.server.plane.models import (
    PATIENCE,
    Mortal,
    fake_plane,
    infer,
    logits,
    samples,
    until,
    within,
)
from toolkit.server.plane import reload as reloading
from toolkit.server.plane.opening import Origin
from toolkit.server.plane.plane import DataPlane
from toolkit.server.plane.reload import Model
from toolkit.server.protocol.messages import UnavailableError
from toolkit.server.settings import ModelSettings


def test_a_session_that_dies_is_restarted_and_nobody_notices() -> None:
    sessions: list[Mortal] = []

    def open_session(_: str) -> Session:
        sessions.append(Mortal())
        return sessions[-1]

    async def work(plane: DataPlane) -> None:
        batch = samples(30)
        for at in range(30):
            if at == 10:
                sessions[0].kill()
            found = logits(await plane.infer(infer("fake", batch[at : at + 1])))
            np.testing.assert_array_equal(found, FakeSession().expected(batch[at : at + 1]))
        stats = plane.statistics()["fake"]
        assert (stats["restarts"], stats["sessions"], stats["requests"]["failed"]) == (1, 1, 0)
        assert sessions[0].closed
        assert plane.models["fake"].current.generation == 1

    within(work, fake_plane(open_session))


def test_a_model_without_a_session_is_unavailable_and_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reloading, "MEND_AFTER", 0.02)
    session, broken = Mortal(), True

    def open_session(_: str) -> Session:
        if session.killed:
            if broken:
                raise RunError("the device isn't back", "wait")
            return Mortal(seed=1)
        return session

    async def work(plane: DataPlane) -> None:
        nonlocal broken
        session.kill()
        with pytest.raises(UnavailableError, match="the device isn't back"):
            await plane.infer(infer("fake", samples(1)))
        assert (plane.ready(), plane.model_ready("fake"), plane.live()) == (False, False, True)
        assert plane.index()[0].state in {"UNAVAILABLE", "LOADING"}
        with pytest.raises(UnavailableError):
            plane.metadata("fake")
        await until(lambda: plane.models["fake"].reloads["failed"] >= 2)
        broken = False
        await until(plane.ready)
        found = logits(await plane.infer(infer("fake", samples(1))))
        np.testing.assert_array_equal(found, FakeSession(seed=1).expected(samples(1)))
        assert plane.statistics()["fake"]["requests"]["failed"] == 1

    within(work, fake_plane(open_session))


class Versions:
    """Mortal sessions of a file that says which network it is."""

    def __init__(self, path: Path, instances: int = 2) -> None:
        self.path, self.sessions = path, list[Mortal]()
        self.let, self.fails = threading.Event(), 0
        self.let.set()
        self.write(0)
        settings = ModelSettings(max_batch=1, instances=instances)
        self.plane = DataPlane([Model(Origin("fake", self.open, path), settings)], settings)

    def write(self, version: int) -> None:
        self.path.write_text(f"{version}")

    def open(self, _: str) -> Session:
        assert self.let.wait(PATIENCE)
        if self.fails:
            self.fails -= 1
            raise RunError("the device isn't back", "wait")
        self.sessions.append(Mortal(seed=int(self.path.read_text())))
        return self.sessions[-1]


def version_of(found: np.ndarray, batch: np.ndarray) -> int:
    """Which network gave all of these answers."""
    (version,) = (seed for seed in range(3) if np.array_equal(found, FakeSession(seed=seed).expected(batch)))
    return version


def test_a_session_that_dies_behind_a_replaced_file_is_not_replaced_by_another_network(tmp_path: Path) -> None:
    batch = samples(8)
    model = Versions(tmp_path / "model")

    async def work(plane: DataPlane) -> None:
        model.write(1)
        model.sessions[0].kill()
        while plane.statistics()["fake"]["failures"] == 0:
            assert version_of(logits(await plane.infer(infer("fake", batch))), batch) == 0
        await until(lambda: plane.statistics()["fake"]["sessions"] == 1)
        for _ in range(10):
            assert version_of(logits(await plane.infer(infer("fake", batch))), batch) == 0
        await plane.reload("fake")
        assert version_of(logits(await plane.infer(infer("fake", batch))), batch) == 1
        stats = plane.statistics()["fake"]
        assert (stats["sessions"], stats["restarts"], stats["errors"]) == (2, 0, {})

    within(work, model.plane)


def test_requests_wait_for_a_model_that_is_opened_again_when_its_last_session_is_gone(tmp_path: Path) -> None:
    batch = samples(8)
    model = Versions(tmp_path / "model")

    async def work(plane: DataPlane) -> None:
        model.write(1)
        for session in model.sessions:
            session.kill()
        model.let.clear()
        asked = [asyncio.create_task(plane.infer(infer("fake", batch))) for _ in range(5)]
        await until(lambda: not plane.ready())
        asked += [asyncio.create_task(plane.infer(infer("fake", batch))) for _ in range(5)]
        with pytest.raises(DeadlineExceeded, match="opened again"):
            await plane.infer(infer("fake", batch, timeout=0.02))
        assert not any(task.done() for task in asked)
        model.let.set()
        assert [version_of(logits(await task), batch) for task in asked] == [1] * 10
        assert plane.models["fake"].current.generation == 2
        assert plane.statistics()["fake"]["errors"] == {"DeadlineExceeded": 1}

    within(work, model.plane)


def test_nobody_waits_for_more_than_the_first_attempt_to_open_it_again(tmp_path: Path) -> None:
    model = Versions(tmp_path / "model", 1)

    async def work(plane: DataPlane) -> None:
        model.write(1)
        model.fails = 1
        model.sessions[0].kill()
        asked = [asyncio.create_task(plane.infer(infer("fake", samples(1)))) for _ in range(5)]
        for task in asked:
            with pytest.raises(UnavailableError, match="was replaced"):
                await task
        with pytest.raises(UnavailableError):
            await plane.infer(infer("fake", samples(1)))
        await plane.reload("fake")
        assert version_of(logits(await plane.infer(infer("fake", samples(1)))), samples(1)) == 1

    within(work, model.plane)


def test_a_request_that_sessions_die_of_is_not_asked_for_ever(tmp_path: Path) -> None:
    model = Versions(tmp_path / "model", 1)
    reading, asked = model.open, samples(1)

    class Fragile(Mortal):
        def _run(self, feeds: Feeds, batch: int) -> dict[str, Array]:
            self.killed |= bool(feeds["input"].any())
            return super()._run(feeds, batch)

    def open_fragile(device: str) -> Session:
        # It is replaced again at once, so that no session is restarted, and each death is the opening's end.
        model.sessions.append(Fragile())
        model.write(len(model.sessions))
        return model.sessions[-1]

    async def work(plane: DataPlane) -> None:
        plane.models["fake"].origin = Origin("fake", open_fragile, model.path)
        model.write(1)
        model.sessions[0].kill()
        with pytest.raises(UnavailableError, match="was replaced"):
            await plane.infer(infer("fake", asked))
        assert len(model.sessions) <= 3
        plane.models["fake"].origin = Origin("fake", reading, model.path)
        model.write(1)
        assert version_of(logits(await plane.infer(infer("fake", asked))), asked) == 1

    within(work, model.plane)


def test_sessions_of_one_opening_are_all_of_one_file(tmp_path: Path) -> None:
    model = Versions(tmp_path / "model")
    reading = model.open

    def replaced_meanwhile(device: str) -> Session:
        session = reading(device)
        if len(model.sessions) == 3:
            model.write(2)
        return session

    async def work(plane: DataPlane) -> None:
        plane.models["fake"].origin = Origin("fake", replaced_meanwhile, model.path)
        model.write(1)
        await plane.reload("fake")
        assert version_of(logits(await plane.infer(infer("fake", samples(8)))), samples(8)) == 2
        assert [session.closed for session in model.sessions[2:]] == [True, True, False, False]

    within(work, model.plane)


def test_each_device_has_its_sessions_and_one_that_dies_comes_back_where_it_was() -> None:
    opened: list[tuple[str, Mortal]] = []

    def open_session(device: str) -> Session:
        opened.append((device, Mortal()))
        return opened[-1][1]

    async def work(plane: DataPlane) -> None:
        assert [device for device, _ in opened] == ["cuda:0", "cuda:0", "cuda:1", "cuda:1"]
        facts = plane.metadata("fake").facts
        assert (facts["instances"], plane.statistics()["fake"]["sessions"]) == (4, 4)
        opened[2][1].kill()
        while len(opened) == 4:
            await asyncio.gather(*(plane.infer(infer("fake", samples(1))) for _ in range(8)))
        assert opened[4][0] == "cuda:1"
        await until(lambda: plane.statistics()["fake"]["sessions"] == 4)
        opened[4][1].kill()
        while len(opened) == 5:
            await asyncio.gather(*(plane.infer(infer("fake", samples(1))) for _ in range(8)))
        assert opened[5][0] == "cuda:1"

    within(work, fake_plane(open_session, devices=("cuda:0", "cuda:1"), instances=2))
