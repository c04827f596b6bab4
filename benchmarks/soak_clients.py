"""What clients of a soak do, good and bad, and what each must be answered."""

import asyncio
import json
import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.serving_load import GrpcConnection, HttpConnection
from benchmarks.serving_wire import Reply, post
from benchmarks.soak_model import WIDTH
from benchmarks.soak_requests import INFER, binary_request, grpc_outputs, http_outputs, json_request, message

LIMIT = 30.0
"""Seconds after which a request hangs."""
MAX_BODY = 1 << 20
GRPC = {"INVALID_ARGUMENT": -3, "DEADLINE_EXCEEDED": -4, "NOT_FOUND": -5, "RESOURCE_EXHAUSTED": -8}


@dataclass
class Tally:
    """What has been found so far.

    Attributes:
        outcomes: by kind and status, how often.
        problems: what should not have been, in words; each is one request.
        written: the newest version of the model that was put in place.
        seen: the newest that answered: whoever asks after that gets no older one.
        disturbed: whether everything that is to happen to the server has happened.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    written: int = 1
    seen: int = 1
    disturbed: bool = False

    def note(self, kind: str, status: object) -> None:
        self.outcomes[f"{kind}: {status}"] += 1

    def total(self) -> int:
        return sum(self.outcomes.values())


class Client:
    """One of many: it asks one request after the other, each at random of one kind.

    Args:
        number: of the client; part of every input, so that answers can't be mixed up unseen.
        ports: of HTTP and gRPC.
        tally: everybody's.
    """

    def __init__(self, number: int, ports: tuple[int, int], tally: Tally) -> None:
        self.number, self.ports, self.tally = number, ports, tally
        self._random = random.Random(number)  # noqa: S311 - the same requests each time
        self._asked = self._turns = 0
        self._http: HttpConnection | None = None
        self._grpc: GrpcConnection | None = None

    async def run(self, requests: int) -> None:
        """Ask ``requests`` times, and then until the server isn't to be disturbed any more."""
        kinds = [getattr(self, name) for name in KINDS]
        while self._turns < requests or not self.tally.disturbed:
            self._turns += 1
            kind = self._random.choices(kinds, list(KINDS.values()))[0]
            name = kind.__name__
            try:
                status = await asyncio.wait_for(kind(), LIMIT)
            except TimeoutError:
                status = "hung"
                await self._drop()
            except (OSError, ValueError, KeyError, AssertionError) as error:
                status = f"{type(error).__name__}: {error}"
                await self._drop()
            if isinstance(status, str) and status not in FINE:
                self.tally.problems.append(f"{name} of client {self.number}: {status[:300]}")
                status = "problem"
            self.tally.note(name, status)
        await self._drop()

    # ---- what is asked rightly

    async def http_binary(self) -> int:
        return await self._right_by_http(binary=True)

    async def http_json(self) -> int:
        return await self._right_by_http(binary=False)

    async def grpc(self) -> int:
        return await self._right_by_grpc(None)

    async def http_in_time(self) -> int:
        return await self._right_by_http(binary=True, parameters={"timeout": 20_000_000})

    async def grpc_in_time(self) -> int:
        return await self._right_by_grpc(20.0)

    async def http_more_than_a_batch(self) -> int:
        return await self._right_by_http(binary=True, rows=20)

    # ---- what can't be answered in time, or isn't waited for

    async def http_hurried(self) -> int:
        late = {"timeout": self._random.randrange(1, 3000)}
        return await self._right_by_http(binary=True, parameters=late, otherwise=504)

    async def grpc_hurried(self) -> int:
        return await self._right_by_grpc(self._random.uniform(1e-4, 3e-3), otherwise=GRPC["DEADLINE_EXCEEDED"])

    async def http_gone(self) -> str:
        connection = await HttpConnection.open(self.ports[0])
        waiting = connection.ask(binary_request(self._rows(1)))
        await asyncio.sleep(self._random.uniform(0, 2e-3))
        connection.close()
        await asyncio.wait([waiting])
        waiting.exception()  # it may even have been answered
        return "gone"

    async def grpc_cancelled(self) -> str:
        task = asyncio.ensure_future((await self._rpc()).ask(message(self._rows(1))))
        await asyncio.sleep(self._random.uniform(0, 2e-3))
        task.cancel()
        await asyncio.wait([task])
        return "cancelled"

    # ---- what is asked wrongly

    async def http_wrong_shape(self) -> int:
        return await self._wrong_by_http(binary_request(np.zeros((2, WIDTH + 1), np.float32)), 400)

    async def http_wrong_type(self) -> int:
        return await self._wrong_by_http(binary_request(self._rows(2), datatype="INT32"), 400)

    async def http_wrong_name(self) -> int:
        return await self._wrong_by_http(binary_request(self._rows(1), name="y"), 400)

    async def http_no_rows(self) -> int:
        return await self._wrong_by_http(binary_request(np.zeros((0, WIDTH), np.float32)), 400)

    async def http_no_model(self) -> int:
        return await self._wrong_by_http(binary_request(self._rows(1), path="/v2/models/nobody/infer"), 404)

    async def http_no_json(self) -> int:
        text = self._random.choice((b"{", b"\xff\xfe", b"[1, 2", b"{}" * 9, b'{"inputs": 3}', b"[" * 5000, b""))
        return await self._wrong_by_http(post(INFER, text, "Content-Type: application/json"), 400)

    async def http_cut_short(self) -> int:
        return await self._wrong_by_http(binary_request(self._rows(3), missing=7), 400)

    async def http_wrong_length(self) -> int:
        length = self._random.choice(("-1", "999999", "x", "0", "3"))
        return await self._wrong_by_http(binary_request(self._rows(1), length=length), 400)

    async def http_too_large(self) -> int:
        request = f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {MAX_BODY + 1}\r\n\r\n"
        return await self._wrong_by_http(request.encode() + bytes(100), 413, fresh=True)

    async def http_too_large_in_chunks(self) -> int:
        head = f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
        chunk = b"10000\r\n" + bytes(0x10000) + b"\r\n"
        return await self._wrong_by_http(head + chunk * (MAX_BODY // 0x10000 + 1), 413, fresh=True)

    async def http_half(self) -> str:
        request = binary_request(self._rows(2))
        connection = await HttpConnection.open(self.ports[0])
        waiting = connection.ask(request[: self._random.randrange(1, len(request))])
        await asyncio.sleep(1e-3)
        connection.close()
        await asyncio.wait([waiting])
        assert waiting.exception() is not None, "half a request was answered"
        return "gone"

    async def no_http(self) -> int:
        noise = bytes(self._random.choices(range(128, 256), k=64)) + b"\r\n\r\n"
        return await self._wrong_by_http(noise, 400, fresh=True, typed=False)

    async def grpc_wrong_shape(self) -> int:
        request = message(np.zeros((2, WIDTH + 1), np.float32))
        return await self._wrong_by_grpc(request, "INVALID_ARGUMENT")

    async def grpc_no_model(self) -> int:
        return await self._wrong_by_grpc(message(self._rows(1), model="nobody"), "NOT_FOUND")

    async def grpc_cut_short(self) -> int:
        return await self._wrong_by_grpc(message(self._rows(2), missing=5), "INVALID_ARGUMENT")

    async def grpc_too_large(self) -> int:
        return await self._wrong_by_grpc(message(np.zeros((MAX_BODY // 8, WIDTH), np.float32)), "RESOURCE_EXHAUSTED")

    # ---- asking and checking

    def _rows(self, rows: int) -> Any:
        """Inputs that nobody else asks, float32 [rows, 4]."""
        self._asked += 1
        noise = self._random.randrange(1 << 20)
        return np.array([[self.number, self._asked, row, noise ^ row] for row in range(rows)], np.float32)

    async def _right_by_http(
        self, *, binary: bool, parameters: dict[str, Any] | None = None, rows: int = 0, otherwise: int = 200
    ) -> int:
        sent, seen = self._rows(rows or self._random.randint(1, 8)), self.tally.seen
        make = binary_request if binary else json_request
        reply = await (await self._connection()).ask(make(sent, parameters=parameters))
        if reply.status == otherwise != 200:
            self._typed(reply)
        else:
            assert reply.status == 200, f"status {reply.status}: {reply.body[:200]!r}"
            self._right(sent, seen, http_outputs(reply))
        return reply.status

    async def _right_by_grpc(self, limit: float | None, otherwise: int = 200) -> int:
        sent, seen = self._rows(self._random.randint(1, 8)), self.tally.seen
        reply = await (await self._rpc()).ask(message(sent), limit)
        if reply.status != otherwise or otherwise == 200:
            assert reply.status == 200, f"code {-reply.status}: {reply.body[:200]!r}"
            self._right(sent, seen, grpc_outputs(reply.body))
        return reply.status

    def _right(self, sent: Any, seen: int, outputs: dict[str, Any]) -> None:
        """Hold an answer against its question.

        Raises:
            AssertionError: it isn't the answer to this one, or of a version that was replaced before it was asked.
        """
        assert np.array_equal(outputs["echo"].reshape(-1, WIDTH), sent), "somebody else's answer"
        assert np.array_equal(outputs["sum"].ravel(), sent.sum(axis=1)), "a wrong sum"
        versions = {int(value) for value in outputs["version"].ravel()}
        assert len(versions) == 1, f"versions {versions} in one answer"
        assert versions <= set(range(seen, self.tally.written + 1)), f"versions {versions}, after {seen} had answered"
        self.tally.seen = max(self.tally.seen, *versions)

    async def _wrong_by_http(self, request: bytes, status: int, *, fresh: bool = False, typed: bool = True) -> int:
        connection = await (HttpConnection.open(self.ports[0]) if fresh else self._connection())
        try:
            reply = await connection.ask(request)
        finally:
            if fresh:
                connection.close()
        assert reply.status == status, f"status {reply.status}, not {status}: {reply.body[:200]!r}"
        if typed:
            self._typed(reply)
        return reply.status

    async def _wrong_by_grpc(self, request: bytes, code: str) -> int:
        reply = await (await self._rpc()).ask(request)
        assert reply.status == GRPC[code], f"code {-reply.status}, not {code}: {reply.body[:200]!r}"
        assert reply.body, "an error without a message"
        return reply.status

    def _typed(self, reply: Reply) -> None:
        found = json.loads(reply.body)
        assert isinstance(found, dict), f"no object: {reply.body[:200]!r}"
        assert isinstance(found.get("error"), str), f"no message: {reply.body[:200]!r}"
        assert found["error"], "an empty message"
        assert "Traceback" not in found["error"], found["error"]

    async def _connection(self) -> HttpConnection:
        if self._http is None or self._http.closed or self._http.closing:
            if self._http is not None:
                self._http.close()
            self._http = await HttpConnection.open(self.ports[0])
        return self._http

    async def _rpc(self) -> GrpcConnection:
        if self._grpc is None:
            self._grpc = await GrpcConnection.open(self.ports[1])
        return self._grpc

    async def _drop(self) -> None:
        if self._http is not None:
            self._http.close()
        if self._grpc is not None:
            await self._grpc.close()
        self._http = self._grpc = None


KINDS = {
    "http_binary": 30, "http_json": 10, "grpc": 20, "http_in_time": 4, "grpc_in_time": 4, "http_more_than_a_batch": 3,
    "http_hurried": 3, "grpc_hurried": 3, "http_gone": 3, "grpc_cancelled": 3,
    "http_wrong_shape": 1, "http_wrong_type": 1, "http_wrong_name": 1, "http_no_rows": 1, "http_no_model": 1,
    "http_no_json": 2, "http_cut_short": 1, "http_wrong_length": 1, "http_too_large": 1,
    "http_too_large_in_chunks": 0.5, "http_half": 1, "no_http": 1,
    "grpc_wrong_shape": 1, "grpc_no_model": 1, "grpc_cut_short": 1, "grpc_too_large": 0.5,
}  # fmt: skip
"""Kinds of requests, methods of :class:`Client`, and how often each is, relative to the others."""
FINE = {"gone", "cancelled"}
