"""A measuring process between its turns: stopped outright, so that nothing of it runs while a rival does.

Thread pools spin for tens of milliseconds after a run, on cores that a rival's turn needs. Waiting for them to
sleep costs more than a short turn itself; a stopped process (SIGSTOP) is idle at once, and goes on where it was.
"""

import contextlib
import ctypes
import os
import signal
import sys

CAN_PAUSE = sys.platform == "linux"
"""Whether a process can be stopped here without outliving its owner; elsewhere it waits for its threads to sleep."""

_PR_SET_PDEATHSIG = 1


def die_with_owner() -> None:
    """Called by the measuring process: a stopped one couldn't see that its owner is gone, so the kernel kills it."""
    if CAN_PAUSE:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def pause(pid: int) -> None:
    """Stop every thread of the process; nothing happens to one that has ended, or where it can't be done."""
    if CAN_PAUSE:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)


def resume(pid: int) -> None:
    """Let it go on."""
    if CAN_PAUSE:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
