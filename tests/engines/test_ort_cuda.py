"""ONNX Runtime's CUDA provider on the simulated GPU: the real library computes, on memory and a stream of ours."""

from typing import ClassVar

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

import engines.cuda
from engines.errors import InputError, MissingLibraryError, RunError, UnsupportedError
from engines.sessions import ort_binding, ort_cuda
from engines.sessions.onnxruntime import OnnxRuntimeSession
from tests.conformance import Case, Conformance, samples
from tests.engines import simulated
from tests.engines.simulated import Elsewhere, _memory, _streams
from tests.tiny import tiny_graph

CUDA = "CUDAExecutionProvider"


class Binding:
    """An IOBinding whose "cuda" is the simulated GPU's memory, which the CPU provider can reach."""

    def __init__(self, real):
        self.real, self.reads, self.writes = real, [], []

    def bind_input(self, name, kind, index, element_type, shape, address):
        assert (kind, index) == ("cuda", 0)
        self.reads.append(_memory[address].live)
        self.real.bind_input(name, "cpu", 0, element_type, shape, address)

    def bind_output(self, name, kind, index, element_type, shape, address):
        assert (kind, index) == ("cuda", 0)
        self.writes.append(_memory[address].live)
        self.real.bind_output(name, "cpu", 0, element_type, shape, address)


class CudaSession:
    """Stands for an InferenceSession on CUDA: its runs take place in the order of the stream that it was given."""

    opened: ClassVar[list] = []

    def __init__(self, path, options, *, providers, enable_fallback, disabled_optimizers):
        ((name, settings),) = providers
        assert name == CUDA
        assert options.get_session_config_entry("session.disable_cpu_ep_fallback") == "1"
        assert settings["use_tf32"] == "0"
        self._real = REAL(path, providers=["CPUExecutionProvider"], disabled_optimizers=disabled_optimizers)
        self._stream = _streams[int(settings["user_compute_stream"])] if "user_compute_stream" in settings else None
        self.bindings = 0
        self.opened.append(self)

    def __getattr__(self, name):
        return getattr(self._real, name)

    def get_providers(self):
        return [CUDA, "CPUExecutionProvider"]

    def get_provider_options(self):
        return {CUDA: {"device_id": "0"}}

    def io_binding(self):
        self.bindings += 1
        return Binding(self._real.io_binding())

    def run_with_iobinding(self, binding, options):
        assert options.get_run_config_entry("disable_synchronize_execution_providers") == "1"
        self._stream.do(lambda: self._real.run_with_iobinding(binding.real, options), binding.reads, binding.writes)


REAL = onnxruntime.InferenceSession


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "m.onnx"
    onnx.save(tiny_graph(), path)
    return path


@pytest.fixture(autouse=True)
def on_cuda(monkeypatch):
    monkeypatch.setattr(engines.cuda, "cuda_core", lambda: simulated.core)
    for module in (engines.cuda, ort_cuda):
        monkeypatch.setattr(module, "has_nvidia_driver", lambda: True)
    monkeypatch.setattr(ort_cuda, "load_nvidia_wheels", lambda: ())
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, "CPUExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "InferenceSession", CudaSession)
    yield
    CudaSession.opened.clear()


@pytest.fixture
def plain(path):
    real = REAL(path, providers=["CPUExecutionProvider"])
    return lambda data: real.run(None, {"input": data})[0]


class TestOnOurStream(Conformance):
    @pytest.fixture
    def case(self, path, plain):
        return Case(lambda: OnnxRuntimeSession(path, device="cuda:0"), plain, 1e-5, device=True)


def test_it_says_that_it_runs_on_our_stream(path):
    with OnnxRuntimeSession(path) as session:
        assert (session.info.device, session.info.provider, session.stream_problem) == ("cuda:0", CUDA, "")


def test_a_batch_is_bound_once_and_bindings_are_bounded(path, plain, monkeypatch):
    monkeypatch.setattr(ort_binding, "MAX_BINDINGS", 3)
    with OnnxRuntimeSession(path, device="cuda:0") as session:
        session.run({"input": samples(8)})
        for batch in (1, 2, 1, 2, 8):
            session.run({"input": samples(batch)})
        assert CudaSession.opened[0].bindings == 3
        for batch in (3, 4, 5, 1):
            np.testing.assert_allclose(
                session.run({"input": samples(batch)})["logits"], plain(samples(batch)), rtol=0, atol=1e-5
            )
        assert len(session._pipeline._main._program._bindings) == 3


