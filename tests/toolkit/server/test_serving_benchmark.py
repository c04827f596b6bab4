"""The load generator of ``benchmarks/serving.py``: what it sends, what it counts, that it knows a wrong answer."""

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tritonclient.grpc import service_pb2 as messages

from benchmarks import serving_parts
from benchmarks.serving_load import HttpConnection, turn, wrong
from benchmarks.serving_wire import WIRES, Names, Reply, logits
from toolkit.server.protocol import http_form, protobuf_form
from toolkit.server.protocol.limits import Limits

NAMES = Names("model", "input", "logits")
LIMITS = Limits(max_body=1 << 20)
IMAGES = np.random.default_rng(0).integers(0, 256, (8, 6, 6, 3), np.uint8)
IMAGES[:, 0, 0, 0] = range(8)  # by which a server knows them
EXPECTED = np.random.default_rng(1).standard_normal((8, 5)).astype(np.float32)


class Answering(asyncio.Protocol):
    """A server for the wire "raw" that gives each image its logits, spoilt where ``spoil`` says so."""

    def __init__(self, spoil: Callable[[int], bool]) -> None:
        self._spoil, self._data = spoil, b""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._data += data
        _, _, body = self._data.partition(b"\r\n\r\n")
        if len(body) < IMAGES[0].nbytes:
            return
        which, self._data = body[0], b""
        answer = (EXPECTED[which] + np.float32(self._spoil(which))).tobytes()
        self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(answer) + answer)


def asked(
    order: dict[str, Any], spoil: Callable[[int], bool] = lambda _: False
) -> tuple[list[float], list[Any], Any]:
    async def main() -> tuple[list[float], list[Any], Any]:
        server = await asyncio.get_running_loop().create_server(lambda: Answering(spoil), "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            whole = {"wire": "raw", "port": port, "warm_up": 0.0, **order}
            return await turn(whole, WIRES["raw"](NAMES, IMAGES))

    return asyncio.run(main())


def test_a_closed_loop_keeps_every_caller_busy() -> None:
    latencies, replies, facts = asked({"concurrency": 4, "seconds": 0.3})
    assert len(latencies) > 20
    assert facts["per_second"] == pytest.approx(len(latencies) / 0.3)
    assert {which for which, _ in replies} == set(range(8))
    assert wrong("raw", NAMES, replies, EXPECTED, 1e-6) == []


def test_an_open_loop_sends_what_is_due_whatever_is_answered() -> None:
    latencies, replies, facts = asked({"rate": 200.0, "seconds": 0.5, "seed": 3})
    assert len(replies) == len(latencies) == 100
    assert facts["not_sent"] == 0
    assert sorted(which for which, _ in replies) == sorted(number % 8 for number in range(100))
    assert wrong("raw", NAMES, replies, EXPECTED, 1e-6) == []


def test_what_came_while_it_warmed_up_does_not_count() -> None:
    latencies, replies, _ = asked({"rate": 200.0, "seconds": 0.2, "warm_up": 0.3, "seed": 3})
    assert len(replies) == 100
    assert 20 < len(latencies) < 80


def test_wrong_answers_are_counted() -> None:
    _, replies, _ = asked({"concurrency": 4, "seconds": 0.2}, spoil=lambda which: which == 3)
    spoilt = sum(which == 3 for which, _ in replies)
    assert spoilt > 0
    found = wrong("raw", NAMES, replies, EXPECTED, 1e-3)
    assert len(found) == spoilt
    assert "image 3" in found[0]


@pytest.mark.parametrize(
    "reply", [Reply(500, b"no"), Reply(200, b"{}"), Reply(200, b'{"outputs": []}'), Reply(200, b"<html>")]
)
@pytest.mark.parametrize("wire", ["oip-binary", "oip-json"])
def test_what_is_no_answer_is_wrong(wire: str, reply: Reply) -> None:
    assert len(wrong(wire, NAMES, [(0, reply)], EXPECTED, 1e9)) == 1


@pytest.mark.parametrize("wire", ["oip-binary", "oip-json"])
def test_http_requests_are_of_the_protocol(wire: str) -> None:
    request = WIRES[wire](NAMES, IMAGES)[2]
    head, _, body = request.partition(b"\r\n\r\n")
    headers = dict(line.lower().split(": ") for line in head.decode().split("\r\n")[1:])
    assert int(headers["content-length"]) == len(body)
    decoded = http_form.decode("model", "", body, headers.get("inference-header-content-length"), LIMITS)
    assert np.array_equal(decoded.inputs[0].data, IMAGES[2:3])
    assert decoded.inputs[0].datatype == "UINT8"


def test_grpc_requests_are_of_the_protocol() -> None:
    request = messages.ModelInferRequest.FromString(WIRES["oip-grpc"](NAMES, IMAGES)[2])
    decoded = protobuf_form.decode(request, LIMITS)
    assert np.array_equal(decoded.inputs[0].data, IMAGES[2:3])


def test_answers_by_grpc_are_read() -> None:
    answer = messages.ModelInferResponse(model_name="model", raw_output_contents=[EXPECTED[1].tobytes()])
    answer.outputs.add(name="logits", datatype="FP32", shape=[1, 5])
    assert np.array_equal(logits("oip-grpc", NAMES, Reply(200, answer.SerializeToString())), EXPECTED[1])


def test_a_connection_that_ends_without_an_answer_is_an_error() -> None:
    class Rude(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            transport.close()

    async def main() -> None:
        server = await asyncio.get_running_loop().create_server(Rude, "127.0.0.1", 0)
        async with server:
            connection = await HttpConnection.open(server.sockets[0].getsockname()[1])
            with pytest.raises(ConnectionError):
                await connection.ask(b"POST / HTTP/1.1\r\n\r\n")

    asyncio.run(main())


def test_a_slow_pair_gets_longer_turns() -> None:
    assert serving_parts.longest(10.0, 100.0) == 10.0
    assert serving_parts.longest(10.0, 10.0) == serving_parts.ARRIVALS / 10.0
    assert serving_parts.longest(10.0, 0.1) == serving_parts.LONGEST


def test_grpc_is_compared_with_grpc_alone() -> None:
    assert serving_parts.against(("toolkit", "oip-binary"), ("litserve", "raw"))
    assert serving_parts.against(("toolkit", "oip-grpc"), ("kserve", "oip-grpc"))
    assert not serving_parts.against(("toolkit", "oip-binary"), ("kserve", "oip-grpc"))
