"""Requests that ``tritonclient`` writes are read, and answers that are written it reads, to the bit."""

import json

import numpy as np
import pytest
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput

from engines.errors import UnsupportedError
from tests.toolkit.server.protocol.arrays import TYPES, example, same
from toolkit.server.protocol import http_form
from toolkit.server.protocol.limits import Limits
from toolkit.server.protocol.messages import InferRequest, InferResponse, ModelMetadata, Tensor, TensorMetadata

LIMITS = Limits()


def asked(name, array, datatype, *, binary):
    tensor = InferInput(name, list(array.shape), datatype)
    tensor.set_data_from_numpy(array, binary_data=binary)
    return tensor


def decode(inputs, **options):
    body, length = InferenceServerClient.generate_request_body(inputs, **options)
    return http_form.decode("m", "", body, None if length is None else str(length), LIMITS)


def read_by_client(encoded):
    return InferenceServerClient.parse_response_body(b"".join(encoded.parts), header_length=encoded.header_length)


@pytest.mark.parametrize("shape", [(), (1,), (2, 3), (2, 1, 3), (0, 4)])
@pytest.mark.parametrize(
    ("datatype", "binary"),
    [(datatype, binary) for datatype in TYPES for binary in (True, False) if binary or datatype != "BF16"],
)
def test_a_tensor_of_each_type_arrives_as_it_was_sent(datatype, binary, shape):
    array = example(datatype, shape)
    request = decode([asked("x", array, datatype, binary=binary)])
    assert request.model == "m"
    assert [(one.name, one.datatype) for one in request.inputs] == [("x", datatype)]
    same(request.inputs[0].data, array)


def test_inputs_in_both_forms_in_one_request_keep_their_order_and_their_data():
    arrays = {"a": example("FP32"), "b": example("BYTES"), "c": example("INT64"), "d": example("UINT8", (5,))}
    forms = {"a": ("FP32", True), "b": ("BYTES", False), "c": ("INT64", False), "d": ("UINT8", True)}
    request = decode([asked(name, arrays[name], *form[:1], binary=form[1]) for name, form in forms.items()])
    assert [one.name for one in request.inputs] == list("abcd")
    for one in request.inputs:
        same(one.data, arrays[one.name])


def test_binary_data_are_not_copied():
    body, length = InferenceServerClient.generate_request_body(
        [asked("x", example("UINT8", (1, 8, 8, 3)), "UINT8", binary=True)]
    )
    request = http_form.decode("m", "", body, str(length), LIMITS)
    assert np.shares_memory(request.inputs[0].data, np.frombuffer(body, np.uint8))
    assert not request.inputs[0].data.flags.writeable


def test_what_a_request_asks_for_besides():
    request = decode(
        [asked("x", example("FP32"), "FP32", binary=True)],
        request_id="seven",
        priority=1,
        timeout=250_000,
        parameters={"mine": "yes", "number": 3, "half": 0.5},
        outputs=[
            InferRequestedOutput("a"),
            InferRequestedOutput("b", binary_data=False),
            InferRequestedOutput("c", class_count=4),
        ],
    )
    assert (request.id, request.timeout) == ("seven", 0.25)
    assert request.parameters == {"mine": "yes", "number": 3, "half": 0.5}
    assert [(one.name, one.binary, one.classes) for one in request.outputs] == [
        ("a", True, 0),
        ("b", False, 0),
        ("c", True, 4),
    ]


def test_a_lower_number_is_a_higher_priority_and_none_is_the_middle():
    tensor = asked("x", example("FP32"), "FP32", binary=True)
    found = [decode([tensor], priority=level).priority for level in (1, 2, 5, 0, 6, 9, 10, 2**64 - 1)]
    assert found == [4, 3, 0, 0, -1, -4, -4, -4]


@pytest.mark.parametrize(("timeout", "seconds"), [(None, None), (0, None), (1, 1e-6)])
def test_a_timeout_of_zero_is_none(timeout, seconds):
    assert decode([asked("x", example("FP32"), "FP32", binary=True)], timeout=timeout).timeout == seconds


def test_outputs_come_as_the_whole_request_says_unless_one_says_otherwise():
    body = {
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [1.5]}],
        "outputs": [{"name": "a"}, {"name": "b", "parameters": {"binary_data": False}}],
        "parameters": {"binary_data_output": True},
    }
    request = http_form.decode("m", "2", json.dumps(body).encode(), None, LIMITS)
    assert request.version == "2"
    assert request.binary_default
    assert [one.binary for one in request.outputs] == [True, False]


@pytest.mark.parametrize("data", [[1, 2, 3, 4, 5, 6], [[1, 2, 3], [4, 5, 6]]])
def test_json_data_may_be_flat_or_nested(data):
    body = {"inputs": [{"name": "x", "datatype": "FP16", "shape": [2, 3], "data": data}]}
    request = http_form.decode("m", "", json.dumps(body).encode(), None, LIMITS)
    same(request.inputs[0].data, np.arange(1, 7, dtype=np.float16).reshape(2, 3))
    assert request.outputs == ()
    assert not request.binary_default


