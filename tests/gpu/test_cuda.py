"""Streams, staged tensors, events and graphs on a real GPU."""

import threading

import numpy as np
import pytest

from engines.cuda import CudaDevice, StagedTensor
from engines.errors import InputError, RunError, UnsupportedError
from engines.sessions.device_arrays import DeviceArray, adopt
from tests.gpu.conftest import OnDevice, cannot, need


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


def test_a_stream_waits_for_the_event_of_another(gpu):
    copy_in, copy_out = gpu.stream(), gpu.stream()
    size = 256 << 20
    there, back = StagedTensor(gpu, size, copy_in), StagedTensor(gpu, size, copy_in)
    copy_in.sync()
    kind, shape = np.dtype(np.uint8), (size,)
    there.host(kind, shape)[:] = 7
    back.host(kind, shape)[:] = 0
    copied, finished = gpu.timer(), gpu.timer()
    there.to_device(size, copy_in)
    copy_in.record(copied)
    copy_out.wait(copied)
    back.from_elsewhere(there.address, size, there, copy_out)
    back.to_host(size, copy_out)
    copy_out.record(finished)
    assert not finished.is_done, "256 MiB over any bus take longer than a few calls"
    finished.sync()
    assert finished.is_done
    assert (back.host(kind, shape) == 7).all()
    for tensor in (there, back):
        tensor.close(copy_in)
    copy_in.sync()


@pytest.mark.parametrize("offset", [0, 4])
def test_an_array_of_another_library_is_found_where_it_is(gpu, offset):
    stream = gpu.stream()
    given = OnDevice(np.arange(24, dtype=np.float32).reshape(2, 3, 4), offset)
    seen = adopt(gpu, "x", given, stream)
    assert (seen.address, seen.shape, seen.dtype) == (given.address, (2, 3, 4), np.float32)
    assert seen.aligned == (offset == 0)


def test_torch_tensors_are_taken_and_given_through_dlpack(gpu):
    need("torch")
    import torch

    if not torch.cuda.is_available():
        if torch.version.cuda is None:
            pytest.skip("PyTorch with CUDA is not installed")
        cannot("PyTorch finds no GPU")
    stream = gpu.stream()
    tensor = torch.arange(24, dtype=torch.float32, device="cuda:0").reshape(2, 3, 4) * 2
    seen = adopt(gpu, "x", tensor, stream)
    assert (seen.address, seen.shape, seen.dtype) == (tensor.data_ptr(), (2, 3, 4), np.float32)
    with pytest.raises(InputError, match="has gaps"):
        adopt(gpu, "x", tensor.transpose(0, 2), stream)
    with pytest.raises(InputError, match="not on cuda:0"):
        adopt(gpu, "x", tensor.cpu(), stream)
    staged = StagedTensor(gpu, 96, stream)
    staged.from_elsewhere(seen.address, seen.nbytes, seen.owner, stream)
    stream.sync()
    ours = DeviceArray(gpu, "y", staged.on_device(96), seen.dtype, seen.shape, lambda: True)
    for theirs in (torch.from_dlpack(ours), torch.as_tensor(ours, device="cuda:0")):
        assert theirs.data_ptr() == staged.address, "nothing is copied"
        assert torch.equal(theirs, tensor)


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
