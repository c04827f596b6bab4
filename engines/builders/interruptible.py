"""Long work in C++ that Ctrl-C can end: it runs in a thread, and the caller's thread stays in Python."""

import threading
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")

_BEGINS = 2.0
"""Seconds in which a thread that was started has begun, or never will."""


def run_interruptibly(
    work: Callable[[], Result], cancel: threading.Event, meanwhile: Callable[[], None] = lambda: None
) -> Result:
    """Run ``work`` in a thread of its own and wait for it.

    Args:
        work: looks at ``cancel`` now and then and gives up when it is set.
        cancel: set when the caller's thread is interrupted.
        meanwhile: called ten times a second in the caller's thread while it waits.

    Returns:
        What ``work`` returned; what it raised is raised.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed, and ``work`` has ended. A second one leaves without waiting;
            the process then ends when ``work`` does.
    """
    results: list[Result] = []
    errors: list[BaseException] = []
    finished = threading.Event()

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:
            errors.append(error)
        finally:
            finished.set()

    # Not a daemon: C++ code that is still running when the interpreter ends takes the process down.
    thread = threading.Thread(target=run, name="interruptible")
    try:
        thread.start()
        # Not Thread.join: when a signal interrupts it, Python 3.11 can take a running thread for ended.
        while not finished.wait(0.1):
            meanwhile()
    except BaseException:
        cancel.set()
        # Interrupted before the thread was there, there is nothing to wait for.
        if finished.wait(_BEGINS) or thread.ident is not None:
            finished.wait()
            thread.join(_BEGINS)  # it has a few lines left
        raise
    if errors:
        raise errors[0]
    return results[0]
