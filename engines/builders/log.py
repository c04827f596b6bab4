"""The builder's log, kept in a ring buffer, and what of it tells a user something.

A TensorRT library takes the first logger that it is given for the life of the process and ignores later ones, so
there is one a library, and whoever wants its messages listens for a while.
"""

import contextlib
import re
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

_KEPT = 400
_SHOWN = 12
_LONGEST = 300

# TensorRT for RTX says these on any machine without a GPU, also when the build succeeds.
_NOISE = ("cudaError 35", "Thread context has not been set", "The logger passed into")

_loggers: dict[str, tuple[Any, list["Log"]]] = {}
_guard = threading.Lock()


class Log:
    """The last messages of a library, the oldest dropped."""

    def __init__(self) -> None:
        self._messages: deque[tuple[str, str]] = deque(maxlen=_KEPT)
        self._errors: deque[str] = deque(maxlen=_SHOWN)

    def add(self, severity: str, message: str) -> None:
        """Keep a message; ``severity`` is "ERROR", "WARNING", "INFO" or "VERBOSE"."""
        self._messages.append((severity, message))
        if severity == "ERROR" and not any(noise in message for noise in _NOISE):
            self._errors.append(message)

    def tail(self) -> tuple[str, ...]:
        """The errors and the last few messages of any kind, for the details of a failure."""
        last = [f"{severity}: {message}" for severity, message in list(self._messages)[-_SHOWN:]]
        return (*(f"ERROR: {message}" for message in self._errors), *last)

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
