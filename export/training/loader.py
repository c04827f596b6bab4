"""The next batches are made while the device computes on this one."""

import threading
from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final, TypeVar

import numpy as np
import torch

_Item = TypeVar("_Item")
_END: Final = object()


def ahead(batches: Iterable[_Item], depth: int = 2) -> Generator[_Item, None, None]:
    """The same batches in the same order, made in a thread while the caller works on earlier ones.

    What ``batches`` does (decoding, augmentation, drawing from a generator of its own) happens in that one thread,
    in order: random numbers come out as without it. An error comes out where its batch would have. Closing
    this generator, or leaving it for an error, ends the thread.

    Args:
        batches: taken by the thread; nothing else may draw from what it draws from.
        depth: how many at most are made or being made and not yet handed out; 0 makes each when it is asked for.
    """
    if depth < 1:
        yield from batches
        return
    iterator = iter(batches)
    working, over = threading.Lock(), threading.Event()

    def following() -> Any:
        with working:
            return _END if over.is_set() else next(iterator, _END)

    pool = ThreadPoolExecutor(1, thread_name_prefix="export-loader")
    waiting: deque[Future[Any]] = deque()
    try:
        waiting.extend(pool.submit(following) for _ in range(depth))
        while (item := waiting.popleft().result()) is not _END:
            waiting.append(pool.submit(following))
            yield item
    finally:
        over.set()
        pool.shutdown(wait=True, cancel_futures=True)
        # The pool forgets a thread that a Ctrl-C saw starting: the lock tells when that one is done as well.
        with working:
            if close := getattr(iterator, "close", None):
                close()


def staged(
    batches: Iterable[tuple[np.ndarray, ...]], device: torch.device | str, depth: int = 2
) -> Generator[tuple[torch.Tensor, ...], None, None]:
    """:func:`ahead`, with every array of a batch as a tensor on the device.

    On CUDA the thread copies each batch into pinned memory and from there, on a stream of its own, to the device;
    the caller's stream waits for the copy, the caller doesn't.

    Args:
        batches: tuples of arrays of any dtype that PyTorch knows.
        device: where they go.
        depth: as for :func:`ahead`; so many batches are on the device besides the one in use.

    Yields:
        One tensor an array, same dtype and shape; on a CPU it shares the array's memory.
    """
    target = torch.device(device)
    if target.type != "cuda":
        yield from ahead(_tensors(batches), depth)
        return
    stream = torch.cuda.Stream(target)  # type: ignore[no-untyped-call]

    def copied() -> Generator[tuple[tuple[torch.Tensor, ...], torch.cuda.Event], None, None]:
        for batch in batches:
            with torch.cuda.stream(stream):
                # The caching allocators keep both memories alive until the copy is through: the pinned one because
                # a non-blocking copy records its stream there, the device's because the caller records his below.
                moved = tuple(
                    torch.from_numpy(np.ascontiguousarray(array)).pin_memory().to(target, non_blocking=True)
                    for array in batch
                )
                done = torch.cuda.Event()  # type: ignore[no-untyped-call]
                done.record(stream)
            yield moved, done

    for moved, done in ahead(copied(), depth):
        current = torch.cuda.current_stream(target)
        current.wait_event(done)
        for tensor in moved:
            tensor.record_stream(current)
        yield moved


def _tensors(batches: Iterable[tuple[np.ndarray, ...]]) -> Generator[tuple[torch.Tensor, ...], None, None]:
    for batch in batches:
        yield tuple(map(torch.from_numpy, batch))
