"""What is told of server and models: the same in JSON and protobuf, and in the form that Triton's clients read."""

import json
from dataclasses import dataclass

import numpy as np
import pytest
from google.protobuf.json_format import MessageToDict, ParseDict
from tritonclient.grpc import model_config_pb2, service_pb2

from engines.errors import UnsupportedError
from engines.sessions.fake import FakeSession
from engines.tensors import TensorSpec
from toolkit import Batcher
from toolkit.server.plane.interface import ModelState
from toolkit.server.protocol import datatypes, describe, protobuf_form
from toolkit.server.protocol.messages import ModelMetadata, TensorMetadata

PIXELS = TensorMetadata("input", "UINT8", (-1, 224, 224, 3))
LOGITS = TensorMetadata("logits", "FP32", (-1, 10))


def metadata(*, inputs=(PIXELS,), outputs=(LOGITS,), **facts):
    return ModelMetadata("m", ("1",), "tensorrt_plan", inputs, outputs, 32, facts)


def test_the_server_tells_its_extensions():
    told = describe.server()
    assert told["name"] == "onnx-tensorrt-toolkit"
    assert told["version"]
    assert {"binary_tensor_data", "classification", "statistics"} <= set(told["extensions"])
    assert MessageToDict(protobuf_form.server()) == told


def test_a_model_tells_its_tensors():
    told = describe.model(metadata())
    assert told == {
        "name": "m",
        "versions": ["1"],
        "platform": "tensorrt_plan",
        "inputs": [{"name": "input", "datatype": "UINT8", "shape": [-1, 224, 224, 3]}],
        "outputs": [{"name": "logits", "datatype": "FP32", "shape": [-1, 10]}],
    }
    assert ParseDict(told, service_pb2.ModelMetadataResponse()) == protobuf_form.model(metadata())


def test_an_engines_tensors_in_the_protocols_words():
    assert datatypes.metadata(TensorSpec("input", "uint8", ("batch", 224, 224, 3))) == PIXELS
    assert datatypes.of_spec(TensorSpec("x", "bfloat16", (1,))) == "BF16"
    with pytest.raises(UnsupportedError, match="no datatype for float8_e4m3fn"):
        datatypes.of_spec(TensorSpec("x", "float8_e4m3fn", (1,)))


def test_a_configuration_leaves_out_the_batch():
    told = describe.config(
        metadata(device="cuda:1", instances=2, max_delay=0.002, backend="tensorrt", file="m.engine")
    )
    assert (told["max_batch_size"], told["platform"], told["backend"]) == (32, "tensorrt_plan", "tensorrt")
    assert told["input"][0]["dims"] == [224, 224, 3]
    assert told["input"][0]["data_type"] == "TYPE_UINT8"
    assert told["output"][0]["dims"] == [10]
    assert told["instance_group"] == [{"name": "m_0", "kind": "KIND_GPU", "count": 2, "gpus": [1]}]
    assert told["dynamic_batching"]["max_queue_delay_microseconds"] == 2000
    assert told["default_model_filename"] == "m.engine"


@pytest.mark.parametrize("other", [TensorMetadata("y", "BYTES", (1, 10)), TensorMetadata("y", "BYTES", ())])
def test_a_configuration_without_a_batch_has_whole_dimensions(other):
    told = describe.config(metadata(outputs=(other,)))
    assert told["max_batch_size"] == 0
    assert told["input"][0]["dims"] == [-1, 224, 224, 3]
    assert told["output"][0]["dims"] == list(other.shape)
    assert told["output"][0]["data_type"] == "TYPE_STRING"
    assert told["instance_group"][0]["kind"] == "KIND_CPU"


def test_a_configuration_is_one_to_triton_and_the_same_on_both_wires():
    told = json.loads(json.dumps(describe.config(metadata())))
    assert ParseDict(told, model_config_pb2.ModelConfig()) == protobuf_form.config(metadata()).config


@pytest.mark.parametrize("datatype", datatypes.NAMES)
def test_every_type_has_a_name_in_a_configuration(datatype):
    told = describe.config(metadata(inputs=(TensorMetadata("x", datatype, (-1,)),)))
    assert told["input"][0]["data_type"] in model_config_pb2.DataType.keys()  # noqa: SIM118 - no mapping


def small():
    return FakeSession()


def test_statistics_count_what_a_batcher_has_done():
    session = small()
    spec = session.inputs[0]
    sample = np.zeros([size if isinstance(size, int) else 1 for size in spec.shape], spec.dtype)
    with Batcher(session, max_batch=4) as batcher:
        for _ in range(3):
            batcher.run({spec.name: sample})
        stats = batcher.stats().to_json()
    told = describe.statistics({"m": {**stats, "last_inference": 1234}, "n": stats}, {"m": "7"})
    one, other = told["model_stats"]
    assert (one["name"], one["version"], one["last_inference"]) == ("m", "7", 1234)
    assert (other["name"], other["version"], other["last_inference"]) == ("n", "1", 0)
    assert one["inference_count"] == sum(int(size) * count for size, count in stats["batches"].items()) >= 3
    assert one["execution_count"] == stats["running"]["count"]
    times = one["inference_stats"]
    assert times["success"]["count"] == times["queue"]["count"] == times["compute_infer"]["count"] == 3
    parts = ("queue", "compute_input", "compute_infer", "compute_output")
    assert times["success"]["ns"] == sum(times[part]["ns"] for part in parts) > 0
    assert times["compute_infer"]["ns"] == pytest.approx(stats["running"]["seconds"] * 1e9, abs=2)
    assert times["fail"]["count"] == 0
    assert [batch["batch_size"] for batch in one["batch_stats"]] == sorted(map(int, stats["batches"]))
    made = protobuf_form.statistics({"m": {**stats, "last_inference": 1234}, "n": stats}, {"m": "7"})
    assert ParseDict(told, service_pb2.ModelStatisticsResponse()) == made


def test_failures_of_every_kind_are_counted_together():
    times = {"count": 0, "seconds": 0.0}
    requests = {"answered": 0, "failed": 1, "expired": 2, "refused": 4, "invalid": 8, "cancelled": 16, "accepted": 19}
    stats = {"requests": requests, "batches": {}, "waiting": times, "staging": times, "running": times}
    one = describe.statistics({"m": stats})["model_stats"][0]
    assert one["inference_stats"]["fail"]["count"] == 15
    assert one["inference_stats"]["compute_infer"] == {"count": 0, "ns": 0}


@dataclass(frozen=True)
class Other:
    name: str
    version: str
    state: str
    reason: str


def test_the_index_tells_why_a_model_isnt_there():
    states = [ModelState("a", "1", "READY"), Other("b", "2", "UNAVAILABLE", "no such file")]
    told = describe.index(states)
    assert told == [
        {"name": "a", "version": "1", "state": "READY"},
        {"name": "b", "version": "2", "state": "UNAVAILABLE", "reason": "no such file"},
    ]
    assert MessageToDict(protobuf_form.index(states)) == {"models": told}