def test_json_data_of_bf16_which_the_client_cant_send():
    body = {"inputs": [{"name": "x", "datatype": "BF16", "shape": [2], "data": [1.5, -2]}]}
    request = http_form.decode("m", "", json.dumps(body).encode(), None, LIMITS)
    same(request.inputs[0].data, np.array([1.5, -2], TYPES["BF16"]))


def test_null_is_as_good_as_nothing():
    array = example("FP32", (2,))
    entry = {"name": "x", "datatype": "FP32", "shape": [2], "data": None, "parameters": {"binary_data_size": 8}}
    text = json.dumps({"inputs": [entry], "outputs": None, "parameters": None, "id": None}).encode()
    request = http_form.decode("m", "", text + array.tobytes(), str(len(text)), LIMITS)
    same(request.inputs[0].data, array)
    assert (request.id, request.outputs) == ("", ())


def raw(*shape, datatype="FP32", count=1):
    tensors = tuple(TensorMetadata(f"x{number}", datatype, shape) for number in range(count))
    return ModelMetadata("m", ("1",), "onnxruntime_onnx", tensors, ())


def test_a_body_without_json_is_the_only_input():
    array = example("FP32", (4, 2, 3))
    request = http_form.decode("m", "", array.tobytes(), "0", LIMITS, raw(-1, 2, 3))
    assert request.inputs[0].name == "x0"
    same(request.inputs[0].data, array)
    assert request.binary_default


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("datatype", TYPES)
def test_the_client_reads_what_is_answered(datatype, binary):
    array = example(datatype)
    request = InferRequest("m", (), binary_default=binary)
    encoded = http_form.encode(InferResponse("m", "3", (Tensor("y", datatype, array),), "id"), request)
    assert (encoded.header_length is not None) == binary
    assert encoded.content_type == ("application/octet-stream" if binary else "application/json")
    assert encoded.length == len(b"".join(encoded.parts))
    result = read_by_client(encoded)
    found = result.as_numpy("y")
    if datatype == "BYTES" and not binary:
        found = np.array([[word.encode() for word in row] for row in found], object)
    same(found, array)
    said = result.get_response()
    assert (said["model_name"], said["model_version"], said["id"]) == ("m", "3", "id")


def test_outputs_in_both_forms_and_of_no_elements():
    outputs = (
        Tensor("a", "FP32", example("FP32")),
        Tensor("b", "UINT8", example("UINT8", (2, 0))),
        Tensor("c", "INT64", example("INT64", (1,)), {"calibrated": True}),
        Tensor("d", "FP64", np.asfortranarray(example("FP64", (300, 400)))),
        Tensor("e", "INT32", example("INT32", (4, 6))[:, ::2].astype(">i4")),
    )
    wanted = [InferRequestedOutput(one.name, binary_data=one.name != "c") for one in outputs]
    request = decode([asked("x", example("FP32"), "FP32", binary=True)], outputs=wanted)
    result = read_by_client(http_form.encode(InferResponse("m", "1", outputs), request))
    for one in outputs:
        np.testing.assert_array_equal(result.as_numpy(one.name), one.data)
    assert result.get_output("c")["parameters"] == {"calibrated": True}


def test_a_large_output_is_handed_on_without_a_copy():
    array = example("FP32", (512, 512))
    encoded = http_form.encode(
        InferResponse("m", "1", (Tensor("y", "FP32", array),)), InferRequest("m", (), binary_default=True)
    )
    assert np.shares_memory(np.frombuffer(encoded.parts[1], np.uint8), array)
    assert dict(encoded.headers())[b"content-length"] == b"%d" % len(b"".join(encoded.parts))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("datatype", ["FP16", "FP32", "FP64", "BF16"])
def test_what_json_has_no_word_for_is_refused_and_binary_data_hold_it(datatype, value):
    array = np.array([1.0, value]).astype(TYPES[datatype])
    response = InferResponse("m", "1", (Tensor("y", datatype, array),))
    with pytest.raises(UnsupportedError, match=r"output 'y' holds NaN or infinity.* binary data"):
        http_form.encode(response, InferRequest("m", ()))
    found = read_by_client(http_form.encode(response, InferRequest("m", (), binary_default=True))).as_numpy("y")
    assert found.tobytes() == array.tobytes()


def test_bytes_that_are_no_text_are_refused_in_json():
    response = InferResponse("m", "1", (Tensor("y", "BYTES", np.array([b"\xff"], object)),))
    with pytest.raises(UnsupportedError, match="UTF-8"):
        http_form.encode(response, InferRequest("m", ()))


def test_a_small_json_body_by_itself():
    assert http_form.load(b'{"ready": true}', LIMITS) == {"ready": True}
    assert http_form.load(b"", LIMITS) == {}
    assert json.loads(http_form.dump({"a": [1, "ü"]})) == {"a": [1, "ü"]}
