"""A load generator: one process that asks servers with prepared bytes, and checks every answer afterwards.

    python benchmarks/serving_load.py IMAGES.npy EXPECTED.npy TOLERANCE NAMES.json

Each line of standard input is a JSON object, a turn: ``wire``, ``port``, ``seconds``, ``warm_up`` (seconds before
that, which don't count), and either ``concurrency`` (that many connections, each of which asks, waits, and asks
again) or ``rate`` (requests a second, arriving at random and independently of the answers, drawn from ``seed``). The
answer is a line of JSON. What it costs to ask is kept small: the bytes lie ready, HTTP answers are parsed by
``httptools``, nothing is decoded until the turn is over.
"""

import asyncio
import json
import resource
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(__file__).resolve().parent
# Python puts a script's folder first, where calibration.py would be taken for the package of the same name.
sys.path[:] = [str(FOLDER.parent), *(entry for entry in sys.path if Path(entry or ".").resolve() != FOLDER)]

from benchmarks.serving_wire import GRPC_METHOD, LENGTH, WIRES, Names, Reply, logits  # noqa: E402

Ask = Callable[[bytes], Awaitable[Reply]]

LIMIT = 30.0
"""Seconds after which a request counts as lost."""
READY = 16
"""Connections that are open before the first request of an open loop."""
MOST = 512
"""Requests under way at most in an open loop: a server that is this far behind doesn't keep up."""


class HttpConnection(asyncio.Protocol):
    """One HTTP/1.1 connection that is kept open, with one request under way at most.

    Attributes:
        closing: whether the server said that it ends the connection with this answer.
        closed: whether it is over.
    """

    def __init__(self) -> None:
        from httptools import HttpResponseParser

        self.closing = self.closed = False
        self._parser = HttpResponseParser(self)
        self._waiting: asyncio.Future[Reply] | None = None
        self._begin()

    def _begin(self) -> None:
        self._body: list[bytes] = []
        self._length: int | None = None

    @classmethod
    async def open(cls, port: int) -> "HttpConnection":
        _, connection = await asyncio.get_running_loop().create_connection(cls, "127.0.0.1", port)
        return connection

    def ask(self, request: bytes) -> "asyncio.Future[Reply]":
        """Send a request.

        Raises:
            ConnectionError: of the future: the connection ended before the answer did.
        """
        self._waiting = waiting = asyncio.get_running_loop().create_future()
        if self.closed:
            waiting.set_exception(ConnectionError("closed before it was asked"))
        else:
            self.transport.write(request)
        return waiting

    def close(self) -> None:
        self.transport.close()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def connection_lost(self, error: Exception | None) -> None:
        self.closed = True
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(ConnectionError(f"closed without an answer: {error}"))

    # What the parser calls.

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == LENGTH.lower().encode():
            self._length = int(value)
        elif name.lower() == b"connection" and value.lower() == b"close":
            self.closing = True

    def on_body(self, data: bytes) -> None:
        self._body.append(data)

    def on_message_complete(self) -> None:
        reply = Reply(self._parser.get_status_code(), b"".join(self._body), self._length)
        self._begin()
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(reply)


class GrpcConnection:
    """One gRPC channel with a connection of its own; messages go through as bytes."""

    def __init__(self, port: int) -> None:
        import grpc

        # Without a pool of its own a process shares one connection among all channels to an address.
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
        self._channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options)
        self._call = self._channel.unary_unary(GRPC_METHOD)
        self._failure = grpc.aio.AioRpcError

    @classmethod
    async def open(cls, port: int) -> "GrpcConnection":
        connection = cls(port)
        await asyncio.wait_for(connection._channel.channel_ready(), LIMIT)
        return connection

    async def ask(self, request: bytes, timeout: float | None = None) -> Reply:
        """Send a request; ``timeout`` is its deadline, which the server is told."""
        try:
            return Reply(200, await self._call(request, timeout=timeout))
        except self._failure as error:
            return Reply(-error.code().value[0], str(error.details()).encode())

    async def close(self) -> None:
        await self._channel.close()


async def closed_loop(
    opened: list[Any], requests: list[bytes], seconds: float, warm_up: float
) -> tuple[list[float], list[tuple[int, Reply]], dict[str, Any]]:
    """Every connection asks, waits, and asks again."""
    latencies: list[float] = []
    replies: list[tuple[int, Reply]] = []
    start = time.perf_counter() + warm_up
    end = start + seconds

    async def caller(number: int) -> None:
        turn, now = number, time.perf_counter()
        while now < end:
            which = turn % len(requests)
            reply = await asyncio.wait_for(opened[number].ask(requests[which]), LIMIT)
            began, now = now, time.perf_counter()
            replies.append((which, reply))
            if start <= now < end:
                latencies.append(now - began)
            # Another step for every caller, so that images don't meet in the same batches all the time.
            turn += 2 * number + 1

    await asyncio.gather(*(caller(number) for number in range(len(opened))))
    return latencies, replies, {"per_second": len(latencies) / seconds}


