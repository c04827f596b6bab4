"""Messages that ``tritonclient`` makes are read, and messages that are made it reads, to the bit."""

import numpy as np
import pytest
from tritonclient.grpc import InferInput, InferRequestedOutput, InferResult, service_pb2
from tritonclient.grpc._utils import _get_inference_request

from engines.errors import InputError
from tests.toolkit.server.protocol.arrays import TYPES, example, same
from toolkit.server.protocol import protobuf_form
from toolkit.server.protocol.limits import Limits
from toolkit.server.protocol.messages import InferResponse, Tensor, TooLargeError

LIMITS = Limits(max_body=1 << 20, max_elements=1 << 20)


def asked(name, array, datatype):
    tensor = InferInput(name, list(array.shape), datatype)
    tensor.set_data_from_numpy(array)
    return tensor


def message(inputs, **changes):
    options = {"model_version": "", "request_id": "", "outputs": None, "sequence_id": 0, "sequence_start": False}
    options |= {"sequence_end": False, "priority": 0, "timeout": None, "parameters": None, **changes}
    return _get_inference_request(model_name="m", inputs=inputs, **options)


def sent(request):
    """What a server gets: the message after its bytes."""
    return service_pb2.ModelInferRequest.FromString(request.SerializeToString())


def decode(request):
    return protobuf_form.decode(sent(request), LIMITS)


@pytest.mark.parametrize("shape", [(), (1,), (2, 3), (2, 1, 3), (0, 4)])
@pytest.mark.parametrize("datatype", TYPES)
def test_a_tensor_of_each_type_arrives_as_it_was_sent(datatype, shape):
    array = example(datatype, shape)
    request = decode(message([asked("x", array, datatype), asked("z", array, datatype)], model_version="2"))
    assert (request.model, request.version) == ("m", "2")
    for one, name in zip(request.inputs, "xz", strict=True):
        assert (one.name, one.datatype) == (name, datatype)
        same(one.data, array)


CONTENTS = {
    "BOOL": "bool_contents",
    "INT64": "int64_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
    **dict.fromkeys(["INT8", "INT16", "INT32"], "int_contents"),
    **dict.fromkeys(["UINT8", "UINT16", "UINT32"], "uint_contents"),
}


def typed(datatype, shape, values, field=None):
    request = service_pb2.ModelInferRequest(model_name="m")
    one = request.inputs.add(name="x", datatype=datatype, shape=shape)
    getattr(one.contents, field or CONTENTS.get(datatype, "fp32_contents")).extend(values)
    return request


@pytest.mark.parametrize("shape", [(), (2, 3), (0,)])
@pytest.mark.parametrize("datatype", CONTENTS)
def test_typed_contents_of_each_type_arrive_as_they_were_sent(datatype, shape):
    array = example(datatype, shape)
    same(decode(typed(datatype, shape, array.reshape(-1).tolist())).inputs[0].data, array)


def test_what_a_request_asks_for_besides():
    request = decode(
        message(
            [asked("x", example("FP32"), "FP32")],
            request_id="seven",
            priority=2,
            timeout=250_000,
            parameters={"mine": "yes", "number": 3, "half": 0.5, "flag": True},
            outputs=[InferRequestedOutput("a"), InferRequestedOutput("c", class_count=4)],
        )
    )
    assert (request.id, request.timeout, request.priority) == ("seven", 0.25, 3)
    assert request.parameters == {"mine": "yes", "number": 3, "half": 0.5, "flag": True}
    assert [(one.name, one.classes) for one in request.outputs] == [("a", 0), ("c", 4)]


