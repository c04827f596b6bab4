"""Batches made ahead, in a thread."""

import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from export.training.loader import ahead, staged


def loader_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("export-loader")]


def numbers(count: int, log: list[int] | None = None) -> Iterator[int]:
    for number in range(count):
        if log is not None:
            log.append(number)
        yield number


@pytest.mark.parametrize("depth", [0, 1, 2, 7])
def test_everything_comes_in_order_at_any_depth(depth: int) -> None:
    assert list(ahead(numbers(20), depth)) == list(range(20))
    assert loader_threads() == []


def test_no_more_is_made_than_the_depth_says() -> None:
    made: list[int] = []
    batches = ahead(numbers(100, made), 3)
    next(batches)
    time.sleep(0.05)
    assert made == [0, 1, 2, 3]
    batches.close()
    assert len(made) == 4


def test_what_comes_next_is_made_while_the_caller_works() -> None:
    at_work = threading.Event()

    def waits_for_the_caller() -> Iterator[int]:
        yield 0
        assert at_work.wait(20)
        yield 1

    batches = ahead(waits_for_the_caller(), 1)
    assert next(batches) == 0
    at_work.set()
    assert list(batches) == [1]


def test_an_error_comes_out_where_its_batch_would_have() -> None:
    def breaks() -> Iterator[int]:
        yield 0
        yield 1
        raise ValueError("the third is damaged")

    batches = ahead(breaks(), 5)
    assert [next(batches), next(batches)] == [0, 1]
    with pytest.raises(ValueError, match="the third is damaged"):
        next(batches)
    assert loader_threads() == []


def test_closing_early_ends_the_thread_and_what_it_drew_from() -> None:
    closed = threading.Event()

    def source() -> Iterator[int]:
        try:
            yield from range(1000)
        finally:
            closed.set()

    batches = ahead(source(), 2)
    assert next(batches) == 0
    batches.close()
    assert closed.is_set()
    assert loader_threads() == []


def test_random_numbers_are_drawn_in_the_order_of_the_batches() -> None:
    def drawn(rng: np.random.Generator) -> Iterator[float]:
        for _ in range(50):
            yield rng.random()

    assert list(ahead(drawn(np.random.default_rng(3)), 4)) == list(drawn(np.random.default_rng(3)))


def test_arrays_become_tensors_of_the_same_memory_on_a_cpu() -> None:
    batch = (np.arange(6, dtype=np.uint8).reshape(2, 3), np.array([1, 0]))
    [(pixels, labels)] = list(staged([batch], "cpu"))
    assert (pixels.dtype, labels.dtype) == (torch.uint8, torch.int64)
    assert pixels.numpy().ctypes.data == batch[0].ctypes.data
