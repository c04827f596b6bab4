"""Triton itself loads what was packaged, warms it up and answers; where there is one.

``TOOLKIT_PYTRITON`` names the folder of packages (site-packages) that PyTriton and onnxruntime are installed in.
PyTriton brings Triton's server without its ONNX Runtime backend, so a few lines of Python stand in for that: what is
tested is the repository, not the backend.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from tests.tiny import METADATA, tiny_graph
from tests.toolkit.packaging.engines import cast_graph, graph_in
from toolkit.loading import open_artifact
from toolkit.steps.package import package

PACKAGES = os.environ.get("TOOLKIT_PYTRITON", "")

pytestmark = pytest.mark.skipif(not PACKAGES, reason="TOOLKIT_PYTRITON names no installation of PyTriton")

BACKEND = """
import json, os
import numpy, onnxruntime
import triton_python_backend_utils as triton

class TritonPythonModel:
    def initialize(self, args):
        self.config = json.loads(args["model_config"])
        folder = os.path.join(args["model_repository"], args["model_version"])
        path = os.path.join(folder, self.config["default_model_filename"])
        self.session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def execute(self, requests):
        names = [output["name"] for output in self.config["output"]]
        for request in requests:
            inputs = [one["name"] for one in self.config["input"]]
            feeds = {name: triton.get_input_tensor_by_name(request, name).as_numpy() for name in inputs}
            arrays = [numpy.ascontiguousarray(array) for array in self.session.run(names, feeds)]
            response = triton.InferenceResponse([triton.Tensor(*pair) for pair in zip(names, arrays)])
            request.get_response_sender().send(response, flags=triton.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packaged")
    models = folder / "models"
    package(graph_in(folder), triton=models, device="cpu", max_batch=8, max_delay=0.001, queue=64, instances=2)
    package(graph_in(folder, "static.onnx", batch=4), triton=models)
    package(cast_graph(folder, TensorProto.FLOAT16, "cast.onnx"), triton=models, device="cpu")
    onnx.save(tiny_graph(), folder / "m.onnx", save_as_external_data=True, location="m.weights", size_threshold=100)
    package(folder / "m.onnx", triton=models, name="external", device="cpu")
    return models


@pytest.fixture(scope="module")
def triton(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from tritonclient import grpc

    packages, folder = Path(PACKAGES), tmp_path_factory.mktemp("triton")
    server = packages / "pytriton" / "tritonserver"
    shutil.copytree(server / "backends", folder / "backends")
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = server / "python_backend_stubs" / version / "triton_python_backend_stub"
    shutil.copy(stub, folder / "backends" / "python")
    (folder / "backends" / "onnxruntime").mkdir()
    (folder / "backends" / "onnxruntime" / "model.py").write_text(BACKEND)
    http, port = free_ports(2)
    libraries = os.pathsep.join((str(packages / "nvidia_pytriton.libs"), str(server / "external_libs")))
    process = subprocess.Popen(
        [
            server / "bin" / "tritonserver", f"--model-repository={repository}", "--allow-metrics=false",
            f"--backend-directory={folder / 'backends'}", "--http-address=127.0.0.1", "--grpc-address=127.0.0.1",
            f"--http-port={http}", f"--grpc-port={port}", "--strict-model-config=true", "--exit-timeout-secs=5",
        ],
        env={
            **os.environ,
            "LD_LIBRARY_PATH": libraries,
            "PYTHONPATH": str(packages),
            "PATH": os.pathsep.join((str(packages.parents[2] / "bin"), os.environ["PATH"])),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        log = []
        for line in process.stdout:
            log.append(line)
            if "Started GRPCInferenceService" in line:
                break
        else:
            pytest.fail("".join(log[-40:]))
        with grpc.InferenceServerClient(f"127.0.0.1:{port}") as client:
            yield client
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)


@pytest.mark.parametrize("name", ["model", "static", "cast", "external"])
def test_triton_serves_the_model_and_answers_as_the_graph_does(triton: Any, repository: Path, name: str) -> None:
    from tritonclient import grpc

    assert triton.is_model_ready(name)
    with open_artifact(repository / name / "1" / "model.onnx", device="cpu") as session:
        (spec,) = session.inputs
        shape = [size if isinstance(size, int) else 3 for size in spec.shape]
        values = np.random.default_rng(0).normal(0, 1, shape).astype(np.float32)
        expected = session.run({spec.name: values})
    tensor = grpc.InferInput(spec.name, shape, "FP32")
    tensor.set_data_from_numpy(values)
    answer = triton.infer(name, [tensor])
    for output, array in expected.items():
        assert np.allclose(answer.as_numpy(output).reshape(array.shape), array, rtol=1e-3, atol=1e-3)


def test_triton_names_the_classes(triton: Any) -> None:
    from tritonclient import grpc

    tensor = grpc.InferInput("input", [2, 3, 16, 16], "FP32")
    tensor.set_data_from_numpy(np.ones((2, 3, 16, 16), np.float32))
    answer = triton.infer("model", [tensor], outputs=[grpc.InferRequestedOutput("logits", class_count=1)])
    for (text,) in answer.as_numpy("logits"):
        _, index, label = text.decode().split(":")
        assert label == METADATA.labels[int(index)]


def test_triton_has_warmed_up_and_understood_the_wishes(triton: Any) -> None:
    config = triton.get_model_config("model").config
    assert config.max_batch_size == 8
    assert config.instance_group[0].count == 2
    assert config.dynamic_batching.max_queue_delay_microseconds == 1000
    assert config.dynamic_batching.default_queue_policy.max_queue_size == 64
    assert [warm.batch_size for warm in config.model_warmup] == [1, 8]
