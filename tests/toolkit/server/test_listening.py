"""Addresses that can't be had, and a door that closes behind its last visitor."""

import asyncio
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop

from engines.errors import InputError
from toolkit.server.listening import Door, address, bound, check_free

Run = Callable[[Callable[[], Coroutine[Any, Any, None]]], None]


async def hello(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Answers once the request's body is there, however long that takes."""
    assert scope["type"] == "http"
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
    await send({"type": "http.response.body", "body": b"hello"})


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a coroutine function in one of the two kinds of event loop."""

    def call(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop if request.param == "uvloop" else None) as runner:
            runner.run(work())

    return call


def test_addresses() -> None:
    assert address("127.0.0.1", 80) == "127.0.0.1:80"
    assert address("::1", 80) == "[::1]:80"
    with bound("localhost", 0, "--port") as found:
        assert found.getsockname()[1] > 0


def test_a_port_that_is_taken_is_refused_and_given_back_when_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        for refused in (bound, check_free):
            with pytest.raises(InputError, match=f"port {port} of 127.0.0.1 is in use") as error:
                refused("127.0.0.1", port, "--port")
            assert "--port 0" in error.value.remedy
    check_free("127.0.0.1", port, "--port")
    bound("127.0.0.1", port, "--port").close()


def test_two_that_found_the_port_free_do_not_share_it(run: Run) -> None:
    """Both were starting: neither listened when the other one looked."""

    async def work() -> None:
        first = Door(hello, bound("127.0.0.1", 0, "--port"))
        second = Door(hello, bound("127.0.0.1", first.port, "--port"))
        await first.open()
        with pytest.raises(OSError, match="in use"):
            await second.open()
        await second.close()
        await first.close()

    run(work)


def test_connections_that_nobody_has_accepted_yet_are_answered_before_the_door_closes(run: Run) -> None:
    async def work() -> None:
        door = Door(hello, bound("127.0.0.1", 0, "--port"))
        await door.open()
        visitors = []
        for _ in range(50):
            visitor = socket.create_connection(("127.0.0.1", door.port))
            visitor.sendall(b"GET / HTTP/1.1\r\nhost: here\r\nconnection: close\r\n\r\n")
            visitors.append(visitor)
        # The event loop has not turned since: the system alone knows of them.
        closing = asyncio.create_task(door.close())
        for visitor in visitors:
            visitor.settimeout(10)
            answer = b""
            while piece := await asyncio.to_thread(visitor.recv, 4096):
                answer += piece
            assert answer.endswith(b"hello")
            visitor.close()
        await asyncio.wait_for(closing, 10)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", door.port))

    run(work)


def test_idle_connections_are_closed_and_those_at_work_waited_for(run: Run) -> None:
    async def work() -> None:
        door = Door(hello, bound("127.0.0.1", 0, "--port"))
        await door.open()
        idle, nobody = await asyncio.open_connection("127.0.0.1", door.port)
        reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
        writer.write(b"POST / HTTP/1.1\r\nhost: here\r\ncontent-length: 4\r\n\r\nab")
        await asyncio.sleep(0.05)
        closing = asyncio.create_task(door.close())
        assert await idle.read() == b""
        assert not closing.done()
        writer.write(b"cd")
        assert (await reader.read()).endswith(b"hello")
        await asyncio.wait_for(closing, 10)
        for one in (nobody, writer):
            one.close()
            await one.wait_closed()

    run(work)
