"""The builder's log: kept whole up to a bound, written beside the engine, and what of it tells a user something.

A TensorRT library takes the first logger that it is given for the life of the process and ignores later ones, so
there is one a library, and whoever wants its messages listens for a while.
"""

import contextlib
import re
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from engines.files import write_atomically

# Characters that are kept of a log. AlexNet's is 50 thousand; the listing of a network's layers, one message, may
# be a hundred times that. What was said first and what was said last tell most, so the middle is dropped.
_HEAD, _TAIL = 4 << 20, 8 << 20
_SHOWN = 12
_LONGEST = 300

# TensorRT for RTX says these on any machine without a GPU, also when the build succeeds.
_NOISE = ("cudaError 35", "Thread context has not been set", "The logger passed into")

_loggers: dict[str, tuple[Any, list["Log"]]] = {}
_guard = threading.Lock()


class Log:
    """The messages of a library: the first and the last ones where there are very many."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._head: list[tuple[float, str, str]] = []
        self._tail: deque[tuple[float, str, str]] = deque()
        self._head_size = self._tail_size = self._dropped = 0
        self._last: deque[str] = deque(maxlen=_SHOWN)
        self._errors: deque[str] = deque(maxlen=_SHOWN)

    def add(self, severity: str, message: str) -> None:
        """Keep a message; ``severity`` is "ERROR", "WARNING", "INFO" or "VERBOSE"."""
        said = message if len(message) <= _HEAD else message[:_HEAD] + "…"
        entry = (time.monotonic() - self._started, severity, said)
        if not self._tail and self._head_size + len(said) <= _HEAD:
            self._head.append(entry)
            self._head_size += len(said)
        else:
            self._tail.append(entry)
            self._tail_size += len(said)
            while self._tail_size > _TAIL:
                self._tail_size -= len(self._tail.popleft()[2])
                self._dropped += 1
        self._last.append(f"{severity}: {message}")
        if severity == "ERROR" and not any(noise in message for noise in _NOISE):
            self._errors.append(message)

    def text(self) -> str:
        """All that was kept, a line a message with its seconds since the build began; messages may have lines."""
        left_out = [f"... {self._dropped} messages left out ..."] if self._dropped else []
        lines = (f"{seconds:10.3f} {severity}: {said}" for seconds, severity, said in self._head)
        rest = (f"{seconds:10.3f} {severity}: {said}" for seconds, severity, said in self._tail)
        return "\n".join((*lines, *left_out, *rest)) + "\n"

    def tail(self) -> tuple[str, ...]:
        """The errors and the last few messages of any kind, for the details of a failure."""
        return (*(f"ERROR: {message}" for message in self._errors), *self._last)

    def reason(self) -> str:
        """The first error that isn't noise, in plain words; empty when there was none."""
        return plain(self._errors[0]) if self._errors else ""

    def missing_file(self) -> str | None:
        """The file that the parser couldn't open, where that is what failed."""
        for message in self._errors:
            if found := re.search(r"Failed to open file: (.+)$", message):
                return found.group(1).strip()
        return None


def library_logger(trt: ModuleType) -> Any:
    """The one logger for the library ``trt``, an ``ILogger``; it never prints.

    Every ``Builder``, ``Runtime`` and ``OnnxParser`` of the process has to be given this one.
    """
    with _guard:
        if trt.__name__ not in _loggers:
            _loggers[trt.__name__] = _make_logger(trt)
        return _loggers[trt.__name__][0]


@contextlib.contextmanager
def listening(trt: ModuleType) -> Iterator[Log]:
    """Collect the library's messages while the block runs."""
    library_logger(trt)
    listeners = _loggers[trt.__name__][1]
    log = Log()
    with _guard:
        listeners.append(log)
    try:
        yield log
    finally:
        with _guard:
            listeners.remove(log)


def _make_logger(trt: Any) -> tuple[Any, list[Log]]:
    listeners: list[Log] = []

    class Logger(trt.ILogger):  # type: ignore[misc]  # the libraries have no types
        def __init__(self) -> None:
            trt.ILogger.__init__(self)  # the base is C++ and has to be called by name

        def log(self, severity: Any, message: str) -> None:
            name = str(severity).rpartition(".")[2].removeprefix("INTERNAL_")
            for listener in tuple(listeners):
                listener.add(name, message)

    return Logger(), listeners


def plain(message: str) -> str:
    """A library's message in one line, without source locations, assertion text and noise."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    told = [line for line in lines if not any(noise in line for noise in _NOISE) and not _is_heading(line)]
    text = (told or lines or [""])[0]
    text = re.sub(r"^.*?Error Code \d+: [\w ]+\((?=.*\)$)(.*)\)$", r"\1", text)
    text = re.sub(r"\.? In \w+ at /\S+.*$", "", text)
    text = re.sub(r"^\[\w+\.cpp:\d+: \w+\] ", "", text)
    text = re.sub(r"^.*?Assertion failed: .*?: (?=\S)", "", text)
    text = re.sub(r'^\w+ && "(.*)"$', r"\1", text).strip()
    return text if len(text) <= _LONGEST else text[:_LONGEST].rstrip() + "…"


def _is_heading(line: str) -> bool:
    return line.startswith(("Invalid Node -", "While parsing node", "--- ", "In node -1 with name:"))


def details(lines: Sequence[str]) -> str:
    """A failure's log for the note of an exception, which ``--debug`` shows."""
    return "\n".join(("the library's log:", *lines))


def log_path(engine: Path, *, failed: bool = False) -> Path:
    """Where the log of an engine's build lies: ``model.fp16.engine.log``, ``...failed.log`` where none came of it."""
    return engine.with_name(f"{engine.name}{'.failed' if failed else ''}.log")


def write_log(engine: Path, text: str, *, failed: bool = False) -> Path:
    """Write the log beside the engine, whole or not at all; one of an earlier failure goes.

    Raises:
        InputError: it can't be written.
    """
    path = log_path(engine, failed=failed)
    write_atomically(path, text)
    if not failed:
        log_path(engine, failed=True).unlink(missing_ok=True)
    return path
