"""Streams, staged tensors, events and graphs on a real GPU."""

import threading

import numpy as np
import pytest

from engines.cuda import CudaDevice, StagedTensor, capture
from engines.errors import RunError, UnsupportedError
from tests.gpu.conftest import need


@pytest.fixture
def gpu():
    need("cuda.core")
    return CudaDevice(0)


def test_the_device_tells_its_name_and_capability(gpu):
    assert gpu.name
    major, _, minor = gpu.compute_capability.partition(".")
    assert int(major) >= 7
    assert minor.isdecimal()


def test_a_device_that_is_not_there_is_refused():
    need("cuda.core")
    with pytest.raises(UnsupportedError, match="CUDA device 99 can't be used"):
        CudaDevice(99)


@pytest.mark.parametrize("count", [1, 7, 1000, 4096])
def test_data_survives_the_way_to_the_device_and_back(gpu, count):
    stream = gpu.stream()
    tensor = StagedTensor(gpu, 4096 * 4, stream)
    dtype = np.dtype(np.float32)
    data = np.random.default_rng(count).standard_normal(count).astype(np.float32)
    host = tensor.host(dtype, (count,))
    host[:] = data
    tensor.to_device(host.nbytes, stream)
    stream.sync()
    host[:] = 0
    tensor.to_host(host.nbytes, stream)
    stream.sync()
    np.testing.assert_array_equal(host, data)
    tensor.close(stream)
    stream.sync()
    with pytest.raises(RunError, match="closed"):
        tensor.host(dtype, (1,))


def test_two_events_tell_the_time_between_them(gpu):
    stream = gpu.stream()
    tensor = StagedTensor(gpu, 64 << 20, stream)
    first, second = gpu.timer(), gpu.timer()
    stream.record(first)
    tensor.to_device(64 << 20, stream)
    stream.record(second)
    stream.sync()
    assert 0.1 < second - first < 10_000, "64 MiB over any bus take between 0.1 ms and 10 s"
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
    tensor = StagedTensor(gpu, 16, stream)
    tensor.to_device(16, stream)
    stream.sync()
    tensor.close(stream)


def test_a_device_opened_in_one_thread_works_in_another(gpu):
    stream, seen = gpu.stream(), []

    def work():
        gpu.make_current()
        tensor = StagedTensor(gpu, 16, stream)
        tensor.host(np.dtype(np.uint8), (16,))[:] = 3
        tensor.to_device(16, stream)
        tensor.to_host(16, stream)
        stream.sync()
        seen.append(int(tensor.host(np.dtype(np.uint8), (16,)).sum()))
        tensor.close(stream)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [48]
