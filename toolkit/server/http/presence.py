"""Work that goes on for as long as the client is there."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from toolkit.server.http.asgi import ClientGone, Receive

T = TypeVar("T")

PATIENCE = 0.05
"""Seconds that pass before the client is watched. Watching takes a task, and most requests are answered by then: what
a client leaves behind sooner costs one sample of a batch."""


async def while_present(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """Await ``work``, and cancel it when the client closes the connection.

    Args:
        receive: of ASGI; the body has been read, so that the next message tells that the client has gone.
        work: what is done for it.

    Raises:
        ClientGone: it has gone; the work was cancelled.
    """
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - a coroutine runs in a task
    loop = task.get_loop()
    watcher: asyncio.Task[Any] | None = None
    gone = over = False

    async def watch() -> None:
        nonlocal gone
        while (await receive())["type"] != "http.disconnect":
            pass
        if not over:
            gone = True
            task.cancel()

    def begin() -> None:
        nonlocal watcher
        watcher = loop.create_task(watch())

    timer = loop.call_later(PATIENCE, begin)
    try:
        return await work
    except asyncio.CancelledError:
        if not gone or task.uncancel():
            raise
        raise ClientGone from None
    finally:
        over = True
        timer.cancel()
        if watcher is not None:
            watcher.cancel()
