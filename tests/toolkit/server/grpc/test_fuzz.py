"""Whatever comes over gRPC: a status that says who is at fault, no failure of the server, no traceback anywhere."""

import logging
from collections.abc import Iterator

import grpc
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2

from tests.toolkit.server.fronts import Fronts, channel

OFTEN = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
PATH = "/inference.GRPCInferenceService/"
SERVICE = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
UNARY = [method.name for method in SERVICE.methods if method.name != "ModelStreamInfer"]

REFUSALS = {"INVALID_ARGUMENT", "NOT_FOUND", "UNIMPLEMENTED", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED"}
"""What the caller can bring about: a request may itself say how little time it has."""

words = st.text(max_size=8)
names = st.sampled_from(["tiny", "echo", "none", ""]) | words
parameters = st.dictionaries(
    st.sampled_from(["timeout", "priority", "sequence_id", "classification", "binary_data", "shared_memory_region"])
    | words,
    st.one_of(
        st.booleans().map(lambda value: {"bool_param": value}),
        st.integers(-(2**63), 2**63 - 1).map(lambda value: {"int64_param": value}),
        st.integers(0, 2**64 - 1).map(lambda value: {"uint64_param": value}),
        st.floats().map(lambda value: {"double_param": value}),
        words.map(lambda value: {"string_param": value}),
        st.just({}),
    ),
    max_size=3,
)
shapes = st.lists(st.integers(-(2**63), 2**63 - 1) | st.sampled_from([0, 1, 2, 3, 4, 16, -1, 2**31]), max_size=6)
contents = st.one_of(
    st.just({}),
    st.lists(st.floats(width=32), max_size=6).map(lambda values: {"fp32_contents": values}),
    st.lists(st.integers(0, 2**32 - 1), max_size=4).map(lambda values: {"uint_contents": values}),
    st.lists(st.binary(max_size=4), max_size=3).map(lambda values: {"bytes_contents": values}),
)
inputs = st.builds(
    dict,
    name=st.sampled_from(["a", "b", "c", "input"]) | words,
    datatype=st.sampled_from(["FP32", "FP16", "UINT8", "BYTES", "BF16", "INT64"]) | words,
    shape=shapes,
    contents=contents,
    parameters=parameters,
)
messages = st.builds(
    service_pb2.ModelInferRequest,
    model_name=names,
    model_version=st.sampled_from(["", "1", "2"]) | words,
    id=words,
    parameters=parameters,
    inputs=st.lists(inputs, max_size=4),
    outputs=st.lists(
        st.builds(dict, name=st.sampled_from(["a_out", "logits"]) | words, parameters=parameters), max_size=3
    ),
    raw_input_contents=st.lists(st.binary(max_size=40) | st.just(bytes(16)), max_size=4),
)


@pytest.fixture(scope="module")
def wire(fronts: Fronts) -> Iterator[grpc.Channel]:
    with channel(fronts.grpc) as wire:
        yield wire


@pytest.fixture(autouse=True)
def _nothing_is_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    with caplog.at_level(logging.ERROR):
        yield
    assert not caplog.records


def check(wire: grpc.Channel, method: str, message: bytes) -> None:
    """It is answered, or refused for what the caller did."""
    error = wire.unary_unary(PATH + method).future(message, timeout=10).exception()
    if error is not None:
        assert error.code().name in REFUSALS
        assert error.details()
        assert "\n" not in error.details()
        assert "Traceback" not in error.details()


@OFTEN
@given(method=st.sampled_from(UNARY), message=st.binary(max_size=60))
def test_bytes(wire: grpc.Channel, method: str, message: bytes) -> None:
    check(wire, method, message)


@OFTEN
@given(message=messages)
def test_requests(wire: grpc.Channel, message: service_pb2.ModelInferRequest) -> None:
    check(wire, "ModelInfer", message.SerializeToString())


@settings(OFTEN, max_examples=40)
@given(several=st.lists(messages, min_size=1, max_size=4))
def test_streams_answer_each(wire: grpc.Channel, several: list[service_pb2.ModelInferRequest]) -> None:
    sent = [message.SerializeToString() for message in several]
    answers = list(wire.stream_stream(PATH + "ModelStreamInfer")(iter(sent), timeout=10))
    assert len(answers) == len(sent)
    for message, answer in zip(several, map(service_pb2.ModelStreamInferResponse.FromString, answers), strict=True):
        assert "failed" not in answer.error_message
        assert answer.infer_response.id == message.id


@OFTEN
@given(data=st.data())
def test_requests_with_one_thing_wrong(wire: grpc.Channel, data: st.DataObject) -> None:
    """Each field in turn of one that is good."""
    arrays = {"a": np.ones((1, 4), np.float32), "b": np.ones((1, 3), np.float16), "c": np.ones((1, 2), np.uint8)}
    datatypes = {"a": "FP32", "b": "FP16", "c": "UINT8"}
    message = service_pb2.ModelInferRequest(model_name="echo")
    for name, array in arrays.items():
        message.inputs.add(name=name, datatype=datatypes[name], shape=array.shape)
        message.raw_input_contents.append(array.tobytes())
    wire.unary_unary(PATH + "ModelInfer")(message.SerializeToString(), timeout=10)
    entry = message.inputs[data.draw(st.integers(0, 2))]
    match data.draw(st.sampled_from(["shape", "datatype", "name", "raw", "fewer", "more", "contents", "parameters"])):
        case "shape":
            entry.ClearField("shape")
            entry.shape.extend(data.draw(shapes))
        case "datatype":
            entry.datatype = data.draw(st.sampled_from(["FP64", "BYTES", "BOOL", "fp32"]) | words)
        case "name":
            entry.name = data.draw(st.sampled_from(["a", "b", "c"]) | words)
        case "raw":
            message.raw_input_contents[data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=40))
        case "fewer":
            del message.raw_input_contents[-1]
        case "more":
            message.raw_input_contents.append(data.draw(st.binary(max_size=10)))
        case "contents":
            entry.contents.MergeFrom(service_pb2.InferTensorContents(**data.draw(contents)))
        case "parameters":
            changed = service_pb2.ModelInferRequest(parameters=data.draw(parameters))
            message.MergeFrom(changed)
    check(wire, "ModelInfer", message.SerializeToString())
