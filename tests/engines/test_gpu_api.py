"""Every name of cuda-core and TensorRT for RTX that the GPU sessions use exists in the installed libraries."""

import ast
import inspect
from pathlib import Path

import numpy as np
import pytest

import engines.cuda
from engines import cuda_graph, plan_dtypes
from engines.sessions import device_arrays, plan_facts, plan_runner, stage, tensorrt, tensorrt_rtx

cuda_core = pytest.importorskip("cuda.core", reason="cuda-core is not installed")
trt = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")

# The variables that hold a library's objects in the four files; a method is called through one of them.
CUDA_RECEIVERS = {
    "_device": cuda_core.Device,
    "_core": cuda_core,
    "stream": cuda_core.Stream,
    "_stream": cuda_core.Stream,
    "timer": cuda_core.Event,
    "Buffer": cuda_core.Buffer,
    "_pinned": cuda_core.Buffer,
    "_memory": cuda_core.Buffer,
    "pinned": cuda_core.Buffer,
    "memory": cuda_core.Buffer,
    "buffer": cuda_core.Buffer,
    "graph": cuda_graph.CapturedGraph,
    "StridedMemoryView": cuda_core.utils.StridedMemoryView,
    "view": cuda_core.utils.StridedMemoryView,
    **dict.fromkeys(("copy_in", "compute", "copy_out"), cuda_core.Stream),
    **dict.fromkeys(("began", "copied", "run", "computed", "answered", "finished"), cuda_core.Event),
}
# What is used of them outside engines/cuda.py.
USERS = {
    plan_runner: ("stream", "graph"),
    stage: ("stream", "timer", "copy_in", "compute", "copy_out", "copied", "computed", "finished"),
    device_arrays: ("view",),
}
TRT_RECEIVERS = {
    "trt": trt,
    "_trt": trt,
    "engine": trt.ICudaEngine,
    "_engine": trt.ICudaEngine,
    "context": trt.IExecutionContext,
    "runtime": trt.Runtime,
    "config": trt.IRuntimeConfig,
    "strategies": trt.CudaGraphStrategy,
    "TensorLocation": trt.TensorLocation,
    "TensorFormat": trt.TensorFormat,
    "TensorIOMode": trt.TensorIOMode,
    "ExecutionContextAllocationStrategy": trt.ExecutionContextAllocationStrategy,
    "EngineValidity": trt.EngineValidity,
}
# Attributes of the same name that belong to our own classes.
OURS = {("memory", "address")}


def uses(module: object, receivers: dict[str, object]) -> set[tuple[str, str]]:
    """(receiver, attribute) pairs in a module's source, such as ("context", "infer_shapes")."""
    found = set()
    for node in ast.walk(ast.parse(Path(inspect.getfile(module)).read_text())):
        if isinstance(node, ast.Attribute):
            owner = node.value
            name = (
                owner.id if isinstance(owner, ast.Name) else owner.attr if isinstance(owner, ast.Attribute) else None
            )
            if name in receivers:
                found.add((name, node.attr))
    return found - OURS


def absent(pairs: set[tuple[str, str]], receivers: dict[str, object]) -> list[str]:
    return sorted(f"{name}.{attribute}" for name, attribute in pairs if not hasattr(receivers[name], attribute))


def uses_outside() -> set[tuple[str, str]]:
    return set().union(*(uses(module, dict.fromkeys(names)) for module, names in USERS.items()))


def test_every_cuda_core_name_exists():
    pairs = uses(engines.cuda, CUDA_RECEIVERS)
    assert {("_device", "create_stream"), ("pinned", "copy_to")} <= pairs
    assert absent(pairs, CUDA_RECEIVERS) == []
    outside = uses_outside()
    assert {
        ("copy_in", "record"), ("compute", "wait"), ("copy_out", "record"), ("finished", "sync"), ("timer", "close"),
        ("stream", "sync"), ("graph", "launch"), ("view", "strides"),
    } <= outside  # fmt: skip
    assert absent(outside, CUDA_RECEIVERS) == []


def test_every_tensorrt_name_exists_in_tensorrt_for_rtx():
    pairs = set().union(
        *(uses(module, TRT_RECEIVERS) for module in (plan_runner, plan_facts, tensorrt, tensorrt_rtx))
    )
    assert {
        ("context", "execute_async_v3"), ("context", "set_device_memory"), ("engine", "get_tensor_profile_shape"),
        ("runtime", "get_engine_validity"), ("config", "create_runtime_cache"), ("trt", "Runtime"),
    } <= pairs  # fmt: skip
    assert absent(pairs, TRT_RECEIVERS) == []


