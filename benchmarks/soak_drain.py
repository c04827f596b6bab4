"""SIGTERM under load: every request that was sent is answered, whenever the signal comes.

Clients ask over connections that stay open, one request after the other, until the server says that a connection
ends. A request is lost where it was sent and its connection ended without an answer, or gRPC gave it up halfway; one
that wasn't sent because the server listens no more isn't.
"""

import asyncio
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.serving_load import GrpcConnection, HttpConnection
from benchmarks.soak_clients import LIMIT
from benchmarks.soak_model import WIDTH
from benchmarks.soak_requests import binary_request, grpc_outputs, http_outputs, message

UNAVAILABLE = -14
NOT_SENT = (b"failed to connect", b"the server is ending")
"""What gRPC says of a request that it couldn't send, and the server of one that it doesn't take."""
REFUSED = "refused"
ENDED = 60.0
"""Seconds that the server gets to end."""


async def http_client(number: int, port: int, outcomes: Counter[str]) -> None:
    """Ask until the connection ends; open another one as long as that works."""
    asked = 0
    while True:
        try:
            connection = await asyncio.wait_for(HttpConnection.open(port), LIMIT)
        except OSError:
            outcomes[f"{REFUSED} over HTTP"] += 1
            return
        while not (connection.closed or connection.closing):
            asked += 1
            rows = np.array([[number, asked, 0, 0]], np.float32)
            try:
                reply = await asyncio.wait_for(connection.ask(binary_request(rows)), LIMIT)
            except ConnectionError as error:
                # Sent, and closed: whether the server had read it can't be told from here.
                outcomes[f"lost over HTTP: {error}"] += 1
                break
            except TimeoutError:
                outcomes["lost over HTTP: hung"] += 1
                break
            if reply.status == 200 and np.array_equal(http_outputs(reply)["echo"].reshape(-1, WIDTH), rows):
                outcomes["answered"] += 1
            elif reply.status == 503:
                outcomes["turned away"] += 1
            else:
                outcomes[f"lost over HTTP: status {reply.status}"] += 1
        connection.close()


async def grpc_client(number: int, port: int, outcomes: Counter[str]) -> None:
    """Ask until the server takes no more."""
    connection, asked = await GrpcConnection.open(port), 0
    try:
        while True:
            asked += 1
            rows = np.array([[number, asked, 0, 0]], np.float32)
            reply = await asyncio.wait_for(connection.ask(message(rows)), LIMIT)
            if reply.status == 200 and np.array_equal(grpc_outputs(reply.body)["echo"].reshape(-1, WIDTH), rows):
                outcomes["answered"] += 1
                continue
            if reply.status == UNAVAILABLE and any(word in reply.body for word in NOT_SENT):
                outcomes[f"{REFUSED} over gRPC: {reply.body[:60].decode()}"] += 1
            else:
                outcomes[f"lost over gRPC: {reply.status} {reply.body[:80]!r}"] += 1
            return
    except TimeoutError:
        outcomes["lost over gRPC: hung"] += 1
    finally:
        await connection.close()


async def drain(running: Any, clients: int, after: float) -> dict[str, Any]:
    """Half of the clients over HTTP, half over gRPC; the signal comes ``after`` seconds."""
    outcomes: Counter[str] = Counter()
    over_http, over_grpc = running.ports
    tasks = [
        asyncio.ensure_future(
            http_client(number, over_http, outcomes) if number % 2 else grpc_client(number, over_grpc, outcomes)
        )
        for number in range(clients)
    ]
    await asyncio.sleep(after)
    running.process.terminate()
    began = time.perf_counter()
    await asyncio.gather(*tasks)
    code = await asyncio.to_thread(running.process.wait, ENDED)
    lost = sum(count for outcome, count in outcomes.items() if outcome.startswith("lost"))
    return {
        "clients": clients,
        "signal_after": after,
        "seconds_to_end": time.perf_counter() - began,
        "exit_code": code,
        "answered": outcomes["answered"],
        "lost": lost,
        "outcomes": dict(sorted(outcomes.items())),
    }


def run_drains(count: int, clients: int, delay: float = 0.02, after: float = 1.0) -> list[dict[str, Any]]:
    """Servers, one after the other, that end under load; runs of ``delay`` seconds keep requests in the queue."""
    from benchmarks.soak import server

    found = []
    for number in range(count):
        with (
            tempfile.TemporaryDirectory(prefix="drain-") as name,
            server(Path(name), "--drain-delay", "0.3", delay=delay) as running,
        ):
            # Another moment each time.
            found.append(asyncio.run(drain(running, clients, after + number * delay / count)))
    return found
