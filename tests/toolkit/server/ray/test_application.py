"""The Serve application, for clusters with proxies of their own: the same protocol through them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from engines.errors import InputError
from tests.toolkit.server.plane.models import answers, samples, write
from tests.toolkit.server.processes import ROOT

pytest.importorskip("ray")

PROGRAM = """
import json, socket, sys
import numpy as np
import ray
from ray import serve
import tritonclient.grpc as rpc
import tritonclient.http as web
from tritonclient.utils import InferenceServerException
from toolkit.server.ray.application import application

def free():
    with socket.create_server(("127.0.0.1", 0)) as found:
        return found.getsockname()[1]

graph, batch = sys.argv[1], np.load(sys.argv[2])
http, grpc = free(), free()
ray.init(address="local", num_cpus=3, object_store_memory=128 << 20, include_dashboard=False, log_to_driver=False)
rpc_options = {"port": grpc, "grpc_servicer_functions": ["toolkit.server.ray.wire.add_to_server"]}
serve.start(http_options={"host": "127.0.0.1", "port": http}, grpc_options=rpc_options)
serve.run(application({"models": f"tiny={graph}", "cpus": "0", "device": "cpu"}), name="toolkit")

found, bearer = {}, {"authorization": "Bearer open-sesame"}
for kind, module, port in (("http", web, http), ("grpc", rpc, grpc)):
    client = module.InferenceServerClient(f"127.0.0.1:{port}")
    given = module.InferInput("input", list(batch.shape), "FP32")
    given.set_data_from_numpy(batch)
    result = client.infer("tiny", [given], headers=dict(bearer)).as_numpy("logits")
    metadata = client.get_model_metadata("tiny", headers=dict(bearer))
    try:
        client.infer("tiny", [given])
        refused = None
    except InferenceServerException as raised:
        refused = [raised.status(), raised.message()]
    try:
        client.infer("nobody", [given], headers=dict(bearer))
        error = None
    except InferenceServerException as raised:
        error = [raised.status(), raised.message()]
    found[kind] = {
        "logits": result.tolist(),
        "ready": client.is_server_ready(),
        "name": metadata["name"] if kind == "http" else metadata.name,
        "error": error,
        "refused": refused,
    }
print(json.dumps(found))
serve.shutdown()
ray.shutdown()
"""


def test_tritonclient_finds_the_protocol_behind_serves_proxies(tmp_path: Path) -> None:
    graph, batch = write(tmp_path / "tiny.onnx"), samples(3)
    np.save(tmp_path / "batch.npy", batch)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(graph), str(tmp_path / "batch.npy")],
        capture_output=True, text=True, check=False, timeout=120, cwd=ROOT,
        env={**os.environ, "RAY_ADDRESS": "", "RAY_USAGE_STATS_ENABLED": "0", "TOOLKIT_TOKEN": "open-sesame"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))
    statuses = {"http": ("404", "401"), "grpc": ("StatusCode.NOT_FOUND", "StatusCode.UNAUTHENTICATED")}
    for kind, (status, refusal) in statuses.items():
        np.testing.assert_allclose(found[kind]["logits"], answers(graph, batch), atol=1e-5)
        assert (found[kind]["ready"], found[kind]["name"]) == (True, "tiny")
        assert found[kind]["error"][0] == status
        assert "'nobody'" in found[kind]["error"][1]
        assert found[kind]["refused"] == [refusal, found[kind]["refused"][1]]
        assert "bears no token" in found[kind]["refused"][1]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "no models"),
        ({"models": "m.onnx", "speed": "9"}, "unknown option speed"),
        ({"models": "m.onnx", "gpus": "half"}, "no number"),
        ({"models": "m.onnx", "replicas": "0"}, "1 or more replicas"),
        ({"models": "missing.onnx"}, "missing.onnx"),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_options_that_make_no_sense_are_said(
    options: dict[str, str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from toolkit.server.ray.application import application

    monkeypatch.chdir(tmp_path)
    write(tmp_path / "m.onnx")
    with pytest.raises(InputError, match=says):
        application(options)
