"""CUDA graphs on a real GPU, and what becomes of work that can't be captured; a file of its own, should it crash."""

import gc
import threading

import numpy as np
import pytest

from engines.cuda import CudaDevice, StagedTensor
from engines.cuda_graph import capture
from engines.errors import RunError
from tests.gpu.conftest import need


@pytest.fixture
def gpu():
    need("cuda.core")
    return CudaDevice(0)


def check_usable(gpu, stream):
    tensor = StagedTensor(gpu, 16, stream)
    host = tensor.host(np.dtype(np.uint8), (16,))
    host[:] = 5
    tensor.to_device(16, stream)
    stream.sync()
    host[:] = 0
    tensor.to_host(16, stream)
    stream.sync()
    assert (host == 5).all()
    tensor.close(stream)


def test_captured_work_runs_when_the_graph_is_launched_and_not_before(gpu):
    stream = gpu.stream()
    tensor = StagedTensor(gpu, 64, stream)
    dtype = np.dtype(np.uint8)
    host = tensor.host(dtype, (64,))
    host[:] = 1
    tensor.to_device(64, stream)
    stream.sync()

    def copy_back(handle):
        tensor.to_host(64, stream)
        return True

    host[:] = 2
    graph = capture(stream, copy_back)
    stream.sync()
    assert (host == 2).all(), "capturing must not run the copy"
    graph.launch(stream)
    stream.sync()
    assert (host == 1).all()
    graph.close()
    tensor.close(stream)


def test_work_that_is_refused_leaves_the_stream_usable(gpu):
    stream = gpu.stream()
    with pytest.raises(RunError, match="refused to be captured"):
        capture(stream, lambda handle: False)
    check_usable(gpu, stream)


def test_work_that_cannot_be_captured_spoils_nothing_but_the_capture(gpu):
    stream = gpu.stream()

    def waits(handle):
        stream.sync()  # not allowed in a capture: the driver refuses, and the capture is spoilt
        return True

    def waits_and_says_nothing(handle):
        with pytest.raises(Exception, match="CAPTURE"):
            stream.sync()
        return True

    with pytest.raises(RunError, match="put nothing on the stream"):
        capture(stream, lambda handle: True)
    for work in (waits, waits_and_says_nothing):
        for _ in range(2):
            with pytest.raises(RunError, match="capturing a CUDA graph failed"):
                capture(stream, work)
            gc.collect()
            check_usable(gpu, stream)


def test_other_threads_allocate_and_copy_while_one_captures(gpu):
    stream, failures = gpu.stream(), []

    def elsewhere():
        try:
            gpu.make_current()
            check_usable(gpu, gpu.stream())
        except Exception as error:
            failures.append(error)

    tensor = StagedTensor(gpu, 64, stream)
    stream.sync()

    def busy(handle):
        tensor.to_device(64, stream)
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        return True

    capture(stream, busy).close()
    assert failures == []
    check_usable(gpu, stream)