def test_memory_grows_with_the_largest_batch_and_earlier_bindings_follow(path, plain):
    with OnnxRuntimeSession(path, device="cuda:0") as session:
        for batch in (1, 4, 1, 9, 4, 1):
            np.testing.assert_allclose(
                session.run({"input": samples(batch)})["logits"], plain(samples(batch)), rtol=0, atol=1e-5
            )
        slot, _ = session.slots(max_batch=6)
        assert slot._stage._staged["input"].nbytes == 6 * 768 * 4


def test_inputs_and_outputs_may_stay_on_the_device(path, plain):
    data = samples(4)
    with OnnxRuntimeSession(path, device="cuda:0") as session:
        session.run({"input": data})
        before = len(simulated.bus)
        logits = session.run_on_device({"input": Elsewhere(data)})["logits"]
        assert simulated.bus[before:] == []
        np.testing.assert_allclose(logits.__dlpack__(), plain(data), rtol=0, atol=1e-5)


def test_a_failing_run_is_an_error_and_the_next_one_works(path, plain, monkeypatch):
    with OnnxRuntimeSession(path, device="cuda:0") as session:

        def failing(*_):
            raise RuntimeError("Failed to allocate memory for requested buffer")

        with monkeypatch.context() as patch:
            patch.setattr(CudaSession, "run_with_iobinding", failing)
            with pytest.raises(RunError, match="failed on a batch of 2: Failed to allocate") as caught:
                session.run({"input": samples(2)})
            assert caught.value.remedy == "use a smaller batch"
        np.testing.assert_allclose(session.run({"input": samples(2)})["logits"], plain(samples(2)), rtol=0, atol=1e-5)


def test_without_cuda_core_it_runs_on_the_librarys_stream_and_says_so(path, monkeypatch):
    def missing():
        raise MissingLibraryError("Running on a GPU", "cuda.core", "tensorrt")

    monkeypatch.setattr(engines.cuda, "cuda_core", missing)
    with OnnxRuntimeSession(path, device="cuda:0") as session:
        assert "needs the package 'cuda.core'" in session.stream_problem
        assert session._pipeline is None
        assert session._binding is not None
        with pytest.raises(UnsupportedError, match="no memory of its own"):
            session.run_on_device({"input": samples(1)})


def test_a_graph_whose_outputs_only_it_can_size_keeps_its_own_stream(tmp_path):
    nodes = [helper.make_node("NonZero", ["x"], ["y"])]
    given = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3])]
    made = [helper.make_tensor_value_info("y", TensorProto.INT64, [2, "found"])]
    graph = helper.make_graph(nodes, "nonzero", given, made)
    path = tmp_path / "nonzero.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    with OnnxRuntimeSession(path, device="cuda:0") as session:
        assert session.stream_problem == "the shapes of the graph's outputs don't follow from its inputs'"
        assert [opened._stream is None for opened in CudaSession.opened] == [False, True]


def test_a_session_that_fails_to_open_gives_its_streams_back(path, monkeypatch):
    model = onnx.load(path)
    helper.set_model_props(model, {"toolkit.metadata": "{not json"})
    onnx.save(model, path)
    before = {number for number, stream in _streams.items() if not stream.closed}
    with pytest.raises(InputError, match="metadata is not JSON"):
        OnnxRuntimeSession(path, device="cuda:0")
    assert {number for number, stream in _streams.items() if not stream.closed} <= before


def test_pixels_cross_the_bus_as_bytes(tmp_path):
    graph = helper.make_graph(
        [helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT)],
        "cast",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, ["batch", 7])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 7])],
    )
    path = tmp_path / "cast.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    with OnnxRuntimeSession(path, device="cuda:0") as session:
        before = len(simulated.bus)
        session.run({"x": np.arange(14, dtype=np.uint8).reshape(2, 7)})
        assert simulated.bus[before:] == [("pinned memory", 14), ("device memory", 56)]