@pytest.mark.parametrize("datatype", TYPES)
def test_the_client_reads_what_is_answered(datatype):
    array, other = example(datatype), np.asfortranarray(example("FP32", (300, 400)))
    outputs = (
        Tensor("empty", "FP32", example("FP32", (0, 3))),
        Tensor("y", datatype, array),
        Tensor("z", "FP32", other),
    )
    made = protobuf_form.encode(InferResponse("m", "3", outputs, "id", {"a": 1, "b": True, "c": 0.5, "d": "e"}))
    result = InferResult(service_pb2.ModelInferResponse.FromString(made.SerializeToString()))
    same(result.as_numpy("y"), array)
    same(result.as_numpy("z"), other)
    assert result.as_numpy("empty").shape == (0, 3)
    said = result.get_response()
    assert (said.model_name, said.model_version, said.id) == ("m", "3", "id")
    assert protobuf_form._read(said.parameters, "") == {"a": 1, "b": True, "c": 0.5, "d": "e"}


def broken(change):
    request = message([asked("x", example("FP32", (2,)), "FP32")])
    change(request)
    return request


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (lambda r: r.ClearField("inputs"), "no inputs"),
        (lambda r: r.inputs.extend([r.inputs[0]]), "comes twice"),
        (lambda r: r.inputs.extend([r.inputs[0]] * 256), "257 inputs"),
        (lambda r: [r.outputs.add(name="y") for _ in range(2)], "output 'y' comes twice"),
        (lambda r: [r.outputs.add(name=str(n)) for n in range(257)], "257 outputs"),
        (lambda r: r.raw_input_contents.append(b""), "1 inputs and 2 raw_input_contents"),
        (lambda r: r.ClearField("raw_input_contents"), "has 0 values in fp32_contents"),
        (lambda r: r.inputs[0].contents.fp32_contents.append(1), "typed and raw"),
        (lambda r: r.inputs[0].shape.append(2), "needs 16"),
        (lambda r: r.inputs[0].shape.append(-1), "holds '-1'"),
        (lambda r: setattr(r.inputs[0], "datatype", "FLOAT"), "no datatype 'FLOAT'"),
        (lambda r: setattr(r.inputs[0], "datatype", "FP64"), "needs 16"),
        (lambda r: r.parameters["mine"].SetInParent(), "'mine' of the request has no value"),
        (lambda r: setattr(r.parameters["timeout"], "int64_param", -1), "timeout is '-1'"),
        (lambda r: setattr(r.parameters["timeout"], "double_param", 1), "timeout is '1.0'"),
        (lambda r: setattr(r.parameters["priority"], "string_param", "1"), "priority is '1'"),
        (lambda r: setattr(r.parameters["sequence_id"], "int64_param", 1), "belongs to a sequence"),
        (lambda r: setattr(r.parameters["sequence_id"], "string_param", "a"), "belongs to a sequence"),
        (lambda r: setattr(r.inputs[0].parameters["shared_memory_region"], "string_param", "a"), "shared memory"),
    ],
)
def test_what_a_request_gets_wrong(change, cause):
    with pytest.raises(InputError) as caught:
        decode(broken(change))
    assert cause in caught.value.cause
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("request_", "cause"),
    [
        (typed("FP16", (1,), [1.0]), "FP16 has no typed contents"),
        (typed("FP32", (1,), [1], "int_contents"), "of FP32 has int_contents"),
        (typed("UINT8", (2,), [1, 256]), "hold 256"),
        (typed("INT8", (2,), [-129, 0]), "hold -129"),
        (typed("INT8", (3,), [1, 2]), "has 2 values in int_contents"),
    ],
)
def test_what_typed_contents_get_wrong(request_, cause):
    with pytest.raises(InputError, match=cause):
        decode(request_)


@pytest.mark.parametrize("shape", [[2**31], [2**62, 2**62], [0, 2**62]])
def test_a_shape_is_refused_by_its_size(shape):
    with pytest.raises(TooLargeError):
        decode(broken(lambda r: r.inputs[0].shape.extend(shape)))


def test_a_message_is_refused_by_its_size():
    with pytest.raises(TooLargeError, match="has 1048577 bytes"):
        decode(broken(lambda r: r.raw_input_contents.__setitem__(0, bytes((1 << 20) + 1))))
