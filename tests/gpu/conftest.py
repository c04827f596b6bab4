"""What GPU tests share: a library that is missing skips them, and on a GPU host says so loudly."""

import importlib.util
import os
import threading
from pathlib import Path

import numpy as np
import onnx
import pytest

from engines.builders.options import BuildOptions
from engines.builders.profiles import parse_profiles
from engines.builders.tensorrt import build_plan
from engines.cuda import CudaDevice, StagedTensor
from engines.errors import RunError, ToolkitError
from engines.files import write_atomically
from engines.passport import Passport, passport_path
from export.passes.uint8_input import take_uint8_input
from tests.engines.graphs import int8_graph, typed_graph
from tests.tiny import METADATA, tiny_graph

REQUIRED = bool(os.environ.get("TOOLKIT_GPU_REQUIRED"))
"""Set by scripts/gpu-check: what is installed has to work, so a skip for another reason is a failure."""


def need(*modules: str) -> None:
    """Skip where a library isn't installed."""
    for module in modules:
        try:
            found = importlib.util.find_spec(module)
        except ModuleNotFoundError:
            found = None
        if found is None:
            pytest.skip(f"the package '{module}' is not installed")


def cannot(reason: str) -> None:
    """Skip because something installed doesn't work here; a failure where that is required to work."""
    if REQUIRED:
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The tiny network's graph in FP32, FP16 and INT8 (Q/DQ where TensorRT fuses), and from uint8 pictures."""
    folder = tmp_path_factory.mktemp("graphs")
    pixels = tiny_graph()
    take_uint8_input(pixels.graph, METADATA.preprocess)
    models = {"fp32": tiny_graph(), "fp16": typed_graph(tiny_graph()), "int8": int8_graph(), "uint8": pixels}
    paths = {}
    for name, model in models.items():
        paths[name] = folder / f"tiny.{name}.onnx"
        onnx.save(model, paths[name])
    return paths


@pytest.fixture(scope="session")
def on_cpu(graphs: dict[str, Path]):
    """Logits of a graph by ONNX Runtime on the CPU: ``on_cpu(precision, samples)``."""
    from engines.sessions import open_session

    sessions = {name: open_session(path, device="cpu") for name, path in graphs.items()}

    def run(precision: str, data: np.ndarray) -> np.ndarray:
        return sessions[precision].run({"input": data})["logits"]

    yield run
    for session in sessions.values():
        session.close()


class OnDevice:
    """A copy of an array on the GPU, exported as other libraries export theirs; ``offset`` bytes into its memory."""

    def __init__(self, data: np.ndarray, offset: int = 0) -> None:
        self.gpu = CudaDevice(0)
        self.stream = self.gpu.stream()
        self.tensor = StagedTensor(self.gpu, data.nbytes + offset, self.stream)
        whole = self.tensor.host(np.dtype(np.uint8), (data.nbytes + offset,))
        whole[offset:] = data.reshape(-1).view(np.uint8)
        self.tensor.to_device(whole.nbytes, self.stream)
        self.address = self.tensor.address + offset
        self.__cuda_array_interface__ = {
            "shape": data.shape,
            "typestr": data.dtype.str,
            "data": (self.address, False),
            "strides": None,
            "stream": int(self.stream.handle),
            "version": 3,
        }


def on_host(array) -> np.ndarray:
    """What lies in a float32 array of ours on the GPU."""
    gpu, count = CudaDevice(0), int(np.prod(array.shape))
    stream = gpu.stream()
    tensor = StagedTensor(gpu, 4 * count, stream)
    address = array.__cuda_array_interface__["data"][0]
    tensor.from_elsewhere(address, 4 * count, array, stream)
    tensor.to_host(4 * count, stream)
    stream.sync()
    return tensor.host(np.dtype(np.float32), array.shape).copy()


def check_arrays_on_the_device(session, expected, tolerance: float) -> None:
    """Inputs that are on the GPU, aligned and not, and outputs that stay there."""
    data = np.random.default_rng(3).standard_normal((4, 3, 16, 16)).astype(np.float32)
    reference = expected(data)
    for _ in range(3):
        for offset in (0, 4):
            logits = session.run({"input": OnDevice(data, offset)})["logits"]
            np.testing.assert_allclose(logits, reference, rtol=0, atol=tolerance)
        left = session.run_on_device({"input": OnDevice(data)})["logits"]
        np.testing.assert_allclose(on_host(left), reference, rtol=0, atol=tolerance)
    again = session.run({"input": data})["logits"]
    np.testing.assert_allclose(again, reference, rtol=0, atol=tolerance)
    with pytest.raises(RunError, match="is gone"):
        left.__dlpack__()


def check_another_thread(session, expected, tolerance: float) -> None:
    """A session that is used and closed in a thread that never used the GPU before."""
    data = np.random.default_rng(4).standard_normal((3, 3, 16, 16)).astype(np.float32)
    answers, failures = [], []

    def work():
        try:
            answers.append(session.run({"input": data})["logits"])
            slot, _ = session.slots(2, max_batch=4)
            for _ in range(3):
                slot.inputs(3)["input"][:] = data
                slot.start()
                while not slot.done():
                    pass
                answers.append(slot.wait()["logits"].copy())
            session.close()
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    for logits in answers:
        np.testing.assert_allclose(logits, expected(data), rtol=0, atol=tolerance)


@pytest.fixture(scope="session")
def plan(graphs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory):
    """Builds a plan with its passport: ``plan(backend, precision, *profiles, **options)`` gives the path."""
    folder = tmp_path_factory.mktemp("plans")

    def build(backend: str, precision: str, *profiles: str, **options: object) -> Path:
        settings = BuildOptions(profiles=parse_profiles(profiles or ("1:4:8",)), **options)
        built = build_plan(graphs[precision], backend, settings)
        path = folder / f"{len(list(folder.iterdir()))}.engine"
        write_atomically(path, built.data)
        passport = Passport.of(
            path, backend=backend, precision=precision, command="toolkit build-engine", metadata=METADATA
        )
        passport.write(passport_path(path))
        return path

    def build_or_say(*arguments: str, **options: object) -> Path:
        try:
            return build(*arguments, **options)
        except ToolkitError as error:
            cannot(f"no plan could be built: {error}")
            raise

    return build_or_say
