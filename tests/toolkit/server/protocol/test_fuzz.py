"""Whatever comes is read or refused with an error of the toolkit's."""

import json

import numpy as np
from google.protobuf.message import DecodeError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from tritonclient.grpc import service_pb2

from engines.errors import ToolkitError
from tests.toolkit.server.protocol.arrays import TYPES
from toolkit.server.protocol import http_form, protobuf_form
from toolkit.server.protocol.classification import classes
from toolkit.server.protocol.limits import Limits
from toolkit.server.protocol.messages import InferRequest, InferResponse, ModelMetadata, Tensor, TensorMetadata

LIMITS = Limits(max_body=1 << 16, max_elements=1 << 12)
RAW = ModelMetadata("m", ("1",), "", (TensorMetadata("x", "FP32", (-1, 2)),), ())
FAST = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])

lengths = st.none() | st.integers(-2, 300).map(str) | st.text(max_size=5)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)
words = ["name", "datatype", "shape", "data", "parameters", "binary_data_size", "binary_data", "classification"]
words += ["timeout", "priority", "binary_data_output", "sequence_id", "shared_memory_region", "id"]
sizes = st.lists(st.integers(0, 3) | st.sampled_from([-1, 2**31, 2**63, 2**64, True, 1.0, None]), max_size=3)
parameters = st.dictionaries(st.sampled_from(words), st.integers(-1, 40) | scalars, max_size=3) | anything
tensors = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["x", "y", "z"]) | anything,
        "datatype": st.sampled_from([*TYPES, "FLOAT"]) | anything,
        "shape": sizes | anything,
        "data": st.lists(st.integers(0, 1) | scalars | st.lists(scalars, max_size=2), max_size=6) | anything,
        "parameters": parameters,
    },
)
requests = st.fixed_dictionaries(
    {"inputs": st.lists(tensors, max_size=3) | anything},
    optional={"outputs": st.lists(tensors, max_size=3) | anything, "parameters": parameters, "id": anything},
)


def refused(error):
    """Always false: an error that says what is wrong and what to do, and doesn't repeat all that was sent."""
    assert error.cause
    assert error.remedy
    assert len(str(error)) < 1000
    return False


def reads_or_refuses(body, length):
    """Whether a body is a request; what is one can be answered."""
    try:
        request = http_form.decode("m", "", body, length, LIMITS, RAW)
    except ToolkitError as error:
        return refused(error)
    for tensor in request.inputs:
        assert tensor.data.flags.c_contiguous
        assert tensor.data.dtype == TYPES[tensor.datatype]
    return answers(request)


def answers(request):
    try:
        http_form.encode(InferResponse("m", "1", request.inputs), request)
        protobuf_form.encode(InferResponse("m", "1", request.inputs))
        classes(request.inputs[0], 2)
    except ToolkitError:
        return False
    return True


@FAST
@given(st.binary(max_size=200), lengths)
def test_any_bytes(body, length):
    reads_or_refuses(body, length)


@FAST
@given(anything)
def test_any_json(value):
    reads_or_refuses(json.dumps(value).encode(), None)


@settings(FAST, max_examples=300)
@given(requests, st.binary(max_size=40), lengths, st.booleans())
def test_any_request(value, data, length, fitting):
    text = json.dumps(value).encode()
    reads_or_refuses(text + data, str(len(text)) if fitting else length)


@settings(FAST, max_examples=300)
@given(
    st.sampled_from(list(TYPES)),
    st.lists(st.integers(0, 3), max_size=3),
    st.binary(max_size=64),
    st.integers(-1, 1),
)
def test_any_data_of_a_shape(datatype, shape, data, more):
    entry = {"name": "x", "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": len(data) + more}}
    text = json.dumps({"inputs": [entry]}).encode()
    reads_or_refuses(text + data, str(len(text)))


@FAST
@given(st.data())
def test_any_message(data):
    message = service_pb2.ModelInferRequest(model_name="m")
    for name in data.draw(st.lists(st.sampled_from("xyz"), max_size=3)):
        datatype = data.draw(st.sampled_from([*TYPES, "", "FLOAT"]))
        shape = data.draw(st.lists(st.integers(-1, 3) | st.just(2**62), max_size=3))
        one = message.inputs.add(name=name, datatype=datatype, shape=shape)
        one.contents.int_contents.extend(data.draw(st.lists(st.integers(-200, 200), max_size=3)))
        one.contents.fp32_contents.extend(data.draw(st.lists(st.floats(width=32), max_size=3)))
        if data.draw(st.booleans()):
            one.ClearField("contents")
    message.raw_input_contents.extend(data.draw(st.lists(st.binary(max_size=16), max_size=3)))
    for key in data.draw(st.lists(st.sampled_from(words), max_size=2)):
        message.parameters[key].int64_param = data.draw(st.integers(-1, 5))
    try:
        request = protobuf_form.decode(message, LIMITS)
    except ToolkitError as error:
        refused(error)
    else:
        answers(request)


@FAST
@given(st.binary(max_size=200))
def test_any_bytes_that_are_a_message(body):
    try:
        message = service_pb2.ModelInferRequest.FromString(body)
    except DecodeError:
        return  # grpc refuses it
    try:
        answers(protobuf_form.decode(message, LIMITS))
    except ToolkitError as error:
        refused(error)


numbers = st.sampled_from([name for name in TYPES if name not in {"BYTES", "BF16"}])


@FAST
@given(
    numbers.flatmap(
        lambda name: st.tuples(
            st.just(name),
            arrays.arrays(
                np.dtype(TYPES[name]),
                arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4),
                elements=None
                if name[0] != "F"
                else st.floats(width=int(name[2:]), allow_nan=False, allow_infinity=False),
            ),
        )
    ),
    st.booleans(),
)
def test_what_is_answered_reads_as_a_request_to_the_bit(made, binary):
    datatype, array = made
    request = InferRequest("m", (), binary_default=binary)
    encoded = http_form.encode(InferResponse("m", "1", (Tensor("x", datatype, array),)), request)
    length = encoded.header_length
    body = b"".join(encoded.parts)
    header = json.loads(body[:length])
    text = json.dumps({"inputs": header["outputs"]}).encode()
    found = http_form.decode(
        "m", "", text + (body[length:] if length else b""), str(len(text)) if length else None, LIMITS
    )
    assert found.inputs[0].datatype == datatype
    assert found.inputs[0].data.tobytes() == array.tobytes()
    assert found.inputs[0].data.shape == array.shape
