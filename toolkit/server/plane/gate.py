"""Where requests wait while a front stops, and how it is told that they are through."""

import asyncio
import contextlib

from toolkit.server.protocol.messages import UnavailableError


class Gate:
    """Open until :meth:`hold`; used in one event loop.

    Attributes:
        draining: whether the plane says that it ends.
        closed: whether nothing new is taken.
        held: requests that wait for :meth:`release`.
    """

    def __init__(self) -> None:
        self.draining = self.closed = False
        self.held = 0
        self._shut: asyncio.Event | None = None

    def drain(self) -> None:
        """Say from now on that it ends; requests are still answered."""
        self.draining = True

    def hold(self) -> None:
        """Keep requests that come from now on waiting."""
        self._shut = self._shut or asyncio.Event()

    def release(self) -> None:
        """Let those go on that were held."""
        if self._shut is not None:
            self._shut.set()
            self._shut = None

    def close(self) -> None:
        """Refuse whatever comes from now on, and what is held."""
        self.draining = self.closed = True
        self.release()

    def passable(self) -> bool:
        """Whether a request need not :meth:`enter`: the usual case, and free."""
        return self._shut is None and not self.closed

    async def enter(self) -> None:
        """Wait until what is held goes on.

        Raises:
            UnavailableError: nothing is taken any more.
        """
        if self._shut is not None:
            self.held += 1
            try:
                await self._shut.wait()
            finally:
                self.held -= 1
        if self.closed:
            raise ending()


class UnderWay:
    """Counts what is under way: ``with under_way: ...``; used in one event loop."""

    def __init__(self) -> None:
        self._count, self._none = 0, asyncio.Event()

    def __enter__(self) -> None:
        self._count += 1

    def __exit__(self, *_: object) -> None:
        self._count -= 1
        if not self._count:
            self._none.set()

    async def over(self, timeout: float | None) -> None:
        """Wait until nothing is under way, for ``timeout`` seconds at most; None for as long as it takes."""
        if self._count:
            self._none.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._none.wait(), timeout)


def ending() -> UnavailableError:
    """The error for who comes too late."""
    return UnavailableError("the server is ending", "ask another one, or later")
