"""Ways to open a session in a measuring process: the real one, and some that misbehave on purpose."""

import os
import signal
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from engines.errors import EngineMismatchError, InputError
from engines.sessions import open_session
from engines.sessions.base import StageTimes
from engines.sessions.fake import FakeSession
from engines.tensors import Array, Feeds
from tests.tiny import METADATA

HERE = "tests.toolkit.openers"


def onnx(path: str, **options: Any) -> Any:
    return open_session(path, **options)


def noisy(path: str, **options: Any) -> Any:
    """Prints to standard output, as native libraries do, where the replies would be in its way."""
    print("hello from a library")
    os.write(1, b"and from its C code\n")
    return open_session(path, **options)


def refusing(path: str, **_: Any) -> Any:
    raise EngineMismatchError(f"'{path}' is for another GPU", "toolkit build-engine model.onnx --fp16")


def broken(path: str, **_: Any) -> Any:
    raise ZeroDivisionError("a fault that nobody foresaw")


def fake(path: str, *, delay: float = 0.0, per_sample: float = 0.0, max_batch: int | None = None, **_: Any) -> Any:
    return FakeSession(metadata=METADATA, delay=delay, delay_per_sample=per_sample, max_batch=max_batch)


def foreign(path: str, *, max_batch: int | None = None, **_: Any) -> Any:
    """An engine without metadata."""
    return FakeSession((3, 16, 16), 5, max_batch=max_batch)


class _Doomed(FakeSession):
    """Comes to a bad end on run number ``at``, counted from 0."""

    def __init__(self, way: str, at: int) -> None:
        super().__init__(metadata=METADATA)
        self._way, self._at = way, at

    def _run(self, feeds: Feeds, batch: int) -> dict[str, Array]:
        if self.runs == self._at:
            if self._way == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            elif self._way == "exit":
                print("the library's last words", file=sys.stderr, flush=True)
                os._exit(3)
            time.sleep(3600)
        return super()._run(feeds, batch)


def doomed(path: str, *, way: str, at: int = 1, **_: Any) -> Any:
    return _Doomed(way, at)


class _Spinning(FakeSession):
    """Keeps a core busy for a fifth of a second after each run, as thread pools do that wait for more work."""

    def _run(self, feeds: Feeds, batch: int) -> dict[str, Array]:
        threading.Thread(target=self._spin, daemon=True).start()
        return super()._run(feeds, batch)

    def _spin(self) -> None:
        until = time.perf_counter() + 0.2
        while time.perf_counter() < until:
            pass


def spinning(path: str, **_: Any) -> Any:
    return _Spinning(metadata=METADATA)


def forking(path: str, **_: Any) -> Any:
    """Starts a process that inherits everything and would outlive it, as data loaders do; ``path`` gets its id."""
    child = os.fork()
    if child == 0:
        time.sleep(3600)
        os._exit(0)
    Path(path).write_text(str(child))
    return FakeSession(metadata=METADATA)


class _OnDevice(FakeSession):
    """Says that it has a device."""

    def stage_times(self) -> StageTimes | None:
        return StageTimes(0.001, 0.002, 0.003)


def on_device(path: str, **_: Any) -> Any:
    session = _OnDevice(metadata=METADATA)
    session._info = replace(session.info, device="cuda:0", provider="")
    return session


class _Fixed(FakeSession):
    """Takes batches of four and no other, like an engine whose batch was baked in."""

    def __init__(self) -> None:
        super().__init__(metadata=METADATA)
        self._inputs = tuple(replace(spec, shape=(4, *spec.shape[1:])) for spec in self._inputs)


def fixed(path: str, **_: Any) -> Any:
    return _Fixed()


class _FromFour(FakeSession):
    """Takes batches of four to eight, like an engine of the profile 4:4:8."""

    def _run(self, feeds: Feeds, batch: int) -> dict[str, Array]:
        if batch < 4:
            raise InputError(f"the engine takes no batch of {batch}", "give 4 to 8")
        return super()._run(feeds, batch)


def from_four(path: str, **_: Any) -> Any:
    return _FromFour(metadata=METADATA, max_batch=8)


class _Nan(FakeSession):
    """Answers every third image with NaN, like an FP16 engine that overflows."""

    def _run(self, feeds: Feeds, batch: int) -> dict[str, Array]:
        outputs = super()._run(feeds, batch)
        outputs["logits"][::3] = float("nan")
        return outputs


def overflowing(path: str, **_: Any) -> Any:
    return _Nan(metadata=METADATA)


class _Cold(FakeSession):
    """The first run after the opening one takes four times as long as others, as with caches that a rival filled."""

    def _run(self, feeds: Feeds, batch: int) -> dict[str, Array]:
        time.sleep(0.04 if self.runs == 1 else 0.01)
        return super()._run(feeds, batch)


def cold(path: str, **_: Any) -> Any:
    return _Cold(metadata=METADATA)


def noted(path: str, *, log: str, name: str, **options: Any) -> Any:
    """Writes down that it was opened, so that a test can tell in which order and how often that was."""
    with Path(log).open("a") as file:
        file.write(f"{name}\n")
    return fake(path, **options)


def once(path: str, *, flag: str, **_: Any) -> Any:
    """Can be opened once, and no more."""
    if Path(flag).exists():
        return refusing(path)
    Path(flag).touch()
    return FakeSession(metadata=METADATA)


class _Hungry(FakeSession):
    """Is killed for memory at batches above the limit."""

    def __init__(self, limit: int) -> None:
        super().__init__(metadata=METADATA, delay=0.004)
        self._limit = limit

    def _run(self, feeds: Feeds, batch: int) -> dict[str, Array]:
        if batch > self._limit:
            os.kill(os.getpid(), signal.SIGKILL)
        return super()._run(feeds, batch)


def hungry(path: str, *, limit: int, **_: Any) -> Any:
    return _Hungry(limit)
