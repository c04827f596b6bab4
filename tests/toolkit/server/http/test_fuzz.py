"""Whatever comes over HTTP: a refusal in one line of JSON, no failure of the server, no traceback anywhere."""

import copy
import http.client
import json
import logging
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.tiny import SIZE
from tests.toolkit.server.fronts import Fronts

OFTEN = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))

SAMPLE = np.zeros((1, 3, SIZE, SIZE), np.float32)
REQUEST = {
    "id": "mine",
    "parameters": {"priority": 1, "timeout": 10_000_000},
    "inputs": [
        {"name": "a", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]},
        {"name": "b", "datatype": "FP16", "shape": [1, 3], "parameters": {"binary_data_size": 6}},
        {"name": "c", "datatype": "UINT8", "shape": [1, 2], "data": [[1, 2]]},
    ],
    "outputs": [{"name": "a_out", "parameters": {"binary_data": True}}, {"name": "b_out"}],
}
BINARY = bytes(6)

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(["FP32", "BYTES", "BF16", "a"]),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text() | st.sampled_from(["data", "shape"]), inner)
    ),
    max_leaves=8,
)
lengths = (
    st.none() | st.integers().map(str) | st.sampled_from(["", "1e3", "0x10", "+5", "5, 5", "0", "٣", "9" * 5000])
)
names = st.sampled_from(["tiny", "echo", "none", "a b", "..", "%00", "é"])


