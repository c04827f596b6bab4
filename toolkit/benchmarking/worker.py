"""The measuring process: it holds one session and runs it when told to, and is idle between its turns.

Started by :mod:`toolkit.benchmarking.process`. It reads requests from its standard input and answers
on what was its standard output; whatever libraries print goes to standard error.
"""

import contextlib
import gc
import importlib
import os
import pickle
import signal
import sys
import time
import traceback
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from engines.errors import InputError, RunError, ToolkitError
from engines.preprocess import Preprocess
from engines.sessions.base import Session, StageTimes
from engines.sessions.proof import Provable
from engines.tensors import Array
from toolkit.benchmarking.device_memory import DeviceMemory
from toolkit.benchmarking.messages import Block, Contestant, Opened, Proof
from toolkit.benchmarking.pausing import CAN_PAUSE, die_with_owner
from toolkit.benchmarking.worker_feeds import feeds_for, noise, prepared
from toolkit.loading import told

QUIET_SHARE = 0.1
"""A process is idle when it uses less than this share of one core."""

LEAD = 0.02
"""Seconds of running at the beginning of a turn that aren't counted."""

LONG_RUN = 0.05
"""Seconds of a run of which cold caches are a small part: it counts even where it is the first of its turn."""

_SETTLE_STEP, _SETTLE_LIMIT = 0.005, 0.5


class Worker:
    """One session and the requests that it answers: each method is a request."""

    def __init__(self) -> None:
        self._session: Session | None = None
        self._feeds: dict[int, dict[str, Array]] = {}
        self._sample: dict[str, Array] = {}
        self._device_memory = DeviceMemory()

    @property
    def session(self) -> Session:
        if self._session is None:
            raise RunError("no session is open in this process", "open one before")
        return self._session

    def ready(self) -> None:
        """The process has started."""

    def open(self, contestant: Contestant) -> Opened:
        """Open the artifact and run it once."""
        with self._device_memory.counted():
            return self._open(contestant)

    def _open(self, contestant: Contestant) -> Opened:
        start = time.perf_counter()
        module, _, function = contestant.opener.partition(":")
        opener = getattr(importlib.import_module(module), function)
        options = {"backend": contestant.backend, "device": contestant.device, "threads": contestant.threads}
        self._session = opener(contestant.path, **options, **contestant.options)
        opened = time.perf_counter()
        session = self.session
        try:
            seconds = self._first_run(self._fixed() or 1)
        except InputError:  # a profile whose smallest batch is more than one
            if session.info.max_batch is None:
                raise
            seconds = self._first_run(session.info.max_batch)
        facts = (session.inputs, session.outputs, session.metadata, session.info)
        return Opened(*facts, opened - start, seconds, told())

    def logits(self, pixels: NDArray[np.uint8], preprocess: Preprocess | None) -> NDArray[np.float32]:
        """Classify uint8 pixels [N, H, W, C]; float32 [N, classes].

        ``preprocess`` normalises them; None feeds the pixels to a graph that does so itself.
        """
        values = prepared(self.session.inputs[0], pixels, preprocess)
        parts = [self._run_padded(part) for part in np.split(values, self._cuts(len(values)))]
        return np.concatenate(parts)

    def answers(
        self, samples: NDArray[np.uint8] | Mapping[str, Array], preprocess: Preprocess | None
    ) -> dict[str, Array]:
        """Every output for pixels, as for ``logits``, or for an array an input; [N, ...] each."""
        feeds = feeds_for(self.session.inputs, samples, preprocess)
        count = len(next(iter(feeds.values())))
        parts: dict[str, list[Array]] = {}
        for start, end in pairwise([0, *self._cuts(count), count]):
            for name, values in self._padded({name: array[start:end] for name, array in feeds.items()}).items():
                parts.setdefault(name, []).append(values)
        return {name: np.concatenate(values) for name, values in parts.items()}

    def feed(self, samples: NDArray[np.uint8] | Mapping[str, Array], preprocess: Preprocess | None) -> None:
        """Take these samples, as for ``answers``, for everything that is timed from now on."""
        self._sample = feeds_for(self.session.inputs, samples, preprocess)
        self._feeds.clear()

    def warm(self, batch: int, seconds: float) -> int:
        """Run untimed for ``seconds``, and at least once; the number of runs."""
        feeds, session, runs = self._feeds_of(batch), self.session, 0
        until = time.perf_counter() + seconds
        with self._device_memory.counted():
            while not runs or time.perf_counter() < until:
                session.run(feeds)
                runs += 1
        self._settle()
        return runs

    def block(self, batch: int, seconds: float) -> Block:
        """Time runs for ``seconds`` and at least once.

        The first runs of a turn find caches that rivals have filled and threads asleep: with weights of 57 MB the
        first is half as slow again, the fifth a twentieth. Those of the first ``LEAD`` seconds aren't counted; nor is
        the very first one unless it takes longer than a turn and than ``LONG_RUN``.
        """
        feeds, session = self._feeds_of(batch), self.session
        clock = time.perf_counter
        times: list[float] = []
        stages: list[StageTimes] = []
        gc.disable()
        try:
            start = before = clock()
            session.run(feeds)
            after = clock()
            if after - before >= max(seconds, LONG_RUN):
                times.append(after - before)
                stages.extend(_stages(session))
                seconds = 0.0
            else:
                while clock() < start + LEAD:
                    session.run(feeds)
            until = clock() + seconds
            while not times or clock() < until:
                before = clock()
                session.run(feeds)
                times.append(clock() - before)
                stages.extend(_stages(session))
        finally:
            gc.enable()
        self._settle()
        return Block(tuple(times), tuple(stages))

    def proof(self) -> Proof:
        """What really ran the artifact: what its library says of it, asked aside from anything that is timed."""
        session = self.session
        if not isinstance(session, Provable):
            return Proof(session.info.provider, problem=f"a session of '{session.info.backend}' doesn't tell")
        try:
            return session.prove(self._feeds_of(self._fixed() or 1))
        except ToolkitError as error:
            return Proof(session.info.provider, problem=error.cause)

    def memory(self) -> int | None:
        """The most bytes that this process has held resident; None where the system doesn't tell."""
        # Linux's getrusage begins with what the parent held when it started this process; VmHWM doesn't.
        with contextlib.suppress(OSError, ValueError, StopIteration):
            lines = Path("/proc/self/status").read_text().splitlines()
            return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) * 1024
        try:
            import resource
        except ImportError:
            return None
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024

    def device_memory(self) -> int | None:
        """Bytes that this process holds on the session's GPU; None on the CPU."""
        return self._device_memory.held(self.session.info.device)

    def close(self) -> None:
        """Close the session."""
        if self._session is not None:
            self._session.close()
            self._session = None

    def _first_run(self, batch: int) -> float:
        feeds = self._feeds_of(batch)
        before = time.perf_counter()
        self.session.run(feeds)
        return time.perf_counter() - before

    def _settle(self) -> None:
        """Wait until this process's threads sleep, where the owner can't stop it: pools spin after a run."""
        if CAN_PAUSE:
            return
        limit = time.perf_counter() + _SETTLE_LIMIT
        while True:
            wall, used = time.perf_counter(), time.process_time()
            time.sleep(_SETTLE_STEP)
            elapsed = time.perf_counter() - wall
            if time.process_time() - used < QUIET_SHARE * elapsed or wall > limit:
                return

    def _feeds_of(self, batch: int) -> dict[str, Array]:
        """Inputs for a batch: the images that were given to it, repeated to fit, or noise before there are any."""
        if batch not in self._feeds:
            known = {name: np.resize(array, (batch, *array.shape[1:])) for name, array in self._sample.items()}
            self._feeds[batch] = {
                spec.name: known[spec.name] if spec.name in known else noise(spec, batch)
                for spec in self.session.inputs
            }
        return self._feeds[batch]

    def _cuts(self, count: int) -> list[int]:
        size = self._fixed() or self.session.info.max_batch or count
        return list(range(size, count, size))

    def _fixed(self) -> int | None:
        shape = self.session.inputs[0].shape
        return shape[0] if shape and isinstance(shape[0], int) else None

    def _run_padded(self, values: Array) -> NDArray[np.float32]:
        """The logits of one part."""
        session = self.session
        outputs = self._padded({session.inputs[0].name: values})
        scored = session.metadata.scored if session.metadata else None
        name = next(name for name in ("logits", scored, session.outputs[0].name) if name in outputs)
        return np.asarray(outputs[name], np.float32).reshape(len(values), -1)

    def _padded(self, feeds: dict[str, Array]) -> dict[str, Array]:
        """Run one part; a short one is padded with its last sample where the engine takes no such batch."""
        count, session = len(next(iter(feeds.values()))), self.session
        try:
            return session.run(feeds)
        except InputError:
            full = self._fixed() or session.info.max_batch
            if full is None or count >= full:
                raise
            outputs = session.run(
                {
                    name: np.concatenate([array, array[-1:].repeat(full - count, axis=0)])
                    for name, array in feeds.items()
                }
            )
            return {name: values[:count] for name, values in outputs.items()}


