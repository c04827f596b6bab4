"""The owner's end of a measuring process: start it, ask it, learn how it died, and never leave it behind.

Backends share no process because they disturb each other there: spinning thread pools, clashing
libraries, and a crash that would end the whole comparison instead of one row of it.
"""

import contextlib
import json
import os
import pickle
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self, cast

import numpy as np
from numpy.typing import NDArray

from engines.errors import RunError, ToolkitError
from engines.preprocess import Preprocess
from engines.tensors import Array
from toolkit.benchmarking.messages import Block, Contestant, Opened, Proof
from toolkit.benchmarking.pausing import pause, resume

PATIENCE = 900.0
"""Seconds without an answer after which a process counts as hung; a first run may compile for minutes."""

_LOOK = 1.0
"""Seconds after which a process that hasn't answered is looked at: something that it started may hold its pipe."""

_LOG_TAIL = 4096

_BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from toolkit.benchmarking.worker import main; main()"
)


class WorkerProcess:
    """A process that opens one artifact and measures it in turns.

    It is a fresh interpreter (no fork, so that CUDA and thread pools start clean; no re-import of the
    caller's main module, so that a plain script or a notebook can compare), in a session of its own, so
    that Ctrl-C reaches the owner alone. It runs only while it answers, and is stopped in between (where
    :mod:`toolkit.benchmarking.pausing` can do that). It ends when the owner closes it, dies, or drops the
    pipe; on Linux already when the thread of the owner ends that made it.

    Args:
        contestant: what it opens.
        patience: seconds without an answer after which it counts as hung.
    """

    def __init__(self, contestant: Contestant, *, patience: float = PATIENCE) -> None:
        self.contestant = contestant
        self.patience = patience
        # The two share the file's position: appending lets the owner read while the other writes.
        self._log = tempfile.TemporaryFile("a+b")  # noqa: SIM115 - closed with the process
        self._process = subprocess.Popen(
            [sys.executable, "-c", _BOOT, json.dumps([str(folder) for folder in sys.path])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            start_new_session=True,
        )
        self._replies: queue.SimpleQueue[tuple[bool, Any] | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, name=f"replies of {contestant.name}", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """It has not ended."""
        return self._process.poll() is None

    def ready(self) -> None:
        """Wait until the process has started, which is no part of what opening takes."""
        self._ask("ready")

    def open(self) -> Opened:
        """Open the artifact and run it once.

        Raises:
            ToolkitError: why it can't be opened or run here, whatever the cause.
        """
        return cast("Opened", self._ask("open", self.contestant))

    def logits(self, pixels: NDArray[np.uint8], preprocess: Preprocess | None) -> NDArray[np.float32]:
        """Classify uint8 pixels [N, H, W, C]; float32 [N, classes]. None: the graph normalises by itself."""
        return cast("NDArray[np.float32]", self._ask("logits", pixels, preprocess))

    def answers(
        self, samples: NDArray[np.uint8] | Mapping[str, Array], preprocess: Preprocess | None
    ) -> dict[str, Array]:
        """Every output, [N, ...] each, for pixels as for :meth:`logits`, or for an array an input."""
        return cast("dict[str, Array]", self._ask("answers", samples, preprocess))

    def feed(self, samples: NDArray[np.uint8] | Mapping[str, Array], preprocess: Preprocess | None) -> None:
        """Take these samples, as for :meth:`answers`, for all that is timed from now on; before, it is noise."""
        self._ask("feed", samples, preprocess)

    def warm(self, batch: int, seconds: float) -> int:
        """Run untimed for ``seconds``; the number of runs."""
        return cast("int", self._ask("warm", batch, seconds, longer=seconds))

    def block(self, batch: int, seconds: float) -> Block:
        """Time one turn of ``seconds`` at least one run long."""
        return cast("Block", self._ask("block", batch, seconds, longer=seconds))

    def proof(self) -> Proof:
        """What really ran the artifact, by its library; the reason in it where that can't be told."""
        return cast("Proof", self._ask("proof"))

    def memory(self) -> int | None:
        """The most bytes that the process has held resident."""
        return cast("int | None", self._ask("memory"))

    def device_memory(self) -> int | None:
        """The bytes that the process holds on the session's GPU; None on the CPU and where no driver tells."""
        return cast("int | None", self._ask("device_memory"))

    def close(self) -> None:
        """End the process, at once when it doesn't end by itself; safe to call twice."""
        if self._log.closed:
            return
        self._kill()
        self._process.wait()
        self._reader.join(_LOOK)
        held = self._reader.is_alive()  # the pipe's other end, by something that has left the process's group
        for pipe in (self._process.stdin, None if held else self._process.stdout, self._log):
            with contextlib.suppress(OSError):  # a request that never got through is still in the buffer
                if pipe is not None:
                    pipe.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _kill(self) -> None:
        """Kill it with whatever its libraries have started, which would hold the pipes open."""
        if self._process.poll() is not None:
            self._reader.join(_LOOK)
            if not self._reader.is_alive():  # nothing of its group holds the pipe
                return
        if hasattr(os, "killpg"):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
        else:
            self._process.kill()

    def _ask(self, name: str, *arguments: object, longer: float = 0.0) -> Any:
        """The answer to a request; ``longer`` is what it takes by itself, beyond which patience begins."""
        pipe = self._process.stdin
        assert pipe is not None  # noqa: S101 - asked for above
        if self.alive:  # of one that has ended the id may be another's by now
            resume(self.pid)
        try:
            pickle.dump((name, arguments), pipe, protocol=5)
            pipe.flush()
        except (OSError, ValueError) as error:  # a broken pipe, which Windows calls an invalid argument
            raise self._death() from error
        try:
            reply = self._reply(self.patience + longer)
        except queue.Empty:
            self._kill()
            raise RunError(
                f"'{self.contestant.name}' gave no answer for {self.patience:.0f} s and was stopped",
                "run it alone with `toolkit bench` to see where it hangs",
            ) from None
        if reply is None:
            raise self._death()
        if self.alive:
            pause(self.pid)
        good, value = reply
        if not good:
            if type(value) is RunError:  # not an answer that the toolkit foresaw: `--debug` shows more
                value.add_note(f"the process of '{self.contestant.name}' said:\n{self._log_tail()}")
            raise value
        return value

    def _reply(self, seconds: float) -> tuple[bool, Any] | None:
        """What it answers; None when it has ended. Raises queue.Empty after so many seconds."""
        until = time.monotonic() + seconds
        while True:
            late = time.monotonic() >= until  # asked before: this process may have been stopped itself, by Ctrl-Z
            ended = not self.alive
            with contextlib.suppress(queue.Empty):
                return self._replies.get(timeout=_LOOK)
            if ended:
                return None
            if late:
                raise queue.Empty

    def _read(self) -> None:
        pipe = self._process.stdout
        assert pipe is not None  # noqa: S101 - asked for above
        while True:
            try:
                self._replies.put(pickle.load(pipe))  # noqa: S301 - from the process started above
            except (EOFError, OSError, ValueError, pickle.UnpicklingError):
                self._replies.put(None)
                return
            except Exception as error:
                self._replies.put((False, RunError(f"unreadable answer: {error}", "install the same versions")))

    def _death(self) -> ToolkitError:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=10)
        code = self._process.poll()
        words = self._last_words()
        remedy = "run it alone with `toolkit bench` to see what it does"
        if code is not None and code < 0:
            name = signal.Signals(-code).name
            if name == "SIGKILL":
                remedy = "the system may have run out of memory: compare fewer artifacts, or use smaller batches"
            return RunError(f"the process of '{self.contestant.name}' was killed by {name}{words}", remedy)
        return RunError(f"the process of '{self.contestant.name}' ended with status {code}{words}", remedy)

    def _log_tail(self) -> str:
        """The end of what its libraries printed, without empty lines."""
        if self._log.closed:
            return ""
        self._log.seek(0, 2)
        self._log.seek(max(0, self._log.tell() - _LOG_TAIL))
        text = self._log.read().decode(errors="replace")
        return "\n".join(line for line in text.splitlines() if line.strip())

    def _last_words(self) -> str:
        lines = self._log_tail().splitlines()
        return f": {lines[-1].strip()}" if lines else ""
