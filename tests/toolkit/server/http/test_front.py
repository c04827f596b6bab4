"""What the HTTP front does besides answering: refuses, unpacks, lets in, notices who has gone, says that it ends."""

import gzip
import http.client
import json
import logging
import socket
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from tests.toolkit.server.fronts import LIMITS, Fronts, faked, held, running, serving, until
from toolkit.server.plane.plane import DataPlane
from toolkit.server.protocol.messages import InferRequest, InferResponse

INFER = "/v2/models/fake/infer"


@contextmanager
def connected(fronts: Fronts) -> Iterator[http.client.HTTPConnection]:
    connection = http.client.HTTPConnection(fronts.http, timeout=10)
    try:
        yield connection
    finally:
        connection.close()


Asked = tuple[int, http.client.HTTPMessage, bytes]


def ask(fronts: Fronts, method: str, path: str, body: bytes | None = None, **headers: str) -> Asked:
    """One request on a connection of its own; underscores in headers' names are dashes."""
    with connected(fronts) as connection:
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()


def request_of(values: np.ndarray, **parameters: Any) -> bytes:
    entry = {"name": "input", "datatype": "FP32", "shape": list(values.shape), "data": values.ravel().tolist()}
    return json.dumps({"inputs": [entry], "parameters": parameters}).encode()


GOOD = request_of(np.float32([[1, 2, 3, 4]]))


@pytest.fixture(scope="module")
def fake() -> Iterator[Fronts]:
    with serving(faked()) as fronts:
        yield fronts


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("GET", "/v2/", 404),
        ("POST", "/v2", 405),
        ("GET", INFER, 405),
        ("DELETE", INFER, 405),
        ("POST", "/v2/models//infer", 404),
        ("POST", "/v2/models/fake/versions/1/2/infer", 404),
        ("POST", "/v2/models/none/infer", 400),
        ("GET", "/v2/models/none", 404),
        ("GET", "/v2/models/fake/versions/3/stats", 404),
    ],
)
def test_errors_are_json_of_one_line(fake: Fronts, method: str, path: str, status: int) -> None:
    answered, headers, body = ask(fake, method, path)
    assert answered == status
    assert headers["content-type"] == "application/json"
    assert list(json.loads(body)) == ["error"]
    assert "\n" not in json.loads(body)["error"]
    if status == 405:
        assert headers["allow"]


def test_head_is_get_without_the_body(fake: Fronts) -> None:
    status, headers, body = ask(fake, "HEAD", "/v2/models/fake")
    assert (status, body) == (200, b"")
    assert int(headers["content-length"]) == len(ask(fake, "GET", "/v2/models/fake")[2])


def test_one_connection_serves_good_and_bad_requests_in_turn(fake: Fronts) -> None:
    with connected(fake) as connection:
        for body, status in ((GOOD, 200), (b"{", 400), (b"x" * (LIMITS.max_body + 1), 413), (GOOD, 200)):
            connection.request("POST", INFER, body)
            answer = connection.getresponse()
            assert answer.status == status
            assert json.loads(answer.read())
            assert answer.headers["connection"] is None


