"""``toolkit serve`` in a process of its own, and what asks it."""

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from engines.tensors import Array

PATIENCE = 20
"""Seconds after which a test that waits for a process fails."""

MAIN = "import sys; from toolkit.cli import main; main(sys.argv[1:])"
ROOT = Path(__file__).resolve().parents[3]


@dataclass
class Process:
    """A server that listens.

    Attributes:
        said: what it printed as JSON.
        http: its HTTP address without the scheme; "" for no such front.
        grpc: its gRPC address.
        errors: lines of its standard error so far.
    """

    process: "subprocess.Popen[str]"
    said: dict[str, Any]
    errors: list[str] = field(default_factory=list)
    reader: threading.Thread | None = None

    @property
    def http(self) -> str:
        return (self.said["http"] or "").removeprefix("http://")

    @property
    def grpc(self) -> str:
        return str(self.said["grpc"])

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self) -> int:
        """The exit code, once it has ended."""
        code = self.process.wait(PATIENCE)
        if self.reader is not None:
            self.reader.join(PATIENCE)
        return code

    def get(self, path: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(self.http, timeout=PATIENCE)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()


@contextmanager
def serving(*arguments: str, last: Sequence[str] = (), **environment: str) -> Iterator[Process]:
    """A server on free ports; killed at the end if it still runs.

    Args:
        arguments: of the command; ``last`` come behind those for the ports.
        environment: variables besides those of the test.
    """
    process = subprocess.Popen(
        [sys.executable, "-c", MAIN, "serve", *arguments, "--http-port", "0", "--grpc-port", "0", "--json", *last],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
        env={**os.environ, **environment},
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None
    errors: list[str] = []
    reader = threading.Thread(target=lambda: errors.extend(process.stderr or ()), daemon=True)
    reader.start()
    try:
        line = process.stdout.readline()
        assert line, "".join(errors)
        yield Process(process, json.loads(line), errors, reader)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(PATIENCE)
        reader.join(PATIENCE)
        process.stdout.close()
        process.stderr.close()


def body_of(batch: Array) -> tuple[bytes, dict[str, str]]:
    """An inference request with binary data, and its headers."""
    shape, size = list(batch.shape), batch.nbytes
    head = json.dumps(
        {
            "inputs": [
                {"name": "input", "datatype": "FP32", "shape": shape, "parameters": {"binary_data_size": size}}
            ],
            "parameters": {"binary_data_output": True},
        }
    ).encode()
    return head + batch.tobytes(), {
        "Content-Type": "application/octet-stream",
        "Inference-Header-Content-Length": str(len(head)),
    }


def logits_of(answer: http.client.HTTPResponse, body: bytes, samples: int) -> Array:
    """The logits, float32 [samples, classes]."""
    at = int(answer.headers["Inference-Header-Content-Length"])
    return np.frombuffer(body[at:], np.float32).reshape(samples, -1)


def ready_is_refused(server: Process) -> bool:
    """Whether the server says that it isn't ready, or says nothing any more."""
    try:
        return server.get("/v2/health/ready")[0] != 200
    except OSError:
        return True


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for what a process brings about."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it didn't come about"
        time.sleep(0.02)
