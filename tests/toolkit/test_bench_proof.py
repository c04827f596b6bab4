"""What a measuring process proves of the artifact that it runs."""

import onnx

from tests.tiny import tiny_graph
from tests.toolkit.openers import HERE
from toolkit.benchmarking.messages import Contestant
from toolkit.benchmarking.process import WorkerProcess


def test_a_graph_is_proven_to_run_on_the_cpu_provider_and_a_fake_has_no_proof(tmp_path):
    path = tmp_path / "tiny.onnx"
    onnx.save(tiny_graph(), path)
    with WorkerProcess(Contestant(str(path), "tiny", backend="onnxruntime", device="cpu")) as worker:
        worker.open()
        proof = worker.proof()
        assert worker.block(2, 0.01).seconds, "it runs on"
    assert proof.proven
    assert proof.shares == {"CPUExecutionProvider": 1.0}
    with WorkerProcess(Contestant("x", "x", opener=f"{HERE}:fake")) as worker:
        worker.open()
        proof = worker.proof()
    assert (proof.proven, proof.problem) == (False, "a session of 'fake' doesn't tell")
    assert proof.provider == "numpy"
