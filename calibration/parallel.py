"""Work that numpy does without Python's lock, shared out between the cores."""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def over_cores(work: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """What ``work`` gives for each item, in their order; the first error is raised."""
    found = list(items)
    threads = min(cores(), len(found))
    if threads < 2:
        return [work(item) for item in found]
    with ThreadPoolExecutor(threads, "computing") as pool:
        return list(pool.map(work, found))


def cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on Windows and macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