def test_a_body_that_says_it_is_too_large_is_refused_unread(fake: Fronts) -> None:
    with socket.create_connection(fake.http.split(":"), timeout=10) as wire:
        wire.sendall(f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: {10**15}\r\n\r\n".encode())
        assert wire.recv(4096).startswith(b"HTTP/1.1 413 ")


def test_a_body_of_unknown_length_is_refused_once_it_is_too_large(fake: Fronts) -> None:
    with socket.create_connection(fake.http.split(":"), timeout=10) as wire:
        wire.sendall(f"POST {INFER} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        piece = b"10000\r\n" + bytes(1 << 16) + b"\r\n"
        for _ in range((LIMITS.max_body >> 16) + 1):
            wire.sendall(piece)
        assert wire.recv(4096).startswith(b"HTTP/1.1 413 ")


ENDLESS = {
    "headers": (b"GET /v2 HTTP/1.1\r\n", b"Name: value\r\n" * 1000),
    "one header": (b"GET /v2 HTTP/1.1\r\nName: ", b"x" * 10_000),
    "a path": (b"GET /", b"x" * 10_000),
    "trailers": (
        b"POST " + INFER.encode() + b" HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n",
        b"Name: value\r\n" * 1000,
    ),
    "a size": (b"POST " + INFER.encode() + b" HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1;", b"x" * 10_000),
}


@pytest.mark.parametrize(("begin", "more"), ENDLESS.values(), ids=ENDLESS)
def test_what_never_comes_to_its_point_is_cut_off(fake: Fronts, begin: bytes, more: bytes) -> None:
    with socket.create_connection(fake.http.split(":"), timeout=10) as wire:
        wire.sendall(begin)
        sent = 0
        with pytest.raises(ConnectionError):
            while sent < 8 << 20:
                sent += wire.send(more)
        assert sent < 8 << 20
    assert ask(fake, "GET", "/v2/health/live")[0] == 200


def test_a_body_of_many_small_pieces_is_none_of_that(fake: Fronts) -> None:
    many = request_of(np.zeros((60, 4), np.float32)) + b" " * 100_000
    with connected(fake) as connection:
        connection.request(
            "POST", INFER, (many[at : at + 100] for at in range(0, len(many), 100)), encode_chunked=True
        )
        assert connection.getresponse().status == 200


def test_a_body_in_pieces_is_put_together(fake: Fronts) -> None:
    with connected(fake) as connection:
        connection.request("POST", INFER, iter([GOOD[:10], GOOD[10:11], GOOD[11:]]), encode_chunked=True)
        assert connection.getresponse().status == 200


@pytest.mark.parametrize(("coding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_packed_bodies(fake: Fronts, coding: str, pack: Callable[[bytes], bytes]) -> None:
    whole = pack(GOOD)
    for body, status, words in (
        (whole, 200, "outputs"),
        (whole[:-3], 400, "ends too early"),
        (whole + b"more", 400, "goes on"),
        (b"not packed at all", 400, "no valid"),
        (pack(bytes(LIMITS.max_body + 1)), 413, "unpacks to more"),
    ):
        answered, _, text = ask(fake, "POST", INFER, body, Content_Encoding=coding)
        assert answered == status, text
        assert words in text.decode()
    assert ask(fake, "POST", INFER, whole, Content_Encoding="br")[0] == 400


def test_answers_are_packed_for_who_asks_for_one_coding_only(fake: Fronts) -> None:
    many = request_of(np.random.default_rng(0).standard_normal((60, 4), np.float32))
    plain = ask(fake, "POST", INFER, many)
    assert plain[0] == 200
    for accepted in ("gzip, deflate", "gzip;q=0", "br", "identity", "*"):
        _, headers, body = ask(fake, "POST", INFER, many, Accept_Encoding=accepted)
        assert headers["content-encoding"] is None, accepted
        assert body == plain[2]
    for accepted, unpack in (("gzip;q=0.5, identity", gzip.decompress), ("deflate", zlib.decompress)):
        _, headers, body = ask(fake, "POST", INFER, many, Accept_Encoding=accepted)
        assert headers["content-encoding"] == accepted.partition(";")[0]
        assert len(body) < len(plain[2])
        assert unpack(body) == plain[2]


def test_a_body_without_json_is_the_only_inputs_data(fake: Fronts) -> None:
    sample = np.float32([[1, 2, 3, 4]])
    status, headers, body = ask(fake, "POST", INFER, sample.tobytes(), Inference_Header_Content_Length="0")
    assert (status, headers["content-type"]) == (200, "application/octet-stream")
    answer = np.frombuffer(body[int(headers["inference-header-content-length"]) :], np.float32)
    expected = json.loads(ask(fake, "POST", INFER, GOOD)[2])["outputs"][0]["data"]
    np.testing.assert_allclose(answer, expected, rtol=1e-6)
    assert ask(fake, "POST", INFER, sample.tobytes()[1:], Inference_Header_Content_Length="0")[0] == 400
    assert ask(fake, "POST", "/v2/models/none/infer", b"", Inference_Header_Content_Length="0")[0] == 404


def test_a_token_guards_all_but_health_and_the_page() -> None:
    with serving(faked(), token="sésame") as fronts:  # noqa: S106
        right = "Bearer sésame".encode().decode("latin-1")
        for path in ("/v2/health/live", "/v2/health/ready", "/"):
            assert ask(fronts, "GET", path)[0] == 200
        for path in ("/v2", "/metrics", "/models/fake", "/v2/models/fake/ready"):
            for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic sesame"}):
                status, told, body = ask(fronts, "GET", path, **headers)
                assert (status, told["www-authenticate"]) == (401, "Bearer")
                assert "token" in json.loads(body)["error"]
            assert ask(fronts, "GET", path, Authorization=right)[0] == 200
        assert ask(fronts, "POST", INFER, GOOD)[0] == 401
        assert ask(fronts, "POST", INFER, GOOD, Authorization=right)[0] == 200


def test_a_client_that_goes_away_takes_its_request_with_it() -> None:
    with held() as (fronts, batcher, gate), connected(fronts) as first:
        first.request("POST", INFER, GOOD)
        until(lambda: running(batcher))
        with connected(fronts) as second:
            second.request("POST", INFER, GOOD)
            until(lambda: batcher.stats().depth == 1)
        until(lambda: batcher.stats().requests["cancelled"] == 1)
        gate.set()
        assert first.getresponse().status == 200
        assert 'status="499"' in ask(fronts, "GET", "/metrics")[2].decode()


def test_a_full_queue_says_when_to_come_again() -> None:
    with held(queue=1) as (fronts, batcher, gate), connected(fronts) as first, connected(fronts) as second:
        first.request("POST", INFER, GOOD)
        until(lambda: running(batcher))
        second.request("POST", INFER, GOOD)
        until(lambda: batcher.stats().depth == 1)
        status, headers, body = ask(fronts, "POST", INFER, GOOD)
        assert (status, headers["retry-after"]) == (503, "1")
        assert "wait" in json.loads(body)["error"]
        gate.set()
        assert first.getresponse().status == second.getresponse().status == 200


def test_while_the_server_drains_it_answers_and_sends_clients_elsewhere() -> None:
    plane = faked()
    with serving(plane) as fronts, connected(fronts) as connection:
        connection.request("GET", "/v2/health/ready")
        assert connection.getresponse().read() == b'{"ready":true}'
        plane.gate.drain()
        for path, status in (("/v2/health/ready", 503), ("/v2/health/live", 200), ("/nothing", 404)):
            answered, headers, _ = ask(fronts, "GET", path)
            assert (answered, headers["connection"]) == (status, "close")
        connection.request("POST", INFER, GOOD)
        answer = connection.getresponse()
        assert (answer.status, answer.headers["connection"]) == (200, "close")


def test_what_went_wrong_inside_stays_inside(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(DataPlane):
        async def infer(self, request: InferRequest) -> InferResponse:
            raise RuntimeError("the secret is in /etc")

    healthy = faked()
    with serving(Broken(list(healthy.models.values()))) as fronts, caplog.at_level(logging.ERROR):
        status, _, body = ask(fronts, "POST", INFER, GOOD)
    assert status == 500
    assert json.loads(body) == {"error": "the server failed at this request; its log says why"}
    assert "the secret is in /etc" in caplog.text
    assert "Traceback" in caplog.text


def test_metrics_count_requests_by_model_and_status_without_making_up_models(fake: Fronts) -> None:
    for number in range(3):
        ask(fake, "POST", f"/v2/models/stranger{number}/infer", GOOD)
    ask(fake, "POST", INFER, GOOD)
    status, headers, body = ask(fake, "GET", "/metrics")
    assert status == 200
    assert headers["content-type"].startswith("text/plain")
    lines = [line for line in body.decode().splitlines() if 'protocol="http"' in line and 'status="' in line]
    assert any('model="fake"' in line and 'status="200"' in line for line in lines)
    assert any('model=""' in line and 'status="404"' in line for line in lines)
    assert "stranger" not in body.decode()


def test_the_page_and_a_models_facts(fake: Fronts) -> None:
    status, headers, body = ask(fake, "GET", "/")
    assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert body.lower().startswith(b"<!doctype html>")
    about = json.loads(ask(fake, "GET", "/models/fake")[2])
    assert (about["name"], about["inputs"][0]["name"]) == ("fake", "input")
    assert about["facts"]["backend"] == "fake"


def test_nobody_is_let_in_from_another_origin(fake: Fronts) -> None:
    _, headers, _ = ask(fake, "GET", "/v2", Origin="https://elsewhere.example")
    assert not [name for name in headers if name.lower().startswith("access-control-")]
    status, headers, _ = ask(
        fake, "OPTIONS", INFER, Origin="https://elsewhere.example", Access_Control_Request_Method="POST"
    )
    assert status == 405
    assert headers["access-control-allow-origin"] is None
