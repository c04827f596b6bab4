"""What a connection may keep the server waiting for, and requests that ask for another protocol."""

import http.client
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from tests.toolkit.server.fronts import Fronts, faked, held, running, serving, until
from tests.toolkit.server.http.test_front import GOOD, INFER, ask, request_of
from toolkit.server import listening
from toolkit.server.http.wire import SPARE, protocol, room

SILENCE = 0.3
MOST = 4


@pytest.fixture(scope="module")
def strict() -> Iterator[Fronts]:
    """A server that is soon impatient, and has room for few."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(listening, "protocol", lambda: protocol(MOST, SILENCE))
        with serving(faked()) as fronts:
            yield fronts


@contextmanager
def dialled(fronts: Fronts) -> Iterator[socket.socket]:
    with socket.create_connection(fronts.http.split(":"), timeout=10) as wire:
        yield wire


def rest(wire: socket.socket) -> bytes:
    """What comes until the server closes."""
    return b"".join(iter(lambda: wire.recv(1 << 16), b""))


def status_of(wire: socket.socket) -> int:
    """Read an answer, and give its status."""
    answer = http.client.HTTPResponse(wire)
    answer.begin()
    answer.read()
    return answer.status


HEAD = f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(GOOD)}\r\n".encode()
UPGRADE = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAAB\r\n"
INSIDE = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.mark.parametrize("pieces", [(0,), (100,), (len(HEAD), len(HEAD) + 40), (-1,), (-len(GOOD), -10)])
def test_a_request_that_asks_for_http2_is_answered_with_its_body(fronts: Fronts, pieces: tuple[int, ...]) -> None:
    body = request_of_tiny()
    whole = HEAD.replace(b"fake", b"tiny").replace(b"%d" % len(GOOD), b"%d" % len(body)) + UPGRADE + b"\r\n" + body
    with dialled(fronts) as wire:
        for _ in range(2):
            at = 0
            for end in (*pieces, len(whole)):
                wire.sendall(whole[at : end % (len(whole) + 1)])
                at = end % (len(whole) + 1)
            answer = http.client.HTTPResponse(wire)
            answer.begin()
            assert (answer.status, b"outputs" in answer.read()) == (200, True)


def request_of_tiny() -> bytes:
    return request_of(np.zeros((1, 3, 16, 16), np.float32))


def test_a_body_of_a_request_that_asks_for_http2_is_never_the_next_request(fronts: Fronts) -> None:
    head = f"POST {INFER} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, close\r\nUpgrade: h2c\r\n".encode()
    with dialled(fronts) as wire:
        wire.sendall(head + b"Content-Length: %d\r\n\r\n" % len(INSIDE))
        wire.sendall(INSIDE)
        answer = rest(wire)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"HTTP/1.1") == 1


def test_many_requests_for_other_protocols_in_one_piece_are_answered_in_turn(fronts: Fronts) -> None:
    one = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    with dialled(fronts) as wire:
        wire.sendall(one * 1500 + INSIDE.replace(b"Host: x", b"Connection: close"))
        assert rest(wire).count(b"HTTP/1.1 200 OK") == 1501


BEGINNINGS = {"nothing": b"", "line": b"GET /v2/hea", "head": HEAD, "body": HEAD + b"\r\n" + GOOD[:20]}


@pytest.mark.parametrize("begin", BEGINNINGS.values(), ids=BEGINNINGS)
def test_who_falls_silent_in_a_request_is_not_waited_for(strict: Fronts, begin: bytes) -> None:
    with dialled(strict) as wire:
        wire.sendall(begin)
        assert not rest(wire)


def test_who_falls_silent_in_a_later_request_is_not_waited_for(strict: Fronts) -> None:
    with dialled(strict) as wire:
        wire.sendall(INSIDE)
        assert status_of(wire) == 200
        wire.sendall(b"GET")
        assert not rest(wire)


def test_who_takes_no_answers_is_not_waited_for(strict: Fronts) -> None:
    with socket.socket() as wire:
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        host, port = strict.http.split(":")
        wire.connect((host, int(port)))
        wire.settimeout(0.05)

        def broken_off() -> bool:
            try:
                wire.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 500)
            except TimeoutError:
                return False
            except ConnectionError:
                return True
            return False

        until(broken_off)
    assert ask(strict, "GET", "/v2/health/live")[0] == 200


def test_who_waits_for_an_answer_or_between_requests_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "protocol", lambda: protocol(MOST, SILENCE))
    with (
        held() as (fronts, batcher, gate),
        dialled(fronts) as waits,
        dialled(fronts) as idle,
        dialled(fronts) as none,
    ):
        idle.sendall(INSIDE)
        assert status_of(idle) == 200
        waits.sendall(HEAD + b"\r\n" + GOOD)
        until(lambda: running(batcher))
        assert not none.recv(1)  # by now the others' time is up too
        with dialled(fronts) as another:
            assert not another.recv(1)
        gate.set()
        assert status_of(waits) == 200
        idle.sendall(INSIDE)
        assert status_of(idle) == 200


def test_a_connection_more_than_there_is_room_for_is_told_so(strict: Fronts) -> None:
    with dialled(strict) as first, dialled(strict), dialled(strict), dialled(strict):
        with dialled(strict) as last:
            answer = rest(last)
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after" in answer
        first.sendall(INSIDE)
        assert status_of(first) == 200
        first.close()
        until(lambda: ask(strict, "GET", "/v2/health/live")[0] == 200)


def test_room_is_what_the_process_may_have_less_what_it_needs() -> None:
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (500, 1000)); "
        "from toolkit.server.http.wire import room; print(room(), *resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.split() == [str(1000 - SPARE), "1000", "1000"]
    assert room() < resource.getrlimit(resource.RLIMIT_NOFILE)[0]