class Wire:
    """A connection that is kept for as long as the server keeps it."""

    def __init__(self, fronts: Fronts) -> None:
        self._connection = http.client.HTTPConnection(fronts.http, timeout=10)

    def ask(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
        connection = self._connection
        connection.putrequest(method, quote(path, safe="/?=&%"), skip_accept_encoding=True)
        for name, value in headers.items():
            connection.putheader(name, value.encode())
        connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        answer = connection.getresponse()
        return answer.status, answer.read()

    def close(self) -> None:
        self._connection.close()


@pytest.fixture(scope="module")
def wire(fronts: Fronts) -> Iterator[Wire]:
    wire = Wire(fronts)
    yield wire
    wire.close()


@pytest.fixture(autouse=True)
def _nothing_is_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    with caplog.at_level(logging.ERROR):
        yield
    assert not caplog.records


def check(status: int, body: bytes) -> None:
    """It is an answer, or a refusal in one line."""
    assert status == 200 or 400 <= status < 500 or status == 504, body
    assert b"Traceback" not in body
    if status != 200:
        error = json.loads(body)["error"]
        assert error
        assert "\n" not in error
        assert " object at 0x" not in error


@OFTEN
@given(
    model=names, body=st.binary(max_size=300), length=lengths, coding=st.sampled_from(["", "gzip", "deflate", "x"])
)
def test_bytes(wire: Wire, model: str, body: bytes, length: str | None, coding: str) -> None:
    headers = {"Content-Encoding": coding} if coding else {}
    if length is not None:
        headers["Inference-Header-Content-Length"] = length
    check(*wire.ask("POST", f"/v2/models/{model}/infer", body, headers))


@OFTEN
@given(model=names, value=values, rest=st.binary(max_size=20), said=st.integers(-5, 5))
def test_json(wire: Wire, model: str, value: Any, rest: bytes, said: int) -> None:
    text = json.dumps(value).encode()
    headers = {"Inference-Header-Content-Length": str(len(text) + said)}
    check(*wire.ask("POST", f"/v2/models/{model}/infer", text + rest, headers))
    for path in ("/v2/repository/index", f"/v2/repository/models/{model}/unload"):
        check(*wire.ask("POST", path, text, {}))


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every part of a JSON value."""
    yield path
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in parts:
        yield from places(part, (*path, key))


@OFTEN
@given(data=st.data(), change=st.sampled_from(["replace", "remove", "repeat", "add"]))
def test_requests_with_one_thing_wrong(wire: Wire, data: st.DataObject, change: str) -> None:
    request = copy.deepcopy(REQUEST)
    *way, last = data.draw(st.sampled_from([path for path in places(REQUEST) if path]))
    parent: Any = request
    for key in way:
        parent = parent[key]
    if change == "replace":
        parent[last] = data.draw(values)
    elif change == "remove":
        del parent[last]
    elif isinstance(parent, list):
        parent.insert(last, copy.deepcopy(parent[last]) if change == "repeat" else data.draw(values))
    else:
        parent[data.draw(st.text())] = data.draw(values)
    text = json.dumps(request).encode()
    headers = {"Inference-Header-Content-Length": str(len(text))}
    check(*wire.ask("POST", "/v2/models/echo/infer", text + BINARY, headers))


def test_the_request_that_these_change_is_a_good_one(wire: Wire) -> None:
    text = json.dumps(REQUEST).encode()
    headers = {"Inference-Header-Content-Length": str(len(text))}
    assert wire.ask("POST", "/v2/models/echo/infer", text + BINARY, headers)[0] == 200


@OFTEN
@given(
    shape=st.lists(
        st.integers(-(2**70), 2**70) | st.sampled_from([0, 1, 3, SIZE, 2**31, 2**32, 2**63, -1]), max_size=40
    ),
    datatype=st.sampled_from(["FP32", "FP16", "UINT8", "INT64", "BYTES", "BOOL", "BF16", "fp32", ""]),
    size=st.integers(-(2**70), 2**70) | st.sampled_from([0, SAMPLE.nbytes, SAMPLE.nbytes - 1]),
    cut=st.integers(0, SAMPLE.nbytes),
)
def test_shapes_types_and_sizes(wire: Wire, shape: list[int], datatype: str, size: int, cut: int) -> None:
    entry = {"name": "input", "shape": shape, "datatype": datatype, "parameters": {"binary_data_size": size}}
    text = json.dumps({"inputs": [entry]}).encode()
    headers = {"Inference-Header-Content-Length": str(len(text))}
    check(*wire.ask("POST", "/v2/models/tiny/infer", text + SAMPLE.tobytes()[cut:], headers))


HARMFUL = {
    "deep lists": b"[" * 100_000,
    "deep objects": b'{"inputs":' * 50_000,
    "deep data": b'{"inputs": [{"name": "input", "datatype": "FP32", "shape": [1], "data": '
    + b"[" * 50_000 + b"]" * 50_000 + b"}]}",
    "many inputs": b'{"inputs": [' + b"{}," * 100_000 + b"{}]}",
    "a long id": b'{"id": "' + b"x" * 900_000 + b'"}',
    "NaN": b'{"inputs": [{"name": "input", "datatype": "FP32", "shape": [1, 1], "data": [NaN]}]}',
    "overflow": b'{"inputs": [{"name": "input", "datatype": "FP32", "shape": [1, 1], "data": [1e999]}]}',
    "more than a byte": b'{"inputs": [{"name": "input", "datatype": "UINT8", "shape": [1, 1], "data": [256]}]}',
    "a long number": b'{"inputs": [{"name": "input", "datatype": "UINT8", "shape": [1], "data": ['
    + b"9" * 10_000 + b"]}]}",
    "half a character": b'{"id": "\\ud800"}',
    "half a name": b'{"inputs": [{"name": "\\ud800\\n", "datatype": "FP32", "shape": [1], "data": [1]}]}',
    "a byte order mark": b"\xef\xbb\xbf{}",
    "UTF-16": b"\xff\xfe{\x00}\x00",
}  # fmt: skip


@pytest.mark.parametrize("body", HARMFUL.values(), ids=HARMFUL)
def test_what_would_hurt_a_careless_server(wire: Wire, body: bytes) -> None:
    status, text = wire.ask("POST", "/v2/models/tiny/infer", body, {})
    check(status, text)
    assert status in {400, 413}
    assert len(text) < 1000


@OFTEN
@given(
    query=st.text(st.characters(codec="utf-8"), max_size=30),
    body=st.binary(max_size=200),
    kind=st.sampled_from(
        ["image/png", "multipart/form-data; boundary=X", "multipart/form-data", 'multipart/;=;"', ""]
    ),
    before=st.sampled_from(
        [b"", b"--X\r\n", b'--X\r\nContent-Disposition: form-data; name="file"\r\n\r\n', b"\x89PNG\r\n\x1a\n"]
    ),
)
def test_pictures_and_forms(wire: Wire, query: str, body: bytes, kind: str, before: bytes) -> None:
    check(*wire.ask("POST", f"/classify?{query}", before + body, {"Content-Type": kind}))


@OFTEN
@given(
    method=st.sampled_from(["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"]),
    parts=st.lists(
        st.sampled_from(
            ["v2", "models", "tiny", "versions", "1", "infer", "ready", "stats", "repository", "metrics", ""]
        )
        | st.text(st.characters(codec="utf-8"), max_size=5),
        max_size=7,
    ),
)
def test_paths(wire: Wire, method: str, parts: list[str]) -> None:
    status, body = wire.ask(method, "/" + "/".join(part.replace("%", "") for part in parts), b"", {})
    if status != 200:
        check(status, body)


@settings(OFTEN, max_examples=60)
@given(
    st.binary(min_size=1, max_size=200)
    | st.sampled_from([b"GET / HTTP/9.9\r\n\r\n", b"POST /v2/models/\xff/infer HTTP/1.1\r\n\r\n"])
)
def test_what_is_no_http_at_all(fronts: Fronts, sent: bytes) -> None:
    with socket.create_connection(fronts.http.split(":"), timeout=10) as wire:
        wire.sendall(sent)
        wire.shutdown(socket.SHUT_WR)
        answer = b""
        try:
            while piece := wire.recv(4096):
                answer += piece
        except ConnectionResetError:
            pass  # with bytes left unread, this is how a connection is closed
    assert b" 500 " not in answer.partition(b"\r\n")[0]
    assert b"Traceback" not in answer
