"""What isn't a request is refused with a cause and a remedy, before anything is allocated for it."""

import json
import struct
import tracemalloc

import numpy as np
import pytest

from engines.errors import InputError
from tests.toolkit.server.protocol.test_http_form import raw
from toolkit.server.protocol import http_form
from toolkit.server.protocol.limits import Limits
from toolkit.server.protocol.messages import TooLargeError

LIMITS = Limits(max_body=1 << 20, max_elements=1 << 20)


def decode(message, data=b"", *, length=..., limits=LIMITS):
    text = message if isinstance(message, bytes) else json.dumps(message).encode()
    given = (str(len(text)) if data else None) if length is ... else length
    return http_form.decode("m", "", text + data, given, limits)


def tensor(**changes):
    return {"name": "x", "datatype": "FP32", "shape": [2], "data": [1, 2], **changes}


def sized(size, **changes):
    return {"name": "x", "datatype": "FP32", "shape": [2], "parameters": {"binary_data_size": size}, **changes}


def one(**changes):
    return {"inputs": [tensor(**changes)]}


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b"7",
        b"null",
        b"\xff\xfe",
        b'{"id": "\xff"}',
        b'{"inputs": NaN}',
        b"[" * 100_000,
        b'{"a":' * 9999,
        b'{"id": "\\ud800"}',
    ],
)
def test_what_is_no_json_object(text):
    with pytest.raises(InputError) as caught:
        decode(text)
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("message", "cause"),
    [
        ({}, "no inputs"),
        ({"inputs": []}, "no inputs"),
        ({"inputs": {}}, '"inputs" is no list'),
        ({"inputs": ["x"]}, '"inputs" is no list of objects'),
        ({"inputs": [tensor()] * 2}, "input 'x' comes twice"),
        ({"inputs": [tensor(name=str(n)) for n in range(257)]}, "257 inputs"),
        ({**one(), "outputs": [{"name": "y"}] * 2}, "output 'y' comes twice"),
        ({**one(), "outputs": "y"}, '"outputs" is no list'),
        ({**one(), "outputs": [{"name": 3}]}, "name of an output is no string"),
        ({**one(), "outputs": [{"name": "y", "parameters": {"classification": -1}}]}, "classification is '-1'"),
        ({**one(), "outputs": [{"name": "y", "parameters": {"binary_data": 1}}]}, "binary_data is '1'"),
        ({**one(), "id": 7}, "id is no string"),
        ({**one(), "parameters": [1]}, "parameters of the request are no JSON object"),
        ({**one(), "parameters": {"mine": [1]}}, "'mine' of the request is neither"),
        ({**one(), "parameters": {"timeout": -1}}, "timeout is '-1'"),
        ({**one(), "parameters": {"timeout": 1.5}}, "timeout is '1.5'"),
        ({**one(), "parameters": {"timeout": True}}, "timeout is 'True'"),
        ({**one(), "parameters": {"priority": "high"}}, "priority is 'high'"),
        ({**one(), "parameters": {"binary_data_output": "yes"}}, "binary_data_output is 'yes'"),
        ({**one(), "parameters": {"sequence_id": 4}}, "belongs to a sequence"),
        (one(name=None), "name of an input is no string"),
        (one(datatype="FLOAT"), "no datatype 'FLOAT'"),
        (one(datatype=["FP32"]), "no datatype"),
        (one(datatype=None), "no datatype"),
        (one(shape=None), "'x' has no shape"),
        (one(shape=[-1]), "holds '-1'"),
        (one(shape=[2.0]), "holds '2.0'"),
        (one(shape=[True, 2]), "holds 'True'"),
        (one(shape=["2"]), "holds '2'"),
        (one(shape=[[2]]), "holds a list"),
        (one(shape=[1] * 33), "33 dimensions"),
        (one(shape=[3]), "has 2 values, and its shape [3] needs 3"),
        (one(shape=[]), "has 2 values"),
        (one(data=None), "are no list"),
        (one(data={"a": 1}), "are no list"),
        (one(data="12"), "are no list"),
        (one(data=[1, None]), "hold null"),
        (one(data=[1, True]), "hold true"),
        (one(data=[1, "2"]), "hold '2'"),
        (one(data=[1, [2]]), "hold a list"),
        (one(data=[[1, 2]]), "has 1 values"),
        (one(data=[1, 1e39]), "too large for float32"),
        (one(shape=[2, 2], data=[[1, 2], [3]]), "aren't nested as its shape [2, 2]"),
        (one(shape=[2, 2], data=[[1, 2], 3]), "aren't nested"),
        (one(shape=[2, 2], data=[[1, 2]]), "aren't nested"),
        (one(shape=[2, 2], data=[[1, 2], [3, [4]]]), "hold a list"),
        (one(datatype="UINT8", data=[1, 256]), "hold 256"),
        (one(datatype="INT8", data=[-129, 0]), "hold -129"),
        (one(datatype="INT64", data=[0, 2**64 - 1]), "hold 18446744073709551615"),
        (one(datatype="UINT64", data=[-1, 2**64 - 1]), "hold -1"),
        (one(datatype="UINT8", data=[1, 2.0]), "hold '2.0'"),
        (one(datatype="BOOL", data=[True, 1]), "hold '1'"),
        (one(datatype="BYTES", data=["a", 1]), "hold '1'"),
        (one(parameters={"shared_memory_region": "r", "shared_memory_byte_size": 8}), "input 'x' names a region"),
        (one(parameters={"binary_data_size": 8}), "as JSON and as binary data"),
        ({"inputs": [sized(8)]}, "said to have 8 bytes of binary data, and 0 are there"),
        ({"inputs": [sized(-8)]}, "binary_data_size is '-8'"),
        ({"inputs": [sized("8")]}, "binary_data_size is '8'"),
    ],
)  # fmt: skip
def test_what_a_request_in_json_gets_wrong(message, cause):
    with pytest.raises(InputError) as caught:
        decode(message)
    assert cause in caught.value.cause
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("inputs", "data", "cause"),
    [
        ([sized(8)], bytes(7), "7 are there"),
        ([sized(8)], bytes(9), "1 bytes of binary data that are no input's"),
        ([sized(4)], bytes(4), "its shape [2] of float32 needs 8"),
        ([sized(8), sized(8, name="z")], bytes(8), "input 'z' is said to have 8 bytes of binary data, and 0"),
        ([sized(2**62)], bytes(8), "8 are there"),
        ([sized(2, datatype="BOOL")], b"\x01\x02", "byte other than 0 and 1"),
        ([sized(4, datatype="BYTES")], bytes(4), "too few for 2 elements"),
        ([sized(8, datatype="BYTES")], struct.pack("<II", 1, 0), "element 1 of input 'x' ends behind"),
        ([sized(8, datatype="BYTES")], struct.pack("<II", 0, 2**32 - 1), "element 1 of input 'x' ends behind"),
        ([sized(9, datatype="BYTES")], bytes(9), "1 bytes behind its 2 elements"),
        ([sized(0, datatype="BYTES", shape=[])], b"x", "too few for 1 elements"),
    ],
)
def test_what_a_request_in_bytes_gets_wrong(inputs, data, cause):
    with pytest.raises(InputError) as caught:
        decode({"inputs": inputs}, data)
    assert cause in caught.value.cause
    assert caught.value.remedy


