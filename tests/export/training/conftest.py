from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # tiny operations gain nothing from more, and lose much on a busy machine
    yield
    torch.set_num_threads(threads)
