"""``toolkit serve --ray``: the same protocol before replicas, which may die."""

import contextlib
import http.client
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from tests.toolkit.server.plane.models import answers, samples, write
from tests.toolkit.server.processes import MAIN, PATIENCE, Process, body_of, logits_of, serving, wait_until
from toolkit.cli import run

pytest.importorskip("ray")

BATCH = samples(16)
CLIENTS = 8


class Client(threading.Thread):
    """Asks one request after the other until it is told to end; each must have its own right answer."""

    def __init__(self, server: Process, number: int, expected: np.ndarray, end: threading.Event) -> None:
        super().__init__(daemon=True)
        self.server, self.at, self.expected, self.end = server, number, expected, end
        self.answered = 0
        self.wrong: list[str] = []

    def run(self) -> None:
        connection = http.client.HTTPConnection(self.server.http, timeout=PATIENCE)
        body, headers = body_of(BATCH[self.at : self.at + 1])
        while not self.end.is_set():
            connection.request("POST", "/v2/models/tiny/infer", body, headers)
            answer = connection.getresponse()
            content = answer.read()
            if answer.status != 200:
                self.wrong.append(f"{answer.status} {content!r}")
            elif not np.allclose(logits_of(answer, content, 1), self.expected[self.at], atol=1e-5):
                self.wrong.append("another's answer")
            self.answered += 1
        connection.close()


def replicas(graph: Path) -> set[int]:
    """The processes of the replicas that have this graph; Ray names them after what they are."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            ours = f"TOOLKIT_TEST={graph}".encode() in (folder / "environ").read_bytes()
            if ours and (folder / "cmdline").read_bytes().startswith(b"ray::ServeReplica:"):
                found.add(int(folder.name))
    return found


def accepted(server: Process) -> float:
    """Requests that replicas have accepted, as the metrics tell."""
    _, text = server.get("/metrics")
    lines = [line for line in text.decode().splitlines() if 'outcome="accepted"' in line]
    return float(lines[0].split()[-1]) if lines else 0.0


def test_requests_of_a_replica_that_is_killed_are_answered_by_another(tmp_path: Path) -> None:
    graph = write(tmp_path / "tiny.onnx")
    expected = answers(graph, BATCH)
    options = ("--ray", "--ray-replicas", "2", "--ray-cpus", "0", "--threads", "1", "--drain-delay", "0")
    with serving(str(graph), *options, RAY_ADDRESS="", TOOLKIT_TEST=str(graph)) as server:
        before = replicas(graph)
        assert len(before) == 2
        end = threading.Event()
        clients = [Client(server, number, expected, end) for number in range(CLIENTS)]
        for client in clients:
            client.start()
        wait_until(lambda: all(client.answered >= 10 for client in clients))
        victim = min(before)
        os.kill(victim, signal.SIGKILL)
        asked = [client.answered for client in clients]
        wait_until(lambda: all(client.answered >= one + 10 for client, one in zip(clients, asked, strict=True)))
        # The service is whole again, under load.
        wait_until(lambda: len(replicas(graph) - {victim}) == 2)
        asked = [client.answered for client in clients]
        wait_until(lambda: all(client.answered >= one + 10 for client, one in zip(clients, asked, strict=True)))
        seen = accepted(server)
        assert seen > 0

        # And it ends as it does without Ray.
        assert server.get("/v2/health/ready")[0] == 200
        end.set()
        for client in clients:
            client.join(PATIENCE)
            assert client.wrong == []
        wait_until(lambda: accepted(server) > seen)
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        wait_until(lambda: not replicas(graph) & before)
    assert [line for line in server.errors if "Traceback" in line or "ray" in line.lower()] == []


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--ray-replicas", "2"], "nothing says to use it"),
        (["--ray", "--ray-replicas", "two"], "no number of replicas"),
        (["--ray", "--ray-replicas", "4:2"], "the smaller number first"),
    ],
)
def test_what_makes_no_sense_is_said(
    options: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    graph = write(tmp_path / "tiny.onnx")
    assert run(["serve", str(graph), *options]) == 2
    assert says in capsys.readouterr().err


def test_more_gpus_than_there_are_is_said(tmp_path: Path) -> None:
    graph = write(tmp_path / "tiny.onnx")
    command = [sys.executable, "-c", MAIN, "serve", str(graph), "--ray", "--ray-gpus", "99", "--http-port", "0"]
    done = subprocess.run(
        [*command, "--grpc-port", "0"], capture_output=True, text=True, check=False,
        env={**os.environ, "RAY_ADDRESS": ""}, timeout=PATIENCE * 3,
    )  # fmt: skip
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 2, done.stderr
    assert "1 replicas with 99.0 GPUs each need more than" in done.stderr
