"""Which file is served under which name, and what opens it."""

import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engines.errors import InputError, RunError, ToolkitError
from engines.files import require_file
from engines.passport import Passport, find_passport
from engines.sessions.base import Session
from toolkit.runtime.batching.layout import layout_of
from toolkit.server.settings import ModelSettings, Source

OpenSession = Callable[[str], Session]
"""Gives a session on a device ("auto", "cpu", "cuda:0", ...); called in any thread."""

Stamp = tuple[tuple[str, int, int, int], ...]
"""What is known of a model's files without reading them: name, inode, time of change in ns and bytes of each."""

TRIES = 3
"""How often several sessions are opened of files that change meanwhile: a replacement is one change, or a few."""

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Origin:
    """Where a model comes from.

    Attributes:
        name: what requests call it.
        open: gives a session of it.
        path: its file; None for one that has none.
    """

    name: str
    open: OpenSession
    path: Path | None = None

    @classmethod
    def of(cls, source: Source, settings: ModelSettings) -> "Origin":
        """The origin of a file."""
        path = source.path

        def open_session(device: str) -> Session:
            from toolkit.loading import open_artifact

            # Threads that spin would take the cores from reading requests and writing answers.
            return open_artifact(
                path,
                device=device,
                backend=settings.backend,
                threads=settings.threads,
                spin="never",
                model=settings.code,
            )

        return cls(source.name, open_session, path)

    def stamp(self) -> Stamp:
        """Its files as they are now; empty where there is none."""
        return stamp_of(self.path) if self.path is not None else ()

    def passport(self) -> Passport | None:
        """The passport beside the file, where one is.

        Raises:
            EngineFormatError: it is damaged.
        """
        return find_passport(self.path) if self.path is not None else None


def sources_of(given: Iterable[str]) -> tuple[Source, ...]:
    """What ``PATH`` and ``NAME=PATH`` stand for; without a name it is the file's, up to its first dot.

    Raises:
        InputError: a file doesn't exist, or a name is unfit, or given twice.
    """
    sources: dict[str, Source] = {}
    for text in given:
        name, named, path = text.partition("=")
        if not named or Path(text).exists():
            name, path = Path(text).name.split(".")[0], text
        require_file(Path(path))
        if not _NAME.fullmatch(name):
            raise InputError(
                f"'{name}' can't be a model's name, which is letters, digits, '-', '_' and '.'",
                f"name it: toolkit serve NAME='{path}'",
            )
        if name in sources:
            raise InputError(
                f"two models would be called '{name}': '{sources[name].path}' and '{path}'",
                f"name one of them: toolkit serve {name}={sources[name].path} {name}2={path}",
            )
        sources[name] = Source(name, Path(path))
    if not sources:
        raise InputError("there is nothing to serve", "give a graph, an engine or a checkpoint")
    return tuple(sources.values())


def stamp_of(path: Path) -> Stamp:
    """The stamp of a model's file and of those that begin with its name: its passport, its weights.

    The file itself must be there: without it the stamp is empty.
    """
    found = []
    try:
        with os.scandir(path.parent) as folder:
            names = sorted(entry.name for entry in folder if entry.name.startswith(path.name))
        for name in names:
            stat = path.with_name(name).stat()
            found.append((name, stat.st_ino, stat.st_mtime_ns, stat.st_size))
    except OSError:  # one went away while it was looked at: the next look tells
        return ()
    return tuple(found) if path.name in names else ()


def open_alike(origin: Origin, devices: Sequence[str]) -> tuple[Stamp, Passport | None, list[Session]]:
    """A session on every device, all of the same files; with these files' stamp and passport.

    Raises:
        RunError: the files changed each time that they were read.
        ToolkitError: those of :func:`open_sessions`, or the passport is damaged.
    """
    for _ in range(TRIES):
        stamp, passport = origin.stamp(), origin.passport()
        sessions = open_sessions(origin, devices)
        if len(sessions) == 1 or origin.stamp() == stamp:
            return stamp, passport, sessions
        for session in sessions:
            session.close()
    raise RunError(
        f"the files of the model '{origin.name}' changed while they were opened", "open it when they are complete"
    )


def open_again(origin: Origin, device: str, stamp: Stamp) -> Session:
    """One more session of the files that had this stamp.

    Raises:
        RunError: they were replaced, so that its answers might be others than those of the sessions beside it.
        ToolkitError: it can't be opened.
    """
    if origin.stamp() == stamp:
        session = origin.open(device)
        if origin.stamp() == stamp:
            return session
        session.close()
    raise RunError("its file was replaced after it was opened", "have the model opened again as a whole")


def open_sessions(origin: Origin, devices: Sequence[str]) -> list[Session]:
    """A session on every device, each tried with a sample of zeros; all of them or none.

    Raises:
        ToolkitError: one can't be opened, can't be batched, or doesn't answer.
    """
    sessions: list[Session] = []
    try:
        for device in devices:
            sessions.append(origin.open(device))
            try_out(sessions[-1])
    except BaseException as error:
        for session in sessions:
            session.close()
        if isinstance(error, Exception) and not isinstance(error, ToolkitError | MemoryError):
            raise RunError(
                f"the model '{origin.name}' can't be opened: {type(error).__name__}: {error}",
                "see the error that this one came from",
            ) from error
        raise
    return sessions


def try_out(session: Session) -> None:
    """Run one sample of zeros, or a batch of them where the engine is fixed to one.

    Raises:
        UnsupportedError: it can't be batched.
        RunError: it doesn't answer.
    """
    layout, fixed = layout_of(session)
    session.run({one.name: np.zeros((fixed or 1, *one.shape), one.dtype) for one in layout.samples})