async def open_loop(
    connect: Callable[[], Awaitable[Any]],
    opened: list[Any],
    requests: list[bytes],
    rate: float,
    seconds: float,
    warm_up: float,
    seed: int,
) -> tuple[list[float], list[tuple[int, Reply]], dict[str, Any]]:
    """Requests arrive at random; their times count from when they were due, whatever held them up."""
    rng = np.random.default_rng(seed)
    gaps = rng.exponential(1 / rate, round((warm_up + seconds) * rate))
    latencies: list[float] = []
    replies: list[tuple[int, Reply]] = []
    lags: list[float] = []
    idle, under_way, refused = list(opened), set(), 0
    start = time.perf_counter()

    async def one(which: int, due: float) -> None:
        if not idle:
            fresh = await connect()
            opened.append(fresh)
        connection = idle.pop() if idle else fresh
        lags.append(time.perf_counter() - due)
        try:
            reply = await asyncio.wait_for(connection.ask(requests[which]), LIMIT)
        except ConnectionError:
            # Servers close what was idle for long, as while they were stopped: what is sent then is sent again.
            connection = await connect()
            opened.append(connection)
            reply = await asyncio.wait_for(connection.ask(requests[which]), LIMIT)
        replies.append((which, reply))
        if due >= start + warm_up:
            latencies.append(time.perf_counter() - due)
        idle.append(connection)

    due = start
    for number, gap in enumerate(gaps):
        due += gap
        if (ahead := due - time.perf_counter()) > 0:
            await asyncio.sleep(ahead)
        if len(under_way) >= MOST:
            refused += 1
            continue
        task = asyncio.ensure_future(one(number % len(requests), due))
        under_way.add(task)
        task.add_done_callback(under_way.discard)
    await asyncio.gather(*under_way)
    lag = float(np.quantile(lags, 0.99)) if lags else None
    return latencies, replies, {"rate": rate, "not_sent": refused, "connections": len(opened), "lag_p99": lag}


def wrong(wire: str, names: Names, replies: list[tuple[int, Reply]], expected: Any, tolerance: float) -> list[str]:
    """What is the matter with each answer that isn't the right one."""
    found = []
    for which, reply in replies:
        try:
            distance = float(np.abs(logits(wire, names, reply) - expected[which]).max())
        except (ValueError, KeyError, TypeError) as error:
            found.append(str(error))
            continue
        if not distance <= tolerance:
            found.append(f"image {which}: {distance} from the session's own answer")
    return found


async def turn(order: dict[str, Any], requests: list[bytes]) -> tuple[list[float], list[Any], dict[str, Any]]:
    kind = GrpcConnection if order["wire"] == "oip-grpc" else HttpConnection
    opened = [await kind.open(order["port"]) for _ in range(order.get("concurrency", READY))]
    try:
        if "rate" in order:
            return await open_loop(
                lambda: kind.open(order["port"]), opened, requests,
                order["rate"], order["seconds"], order["warm_up"], order["seed"],
            )  # fmt: skip
        return await closed_loop(opened, requests, order["seconds"], order["warm_up"])
    finally:
        for connection in opened:
            if (ended := connection.close()) is not None:
                await ended


def main() -> None:
    import uvloop

    images, expected, tolerance = np.load(sys.argv[1]), np.load(sys.argv[2]), float(sys.argv[3])
    names = Names(**json.loads(Path(sys.argv[4]).read_text()))
    prepared: dict[str, list[bytes]] = {}
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        for line in sys.stdin:
            order = json.loads(line)
            requests = prepared.setdefault(order["wire"], []) or prepared[order["wire"]]
            if not requests:
                requests.extend(WIRES[order["wire"]](names, images))
            before = resource.getrusage(resource.RUSAGE_SELF)
            try:
                latencies, replies, facts = runner.run(turn(order, requests))
            except (OSError, TimeoutError) as error:
                print(json.dumps({"failure": f"{type(error).__name__}: {error}"}), flush=True)
                continue
            after = resource.getrusage(resource.RUSAGE_SELF)
            spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            bad = wrong(order["wire"], names, replies, expected, tolerance)
            found = {"answers": len(replies), "counted": len(latencies), "wrong": len(bad), "examples": bad[:3]}
            found |= {f"p{cut}": float(np.quantile(latencies, cut / 100)) for cut in (50, 90, 99) if latencies}
            found |= facts | {"asking_cpu_seconds": spent, "latencies": latencies}
            print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
