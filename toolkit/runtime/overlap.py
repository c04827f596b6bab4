"""One thread that runs while another prepares what it is to run next."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

_IN_FLIGHT = 2
"""Items handed over and not yet answered: one runs, one is there when it ends."""


def overlapped(
    function: Callable[[_Item], _Result], items: Iterable[_Item]
) -> Generator[tuple[_Item, _Result], None, None]:
    """Call a function for items one after the other in a thread of its own, while the caller makes the next item.

    Args:
        function: what is called; an error that it raises comes out in its turn, and ends this.
        items: taken in the caller's thread, at most three ahead of what has been handed out.

    Yields:
        Each item with its result, in order.
    """
    pool = ThreadPoolExecutor(1, thread_name_prefix="toolkit-engine")
    waiting: deque[tuple[_Item, Future[_Result]]] = deque()
    try:
        for item in items:
            waiting.append((item, pool.submit(function, item)))
            if len(waiting) >= _IN_FLIGHT:
                done, future = waiting.popleft()
                yield done, future.result()
        while waiting:
            done, future = waiting.popleft()
            yield done, future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
