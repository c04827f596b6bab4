"""A model's name, what answers under it now, and putting another opening of its file in that place."""

import asyncio
import copy
import logging
from collections import Counter
from collections.abc import Coroutine, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from engines.errors import RunError, ToolkitError
from toolkit.runtime.batching.stats import BatcherStats, Times, TimeStats
from toolkit.server.plane.interface import ModelState
from toolkit.server.plane.opening import Origin, Stamp
from toolkit.server.plane.served import VERSION, ServedModel
from toolkit.server.plane.totals import ended, total
from toolkit.server.protocol.messages import UnavailableError
from toolkit.server.settings import ModelSettings, Source

log = logging.getLogger("toolkit.server")

MEND_AFTER, MEND_AT_MOST = 1.0, 60.0
"""Seconds from the death of a model's last session to trying its file again, doubled up to the second each time that
it fails: a device that was reset is back in seconds, and a lost one isn't worth a core."""


class Model:
    """What is served under one name. It belongs to the event loop in which it is asked; opening and closing happen
    in threads.

    Args:
        origin: its name, and what opens it.
        settings: how.

    Attributes:
        name: what requests call it.
        current: what answers.
        reloads: how often another opening took its place, and how often it didn't open.
        tried: the files' stamp when they were last opened, well or not.
        errors: requests that failed, by the error's kind.
        decoding: seconds from a picture's arrival until it was decoded.
        last: when it last answered, in seconds since the epoch; 0 for never.

    Raises:
        ToolkitError: it can't be opened now.
    """

    def __init__(self, origin: Origin, settings: ModelSettings) -> None:
        self.name, self.origin = origin.name, origin
        self._settings = settings
        self.current = ServedModel(origin, settings)
        self.tried: Stamp = self.current.stamp
        self.reloads = {"succeeded": 0, "failed": 0}
        self.errors: Counter[str] = Counter()
        self.decoding = Times()
        self.last = 0.0
        self._past: list[BatcherStats] = []
        self._leaving: list[ServedModel] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._turn = asyncio.Lock()
        self._next: asyncio.Task[None] | None = None
        self._mender: asyncio.Task[None] | None = None
        self._attempt: asyncio.Future[bool] | None = None
        self._opening = self._closed = False

    def state(self) -> ModelState:
        """Its entry in the index."""
        if self._closed:
            return ModelState(self.name, VERSION, "UNAVAILABLE", "the server has ended")
        if self.current.alive():
            return ModelState(self.name, VERSION, "READY")
        if self._opening:
            return ModelState(self.name, VERSION, "LOADING", "its last session died; it is opened again")
        return ModelState(self.name, VERSION, "UNAVAILABLE", "its last session died")

    def totals(self) -> BatcherStats:
        """What all openings of it have done."""
        return total(self.current.stats(), [*self._past, *(one.stats() for one in self._leaving)])

    def statistics(self) -> dict[str, Any]:
        """:meth:`totals` as JSON takes it, with what batchers don't know of.

        Besides: "last_inference", ms since the epoch; "generation", which opening answers; "reloads" by outcome;
        "errors" by kind; "decoding", the times of pictures; "max_batch".
        """
        times = self.decoding
        return {
            **self.totals().to_json(),
            "last_inference": int(1e3 * self.last),
            "generation": self.current.generation,
            "reloads": dict(self.reloads),
            "errors": dict(self.errors),
            "decoding": asdict(TimeStats(times.count, times.seconds, times.largest, tuple(times.buckets))),
            "max_batch": self.current.metadata.max_batch,
        }

    def closed(self) -> bool:
        """Whether :meth:`close` was called."""
        return self._closed

    async def reload(self) -> None:
        """Open the file again, and put the new one in place once it answers; requests go on meanwhile.

        Whoever comes before that has begun shares it.

        Raises:
            UnavailableError: it is closed.
            ToolkitError: it couldn't be opened; the old one goes on.
        """
        if self._next is None:
            self._next = self._spawn(self._reload())
        await asyncio.shield(self._next)

    async def mend(self) -> bool:
        """Put another opening in the place of one whose last session has died: now, or when it can be opened.

        Returns:
            Whether the first attempt succeeded, which this waits for; the others go on without anybody.
        """
        if self._closed:
            return False
        if self._mender is None or self._attempt is None:
            self._attempt = asyncio.get_running_loop().create_future()
            self._mender = self._spawn(self._mend(self._attempt))
        return await asyncio.shield(self._attempt)

    async def close(self, timeout: float | None = None) -> None:
        """Answer what was accepted, and close every session.

        Args:
            timeout: seconds for which requests that wait are still run; None for as long as it takes.
        """
        self._closed = True
        if self._mender is not None:
            self._mender.cancel()
        if self._attempt is not None and not self._attempt.done():
            self._attempt.set_result(False)
        await asyncio.gather(*(self._shut(one, timeout) for one in (self.current, *self._leaving)))
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _reload(self) -> None:
        async with self._turn:
            self._next = None
            if self.closed():
                raise UnavailableError(f"the model '{self.name}' is closed", "ask a server that runs")
            # What changes while it is read makes a stamp that differs from this one.
            self.tried = await asyncio.to_thread(self.origin.stamp)
            self._opening = True
            try:
                number = self.current.generation + 1
                fresh = await asyncio.to_thread(ServedModel, self.origin, self._settings, number)
            except Exception as error:
                self.reloads["failed"] += 1
                log.warning("model '%s' was not opened again, the old one goes on: %s", self.name, error)
                if isinstance(error, ToolkitError):
                    raise _without_folder(error, self.origin.path) from error
                failed = RunError(
                    f"opening the model '{self.name}' failed: {type(error).__name__}: {error}", "see the log"
                )
                raise _without_folder(failed, self.origin.path) from error
            finally:
                self._opening = False
            if self.closed():
                await asyncio.to_thread(fresh.close)
                raise UnavailableError(f"the model '{self.name}' is closed", "ask a server that runs")
            old, self.current = self.current, fresh
            self.reloads["succeeded"] += 1
            log.info("model '%s' was opened again and answers", self.name)
            self._leaving.append(old)
            self._spawn(self._retire(old))

    async def _retire(self, old: ServedModel) -> None:
        """Let an opening that was replaced answer what it has accepted, and close it."""
        stats = await self._shut(old, None)
        self._leaving.remove(old)
        # One sum is enough, however often it is opened.
        self._past = [total(stats, self._past)]

    async def _shut(self, served: ServedModel, timeout: float | None) -> BatcherStats:
        try:
            await asyncio.to_thread(served.close, timeout)
        except Exception:
            log.exception("closing model '%s' failed", self.name)
        return ended(served.stats())

    async def _mend(self, first: "asyncio.Future[bool]") -> None:
        wait = MEND_AFTER
        try:
            while not self._closed and not self.current.alive():
                try:
                    await self.reload()
                except ToolkitError:
                    # The next attempt is nobody's request, so nobody waits for it.
                    if not first.done():
                        first.set_result(False)
                    await asyncio.sleep(wait)
                    wait = min(2 * wait, MEND_AT_MOST)
        finally:
            self._mender = None
            if not first.done():
                first.set_result(self.current.alive())

    def _spawn(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # told to who asked, if anybody still does


def _without_folder(error: ToolkitError, path: Path | None) -> ToolkitError:
    """The error as it is told to clients, who needn't know where files lie; the log has it whole."""
    told = copy.copy(error)
    if path is not None:
        for folder in (path.parent, path.absolute().parent, path.resolve().parent):
            if folder.name:
                told.cause, told.remedy = (text.replace(f"{folder}/", "") for text in (told.cause, told.remedy))
    told.args = (told.cause,)
    return told


def open_models(sources: Sequence[Source], settings: ModelSettings | None = None) -> list[Model]:
    """Open every model, one after the other; all of them or none.

    Raises:
        ToolkitError: one can't be opened.
    """
    settings = settings or ModelSettings()
    models: list[Model] = []
    try:
        models.extend(Model(Origin.of(source, settings), settings) for source in sources)
    except BaseException:
        for model in models:
            model.current.close()
        raise
    return models