@pytest.mark.parametrize("length", ["", "-1", "1e2", "9999999", "0x10", "+4", "²", "9" * 400, "1,1"])
def test_a_header_length_that_is_none(length):
    with pytest.raises(InputError, match="Inference-Header-Content-Length"):
        decode(one(), length=length)


def test_a_header_that_ends_within_the_json():
    with pytest.raises(InputError, match="no valid JSON"):
        decode(one(), length="10")


@pytest.mark.parametrize(
    ("metadata", "size", "cause"),
    [
        (None, 24, "one input"),
        (raw(-1, 3, count=2), 24, "one input"),
        (raw(-1, -1), 24, "doesn't say the shape"),
        (raw(-1, datatype="BYTES"), 24, "doesn't say the shape"),
        (raw(-1, 3), 25, "has 25 bytes"),
        (raw(1, 3), 24, "has 24 bytes"),
    ],
)
def test_a_body_without_json_that_fits_no_input(metadata, size, cause):
    with pytest.raises(InputError, match=cause):
        http_form.decode("m", "", bytes(size), "0", LIMITS, metadata)


@pytest.mark.parametrize("shape", [[2**31], [2**16, 2**16], [2**63, 2**63], [0, 2**62], [2**20 + 1]])
def test_a_shape_is_refused_before_memory_is_taken_for_it(shape):
    message = {"inputs": [sized(8, shape=shape), tensor(name="z", shape=shape)]}
    tracemalloc.start()
    try:
        with pytest.raises(TooLargeError, match="elements, and the server takes at most 1048576"):
            decode(message, bytes(8))
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_elements_of_bytes_are_counted_before_memory_is_taken_for_them():
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match="too few"):
            decode({"inputs": [sized(8, datatype="BYTES", shape=[1 << 20])]}, bytes(8))
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_a_body_is_refused_by_its_size():
    with pytest.raises(TooLargeError, match="has 1048577 bytes"):
        decode(b" " * (1 << 20) + b"x")


@pytest.mark.parametrize("piece", [b"[],", b"{},", b"[[[[]]]],"])
def test_a_body_of_empty_lists_is_refused_before_it_is_read(piece):
    text = b'{"a": [' + piece * (9 << 17) + b"[]]}"
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match="lists and objects"):
            decode(text, limits=Limits())
        assert tracemalloc.get_traced_memory()[1] < 2 * len(text)
    finally:
        tracemalloc.stop()


def test_a_message_names_a_long_name_only_in_part():
    with pytest.raises(InputError) as caught:
        decode(one(name="n" * 100_000 + "\n", shape=[3]))
    assert len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)


def test_the_views_of_a_writable_body_are_of_its_bytes():
    text = json.dumps({"inputs": [sized(8)]}).encode()
    body = bytearray(text + np.array([1, 2], np.float32).tobytes())
    request = http_form.decode("m", "", body, str(len(text)), LIMITS)
    assert request.inputs[0].data.tolist() == [1.0, 2.0]
