"""Files are opened again when they have been replaced, and only then."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np
import pytest

from tests.toolkit.server.plane.models import answers, infer, logits, plane_of, samples, until, within, write
from toolkit.server.plane.opening import stamp_of
from toolkit.server.plane.plane import DataPlane
from toolkit.server.plane.watch import watch

SETTLE = 0.1


@pytest.fixture(params=["told by the system", "looking"])
def watched(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "looking":
        monkeypatch.setitem(sys.modules, "watchfiles", None)
    return str(request.param)


def watching(path: Path, work: Callable[[DataPlane], Awaitable[None]]) -> None:
    async def both(plane: DataPlane) -> None:
        watcher = asyncio.create_task(watch(plane.models.values(), look=0.03, settle=SETTLE))
        # Both kinds see what happens from the first look on; inotify has to be set up by then.
        await asyncio.sleep(0.2)
        try:
            await work(plane)
        finally:
            watcher.cancel()
            with pytest.raises(asyncio.CancelledError):
                await watcher

    within(both, plane_of(path, threads=1))


async def same(plane: DataPlane, path: Path) -> bool:
    found = logits(await plane.infer(infer(path.stem, samples(1))))
    return bool(np.allclose(found, answers(path, samples(1)), rtol=1e-4, atol=1e-5))


@pytest.mark.usefixtures("watched")
def test_a_replaced_file_is_opened(tmp_path: Path) -> None:
    path = write(tmp_path / "tiny.onnx")

    async def work(plane: DataPlane) -> None:
        model = plane.models["tiny"]
        for generation, seed in ((2, 1), (3, 2)):
            write(path, seed)
            await until(lambda generation=generation: model.current.generation == generation)  # type: ignore[misc]
            assert await same(plane, path)

    watching(path, work)


@pytest.mark.usefixtures("watched")
def test_a_file_that_is_still_written_is_left_until_it_is_whole(tmp_path: Path) -> None:
    path = write(tmp_path / "tiny.onnx")
    whole = write(tmp_path / "next", 1).read_bytes()

    async def work(plane: DataPlane) -> None:
        model = plane.models["tiny"]
        with path.open("wb", buffering=0) as file:
            for at in range(0, len(whole), len(whole) // 12):
                file.write(whole[at : at + len(whole) // 12])
                await asyncio.sleep(SETTLE / 3)
        await until(lambda: model.current.generation == 2)
        assert model.reloads == {"succeeded": 1, "failed": 0}
        assert await same(plane, path)

    watching(path, work)


@pytest.mark.usefixtures("watched")
def test_a_damaged_file_is_tried_once_and_its_successor_again(tmp_path: Path) -> None:
    path = write(tmp_path / "tiny.onnx")

    async def work(plane: DataPlane) -> None:
        model = plane.models["tiny"]
        path.write_bytes(path.read_bytes()[:1000])
        await until(lambda: model.reloads["failed"] == 1)
        (tmp_path / "another.txt").write_text("something else happens in the folder")
        await asyncio.sleep(4 * SETTLE)
        assert model.reloads == {"succeeded": 0, "failed": 1}
        path.unlink()
        await asyncio.sleep(2 * SETTLE)
        assert model.reloads == {"succeeded": 0, "failed": 1}
        write(path, 1)
        await until(lambda: model.current.generation == 2)
        assert await same(plane, path)

    watching(path, work)


@pytest.mark.usefixtures("watched")
def test_a_link_that_is_turned_to_another_file_is_followed(tmp_path: Path) -> None:
    """As releases are switched, and as Kubernetes updates what it mounts: the folder is behind a link."""
    for seed in range(2):
        (tmp_path / f"release{seed}").mkdir()
        write(tmp_path / f"release{seed}" / "tiny.onnx", seed)
    data, path = tmp_path / "..data", tmp_path / "tiny.onnx"
    data.symlink_to("release0")
    path.symlink_to(Path("..data", "tiny.onnx"))

    async def work(plane: DataPlane) -> None:
        (tmp_path / "turned").symlink_to("release1")
        (tmp_path / "turned").rename(data)
        await until(lambda: plane.models["tiny"].current.generation == 2)
        assert await same(plane, path)

    watching(path, work)


def test_a_change_between_opening_and_watching_is_seen(tmp_path: Path) -> None:
    path = write(tmp_path / "tiny.onnx")

    async def work(plane: DataPlane) -> None:
        write(path, 1)
        watcher = asyncio.create_task(watch(plane.models.values(), settle=SETTLE))
        await until(lambda: plane.models["tiny"].current.generation == 2)
        watcher.cancel()

    within(work, plane_of(path, threads=1))


def test_a_stamp_is_of_the_file_and_what_bears_its_name(tmp_path: Path) -> None:
    path = tmp_path / "model.engine"
    assert stamp_of(path) == ()
    (tmp_path / "model.engine.json").write_text("{}")
    assert stamp_of(path) == ()
    path.write_text("engine")
    first = stamp_of(path)
    assert [one[0] for one in first] == ["model.engine", "model.engine.json"]
    (tmp_path / "other.engine").write_text("")
    assert stamp_of(path) == first
    (tmp_path / "model.engine.json").write_text("{} ")
    assert stamp_of(path) != first