def test_a_name_that_does_not_exist_is_found(tmp_path):
    assert absent({("context", "enqueue_v2"), ("context", "execute_async_v3")}, TRT_RECEIVERS) == [
        "context.enqueue_v2"
    ]


def test_the_table_of_cuda_core_is_complete_and_true():
    assert engines.cuda.missing_names(cuda_core) == []
    listed = {member for members in engines.cuda.API.values() for member in members}
    pairs = uses(engines.cuda, CUDA_RECEIVERS) | uses_outside()
    used = {attribute for name, attribute in pairs if name not in {"_core", "graph"}}
    assert used - listed == set()


def test_every_function_of_the_driver_exists_with_its_arguments():
    driver = cuda_graph.cuda_driver()
    receivers = {"driver": driver, "_driver": driver, "CUstreamCaptureMode": driver.CUstreamCaptureMode}
    pairs = uses(cuda_graph, receivers)
    functions = {name for _, name in pairs if name.startswith("cu")}
    assert functions == set(cuda_graph.API)
    assert absent(pairs, receivers) == []
    arguments = {
        "cuStreamBeginCapture": "hStream, mode: CUstreamCaptureMode",
        "cuStreamEndCapture": "hStream",
        "cuGraphGetNodes": "hGraph, size_t numNodes=0",
        "cuGraphInstantiate": "hGraph, unsigned long long flags",
        "cuGraphLaunch": "hGraphExec, hStream",
        "cuGraphExecDestroy": "hGraphExec",
        "cuGraphDestroy": "hGraph",
    }
    for name, expected in arguments.items():
        assert getattr(driver, name).__doc__.startswith(f"{name}({expected})")
    assert int(driver.CUresult.CUDA_SUCCESS) == 0


def test_an_old_cuda_core_is_refused_by_the_name_that_it_lacks(monkeypatch):
    monkeypatch.setitem(engines.cuda.API, "Stream", ("handle", "no_such_method"))
    with pytest.raises(engines.cuda.UnsupportedError, match=r"lacks Stream\.no_such_method"):
        engines.cuda.cuda_core()


def test_the_arguments_given_to_cuda_core_are_accepted():
    cuda_core.EventOptions(timing_enabled=True)
    parameters = inspect.signature(cuda_core.LegacyPinnedMemoryResource.allocate).parameters
    assert list(parameters)[:2] == ["self", "size"]
    for method, names in (
        (cuda_core.Device.allocate, ("size", "stream")),
        (cuda_core.Device.create_event, ("options",)),
        (cuda_core.Buffer.copy_to, ("dst", "stream")),
        (cuda_core.Buffer.from_handle, ("ptr", "size", "owner")),
        (cuda_core.Stream.wait, ("event_or_stream",)),
        (cuda_core.utils.StridedMemoryView.from_any_interface, ("obj", "stream_ptr")),
        (cuda_core.utils.StridedMemoryView.from_buffer, ("buffer", "shape", "dtype")),
    ):
        text = method.__doc__.split(")", maxsplit=1)[0]
        assert all(name in text for name in names), f"{method}: {text}"


def test_a_view_says_what_is_read_of_it():
    view = cuda_core.utils.StridedMemoryView.from_any_interface(np.ones((2, 3), np.float32), stream_ptr=-1)
    assert (view.shape, view.strides, view.dtype, view.device_id) == ((2, 3), (3, 1), np.float32, -1)
    assert device_arrays._dense(view.shape, view.strides)
    turned = cuda_core.utils.StridedMemoryView.from_any_interface(np.ones((2, 3)).T, stream_ptr=-1)
    assert not device_arrays._dense(turned.shape, turned.strides)


def test_every_reason_of_tensorrt_for_rtx_has_words():
    kinds = {name for name in dir(trt.EngineInvalidityDiagnostics) if name.isupper()}
    assert kinds == set(tensorrt_rtx._REASONS)
    bits = [int(getattr(trt.EngineInvalidityDiagnostics, name)) for name in kinds]
    assert all(bit & (bit - 1) == 0 for bit in bits), "the diagnostics are bits of a mask"


def test_every_type_that_an_engine_can_have_is_mapped_or_refused():
    kinds = {name for name in dir(trt.DataType) if name.isupper()}
    assert set(plan_dtypes.PLAN_DTYPES) <= kinds
    assert kinds - set(plan_dtypes.PLAN_DTYPES) <= {"E8M0", "FP4", "FP8", "INT4"}
