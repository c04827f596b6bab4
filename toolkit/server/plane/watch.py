"""Files of models that are replaced while they are served."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

from engines.errors import MissingLibraryError, ToolkitError, UnsupportedError
from engines.optional import require
from toolkit.server.plane.reload import Model

log = logging.getLogger("toolkit.server")

LOOK = 1.0
"""Seconds between two looks at the files where the system tells nobody of changes; a look is a few µs."""

LOOK_ANYWAY = 15.0
"""Seconds between two looks where it does: it doesn't of what another machine changes in a shared folder."""

SETTLE = 0.5
"""Seconds for which files must not have changed before they are read: an engine and its passport are replaced one
after the other, and who copies a file writes it piece by piece."""


async def watch(models: Iterable[Model], *, look: float = LOOK, settle: float = SETTLE) -> None:
    """Open models again whose files were replaced, until this is cancelled.

    A file that went away changes nothing, and one that doesn't open is tried again once it has changed again.

    Args:
        models: those without a file are left alone.
        look, settle: see :data:`LOOK` and :data:`SETTLE`.
    """
    watched = [model for model in models if model.origin.path is not None]
    under_way: dict[str, asyncio.Task[None]] = {}
    try:
        async for _ in _changes({path for model in watched for path in _folders(model)}, look):
            for model in watched:
                task = under_way.get(model.name)
                if (task is None or task.done()) and await _changed(model):
                    under_way[model.name] = asyncio.create_task(_follow(model, settle))
    finally:
        for task in under_way.values():
            task.cancel()


async def _changed(model: Model) -> bool:
    """Whether the model's files are there, and others than those that were read last."""
    stamp = await asyncio.to_thread(model.origin.stamp)
    return bool(stamp) and stamp != model.tried


async def _follow(model: Model, settle: float) -> None:
    """Wait until the model's files change no more, and open them."""
    stamp = None
    while stamp != (stamp := await asyncio.to_thread(model.origin.stamp)):
        await asyncio.sleep(settle)
    if not stamp or stamp == model.tried:
        return
    try:
        await model.reload()
    except ToolkitError:
        return  # the model has logged and counted it


def _folders(model: Model) -> Iterable[Path]:
    """Where the model's file lies, and where it does in truth if it is a link."""
    path = model.origin.path
    assert path is not None  # noqa: S101 - it is one of those with a file
    return {path.absolute().parent, path.resolve().parent}


async def _changes(folders: Iterable[Path], look: float) -> AsyncIterator[None]:
    """Something whenever it is time to look at files; at once, for they may have changed since they were read."""
    yield
    try:
        library = require("watchfiles", "Watching files", "serve")
    except (MissingLibraryError, UnsupportedError):
        library = None
    if library is not None and folders:
        try:
            told = library.awatch(
                *folders, watch_filter=None, recursive=False, step=50, debounce=200,
                rust_timeout=int(1e3 * LOOK_ANYWAY), yield_on_timeout=True,
            )  # fmt: skip
            async for _ in told:
                yield
        except (OSError, RuntimeError) as error:  # the system's watches are used up, or a folder is gone
            log.info("files are looked at every %s s, for the system doesn't tell of changes: %s", look, error)
    while True:
        await asyncio.sleep(look)
        yield
