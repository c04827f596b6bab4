"""A worker's session: its slots, whether it lives, and another one in its place."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from engines.errors import InputError, RunError, ToolkitError
from engines.sessions.base import Session, Slot
from engines.sessions.owned import OwnedSession
from toolkit.runtime.batching.aside import aside, is_large
from toolkit.runtime.batching.layout import Layout, layout_of

Restart = Callable[[Session], Session]


class Keeper:
    """Keeps one session at work.

    Args:
        session: the worker's alone from now on.
        layout: of the samples; a session that takes another's place must have the same.
        fixed: the batch size that the session is fixed to; None where it takes any.
        max_batch: samples in a batch otherwise.
        slots: how many batches may be in the session at once; None for two where copies and computing overlap.
        restart: makes another session of one that has died, which is closed by then; None where it can't be replaced.
        told: called when a run on the host has ended that went on beside the worker.

    Attributes:
        fixed: as given, of the session that is at work.
        device: where that session is: "cpu", "cuda:0".
        beside: whether a slot's ``start`` returns before its batch is through.
        lendable: whether callers may run the session in threads of their own, one after the other.
        slots: of the session that is at work.
        own: its first slot as the session gave it, whose ``start`` on the host runs right where it is called.

    Raises:
        ToolkitError: what ``Session.slots`` raises.
    """

    def __init__(
        self,
        session: Session,
        layout: Layout,
        fixed: int | None,
        max_batch: int,
        *,
        slots: int | None,
        restart: Restart | None,
        told: Callable[[], None],
    ) -> None:
        self._layout, self._max_batch, self._count = layout, max_batch, slots
        self._restart, self._told = restart, told
        # Beside the device, where a batch that a caller runs would keep the next from being staged meanwhile.
        self.lendable = session.info.device == "cpu" and isinstance(session, OwnedSession) and session.any_thread
        self._owned: Session | None = None
        self._runner: ThreadPoolExecutor | None = None
        self._take(session, fixed)

    def lives(self, slot: Slot) -> bool:
        """Whether the session answers at all: it is tried with a sample of zeros, which is no caller's fault.

        Args:
            slot: one of its own, where nothing is under way.
        """
        try:
            for view in slot.inputs(self.fixed or 1).values():
                view[...] = 0
            slot.start()
            slot.wait()
        except Exception:
            return False
        return True

    def reclaim(self) -> None:
        """Bring its own slot to rest, in which a caller was interrupted."""
        if isinstance(self._session, OwnedSession):
            self._session.reclaim()
        with suppress(Exception):
            self.own.wait()

    def replace(self, cause: ToolkitError) -> None:
        """Put another session in the place of this one, which has died of ``cause``.

        Raises:
            RunError: there is no way to, or it failed.
            InputError: the other one is of another engine.
        """
        device = self._session.info.device
        # It has died: what closing it says is of no interest.
        with suppress(Exception):
            self._session.close()
        died = f"the session on {device} died: {cause.cause}"
        if self._restart is None:
            raise RunError(died, "open the engine again, or give the batcher restart=...") from cause
        try:
            session = self._restart(self._session)
        except Exception as error:
            raise RunError(f"{died}; restarting it failed: {error}", "see to the device and the engine") from error
        self._owned = session
        layout, fixed = layout_of(session)
        if layout != self._layout:
            raise InputError(
                f"{died}; the engine in its place has other inputs or outputs", "restart with the same engine"
            )
        self._take(session, fixed)

    def close(self) -> None:
        """End what was started here; the session that was given stays open."""
        if self._runner is not None:
            self._runner.shutdown()
        if self._owned is not None:
            self._owned.close()

    def _take(self, session: Session, fixed: int | None) -> None:
        size = fixed or self._max_batch
        on_host, large = session.info.device == "cpu", is_large(session, self._layout, size)
        # One slot is enough where nothing overlaps.
        slots: list[Slot] = list(session.slots(self._count or (1 if on_host and not large else 2), max_batch=size))
        self.own = slots[0]
        if large:
            self._runner = self._runner or ThreadPoolExecutor(1, "batcher-run")
            slots = aside(slots, self._runner, self._told)
        self._session, self.fixed, self.device = session, fixed, session.info.device
        self.beside, self.slots = not on_host or large, slots