def _stages(session: Session) -> list[StageTimes]:
    times = session.stage_times()
    return [] if times is None else [times]


def serve(requests: BinaryIO, replies: BinaryIO) -> None:
    """Answer requests until the owner closes the pipe or is gone."""
    worker = Worker()
    while True:
        try:
            name, arguments = pickle.load(requests)  # noqa: S301 - from the process that started this one
        except EOFError:
            return
        reply: tuple[bool, Any]
        try:
            reply = True, getattr(worker, name)(*arguments)
        except ToolkitError as error:
            reply = False, error
        except MemoryError:
            reply = False, RunError("the machine ran out of memory", "use smaller batches or a larger machine")
        except Exception as error:  # whatever a library raises becomes the reason in this artifact's row
            traceback.print_exc()
            reply = False, RunError(f"{type(error).__name__}: {error}", "run it alone with `toolkit bench --debug`")
        pickle.dump(reply, replies, protocol=5)
        replies.flush()


def main() -> None:
    """Take the two pipes, send everything that libraries print to standard error, and serve."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the owner decides when this ends
    die_with_owner()
    with (
        os.fdopen(os.dup(sys.stdin.fileno()), "rb") as requests,
        os.fdopen(os.dup(sys.stdout.fileno()), "wb") as replies,
        contextlib.suppress(BrokenPipeError),
    ):
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        with open(os.devnull, "rb") as nothing:  # noqa: PTH123 - the null device is no path
            os.dup2(nothing.fileno(), sys.stdin.fileno())
        serve(requests, replies)
