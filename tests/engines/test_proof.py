"""What a session's library proves of what it ran, and what it says when nodes ran elsewhere."""

import json
from importlib.util import find_spec

import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from engines.errors import RunError, UnsupportedError
from engines.sessions import open_session
from engines.sessions.fake import FakeSession
from engines.sessions.ort_profile import read_profile
from engines.sessions.proof import Proof, Provable, by_share
from engines.sessions.torch import TorchSession
from tests.conformance import samples
from tests.tiny import METADATA, tiny_graph
from tests.tiny_torch import tiny_module

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("proof") / "tiny.onnx"
    onnx.save(tiny_graph(), path)
    return path


def node(name, provider, microseconds, kind="Conv"):
    args = {"provider": provider, "op_name": kind}
    return {"cat": "Node", "name": f"{name}_kernel_time", "dur": microseconds, "args": args}


class TestOnnxRuntime:
    def test_every_node_is_seen_to_run_on_the_cpu(self, path, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        with open_session(path, device="cpu") as session:
            assert isinstance(session, Provable)
            proof = session.prove({"input": samples(2)})
            assert session.run({"input": samples(2)})["logits"].shape == (2, 5), "it goes on as before"
        assert proof.proven
        assert (proof.provider, proof.shares) == (CPU, {CPU: 1.0})
        assert list(tmp_path.iterdir()) == [], "the profile is gone"

    def test_the_second_session_is_of_the_same_options_and_profiled(self, path, monkeypatch):
        real, seen = onnxruntime.InferenceSession, []

        def spy(name, options, **more):
            seen.append((name, options.intra_op_num_threads, options.enable_profiling, more))
            return real(name, options, **more)

        monkeypatch.setattr(onnxruntime, "InferenceSession", spy)
        with open_session(path, device="cpu", threads=1, spin="never") as session:
            session.prove({"input": samples(1)})
        (name, threads, profiled, more), second = seen
        assert (threads, profiled) == (1, False)
        assert second == (name, 1, True, more)

    def test_a_node_that_ran_elsewhere_is_named_and_weighs_by_its_time(self):
        events = [
            node("conv1", CUDA, 600), node("nms", CPU, 200, "NonMaxSuppression"), node("conv2", CUDA, 200),
            node("nms", CPU, 0, "NonMaxSuppression"),
            {"cat": "Session", "name": "model_run", "dur": 5000, "args": {}},
            {"cat": "Node", "name": "conv1_fence_before", "dur": 50, "args": {"op_name": "Conv"}},
        ]  # fmt: skip
        proof = read_profile(events, CUDA)
        assert proof.shares == {CUDA: 0.8, CPU: 0.2}
        assert proof.fallbacks == (f"nms (NonMaxSuppression) ran on {CPU}",)
        assert not proof.proven

    def test_many_such_nodes_are_counted(self):
        proof = read_profile([node(f"n{i}", CPU, 1) for i in range(30)], CUDA)
        assert (proof.provider, len(proof.fallbacks), proof.fallbacks[-1]) == (CPU, 9, "22 more nodes")

    def test_a_profile_without_nodes_proves_nothing(self):
        assert read_profile([], CPU).problem == "the profile names no node"
        assert not read_profile([], CPU).proven

    def test_no_memory_for_a_second_session_is_a_reason_and_no_crash(self, path, monkeypatch):
        with open_session(path, device="cpu") as session:

            def exhausted(*_, **__):
                raise RuntimeError("Failed to allocate memory for requested buffer of size 228000000")

            monkeypatch.setattr(onnxruntime, "InferenceSession", exhausted)
            with pytest.raises(RunError, match="couldn't profile a second session: Failed to allocate"):
                session.prove({"input": samples(1)})
            assert session.run({"input": samples(1)})["logits"].shape == (1, 5)

    def test_a_closed_session_proves_nothing(self, path):
        session = open_session(path, device="cpu")
        session.close()
        with pytest.raises(RunError, match="is closed"):
            session.prove({"input": samples(1)})


@pytest.mark.skipif(find_spec("openvino") is None, reason="openvino isn't installed")
def test_openvino_tells_its_devices_and_the_types_of_its_layers(path):
    with open_session(path, backend="openvino") as session:
        proof = session.prove({})
    assert (proof.provider, proof.shares, proof.fallbacks) == ("CPU", {"float32": 1.0}, ())
    assert "4 convolutions and products" in proof.how


def test_pytorch_tells_where_its_parameters_are_and_of_which_type():
    module = tiny_module(tiny_graph())
    module[0].double()
    with TorchSession(module, METADATA, "cpu") as session:
        proof = session.prove({})
    first = sum(parameter.numel() for parameter in module[0].parameters())
    whole = sum(parameter.numel() for parameter in module.parameters())
    assert proof.proven
    assert proof.shares == {"cpu float32": 1 - first / whole, "cpu float64": first / whole}


def test_parameters_that_are_elsewhere_are_named():
    module = tiny_module(tiny_graph())
    with TorchSession(module, METADATA, "cpu") as session:
        module[8].to(torch.device("meta"))
        assert session.prove({}).fallbacks == ("8.weight is on meta", "8.bias is on meta")


def test_a_session_that_can_not_tell_is_no_provable_one():
    assert not isinstance(FakeSession(metadata=METADATA), Provable)


@given(
    st.builds(
        Proof,
        st.text(max_size=9), st.text(max_size=9), st.dictionaries(st.text(max_size=9), st.floats(0, 1), max_size=3),
        st.lists(st.text(max_size=9), max_size=3).map(tuple), st.text(max_size=9),
    )
)  # fmt: skip
def test_a_proof_survives_its_json(proof):
    assert Proof.from_json(json.loads(json.dumps(proof.to_json(), allow_nan=False))) == proof


def test_shares_are_of_the_whole_largest_first():
    assert list(by_share({"b": 1, "a": 1, "c": 2}).items()) == [("c", 0.5), ("a", 0.25), ("b", 0.25)]
    assert by_share({"a": 0.0}) == by_share({}) == {}


def test_a_graph_of_bfloat16_is_not_profiled(path):
    with open_session(path, device="cpu") as session:
        session._bfloat16 = True
        with pytest.raises(UnsupportedError, match="BF16 isn't profiled"):
            session.prove({"input": samples(1)})
