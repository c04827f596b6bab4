"""Being told to stop: a training keeps what it has, alone and in a group."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TYPE_CHECKING

from engines.errors import ToolkitError

if TYPE_CHECKING:
    from export.training.distributed import Group

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """Whether this process was told to stop.

    Attributes:
        asked: it was.
    """

    def __init__(self) -> None:
        self.asked = False


@contextlib.contextmanager
def stoppable(*, leads: bool, several: bool, leave: Callable[[], None]) -> Iterator[Stop]:
    """Let SIGINT and SIGTERM end a training in such a way that what it has is kept.

    The process that leads is interrupted, as by Ctrl-C, and while it writes what it has, more signals are passed
    over where there are several processes: torchrun and the terminal send one each. The others work on until the
    leading one is gone, as it would otherwise wait for them in the middle of a step.

    Args:
        leads: this process writes.
        several: there are more processes.
        leave: called in those that don't lead, so that they don't wait for ever.

    Yields:
        What tells afterwards whether a signal came. Outside the main thread, where Python has no signals, none does.
    """
    stop = Stop()

    def handler(number: int, frame: FrameType | None) -> None:
        first, stop.asked = not stop.asked, True
        if leads and (first or not several):
            raise KeyboardInterrupt
        if not leads and first:
            leave()

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, handler) for number in _SIGNALS}
    try:
        yield stop
    finally:
        for number, old in before.items():
            signal.signal(number, old)


class Followed(KeyboardInterrupt):
    """A process that doesn't lead was told to stop: the leading one says what was kept."""


@contextlib.contextmanager
def together(group: "Group", device: str) -> Iterator[None]:
    """Train with the others: meet them, stop with them, and say which process an error comes from.

    Raises:
        Followed: this process was told to stop, and isn't the one that leads.
        RunError: another process ended.
    """
    if group.world == 1:
        yield
        return
    from export.training.distributed import joined, leave_soon

    with stoppable(leads=group.leads, several=True, leave=leave_soon) as stop:
        try:
            with joined(device, group):
                yield
        except ToolkitError as error:
            if group.leads:
                raise
            if stop.asked:
                raise Followed from error
            error.cause = f"process {group.rank + 1} of {group.world}: {error.cause}"
            raise


@contextlib.contextmanager
def terminated() -> Iterator[None]:
    """Let SIGTERM, which schedulers of clusters send, end a training as Ctrl-C does."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
