"""ONNX Runtime's TensorRT provider: refused where it isn't, strict where it is; no run of it, which takes a GPU."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, numpy_helper

from engines.errors import GraphError, InputError, UnsupportedError
from engines.providers import ProviderProbe
from engines.sessions import open_session, ort_tensorrt
from engines.sessions.ort_tensorrt import PROVIDER, options
from tests.tiny import tiny_graph

REAL = onnxruntime.InferenceSession
CPU = "CPUExecutionProvider"


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "m.onnx"
    onnx.save(tiny_graph(), path)
    return path


@pytest.fixture
def listed(monkeypatch):
    """A build that lists the provider on a machine with a driver; opening it ends in ``stands_for``."""
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [PROVIDER, "CUDAExecutionProvider", CPU])
    monkeypatch.setattr(ort_tensorrt, "has_nvidia_driver", lambda: True)
    monkeypatch.setattr(ort_tensorrt, "load_nvidia_wheels", lambda: ())
    monkeypatch.setattr("engines.providers.probe_provider", lambda name, index=0: ProviderProbe(name, loads=True))
    return lambda stands_for: monkeypatch.setattr(onnxruntime, "InferenceSession", stands_for)


def opened(path, **more):
    return open_session(path, backend="onnxruntime-tensorrt", **more)


@pytest.mark.skipif(PROVIDER in onnxruntime.get_available_providers(), reason="this build has the provider")
def test_a_build_without_the_provider_is_refused_with_the_package_that_has_it(path):
    with pytest.raises(UnsupportedError, match="is a build without the TensorRT provider") as caught:
        opened(path)
    assert "onnxruntime-gpu" in caught.value.remedy


def test_the_cpu_is_refused_and_so_is_no_device(path):
    with pytest.raises(UnsupportedError, match="runs on a GPU, not on the CPU"):
        opened(path, device="cpu")
    with pytest.raises(InputError, match="there is no device 'gpu'"):
        opened(path, device="gpu")


def test_without_a_driver_it_is_refused_before_the_library_tries(path, listed, monkeypatch):
    listed(lambda *_, **__: pytest.fail("the library was asked"))
    monkeypatch.setattr(ort_tensorrt, "has_nvidia_driver", lambda: False)
    with pytest.raises(UnsupportedError, match="no NVIDIA driver"):
        opened(path)


def test_it_is_opened_alone_and_may_not_fall_back(path, listed):
    class Opened:
        seen = None

        def __init__(self, name, settings, *, providers, enable_fallback, **_):
            type(self).seen = (name, providers, enable_fallback)
            assert settings.get_session_config_entry("session.disable_cpu_ep_fallback") == "1"
            self._real = REAL(name, providers=[CPU])

        def __getattr__(self, name):
            return getattr(self._real, name)

        def get_providers(self):
            return [PROVIDER, CPU]

        def get_provider_options(self):
            return {PROVIDER: {"device_id": "1"}}

    listed(Opened)
    with opened(path, device="cuda:1") as session:
        info = session.info
        assert (info.backend, info.device, info.provider) == ("onnxruntime-tensorrt", "cuda:1", PROVIDER)
        assert "stream of its own" in session.stream_problem
    settings = {"device_id": "1", "trt_engine_cache_enable": "0"}
    assert Opened.seen == (str(path), [(PROVIDER, settings)], 0)


def test_a_provider_that_was_dropped_without_a_word_is_an_error_and_no_run_on_the_cpu(path, listed, monkeypatch):
    listed(lambda name, *_, **__: REAL(name, providers=[CPU]))
    with pytest.raises(UnsupportedError, match="can't run all of this graph: the provider was dropped"):
        opened(path)
    problem = "libnvinfer.so.10 is not found"
    monkeypatch.setattr(
        "engines.providers.probe_provider", lambda name, index=0: ProviderProbe(name, loads=False, problem=problem)
    )
    with pytest.raises(UnsupportedError, match=r"can't use its TensorRT provider .*: libnvinfer\.so\.10") as caught:
        opened(path)
    assert "toolkit doctor" in caught.value.remedy


def test_a_damaged_graph_is_the_graphs_fault(tmp_path, listed):
    listed(lambda name, *_, **__: REAL(name, providers=[CPU]))
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"garbage" * 9)
    with pytest.raises(GraphError, match="truncated, or is not an ONNX graph"):
        opened(path)


@pytest.mark.parametrize(
    ("types", "permitted"),
    [
        ((), set()),
        ((TensorProto.FLOAT16,), {"trt_fp16_enable"}),
        ((TensorProto.BFLOAT16,), {"trt_bf16_enable"}),
        ((TensorProto.INT8,), {"trt_int8_enable"}),
        ((TensorProto.INT8, TensorProto.FLOAT16), {"trt_int8_enable", "trt_fp16_enable"}),
        ((TensorProto.UINT8, TensorProto.INT64), set()),
    ],
)
def test_only_types_that_the_graph_is_written_in_are_permitted(tmp_path, types, permitted):
    model = tiny_graph()
    for number, kind in enumerate(types):
        tensor = numpy_helper.from_array(np.zeros(2, np.float32), f"extra{number}")
        tensor.data_type, tensor.raw_data = kind, bytes(4)
        model.graph.initializer.append(tensor)
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    assert {name for name, value in options(path, 0).items() if value == "1"} == permitted
    assert options(path, 3)["device_id"] == "3"
