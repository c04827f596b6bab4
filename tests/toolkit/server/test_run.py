"""A server's life: it starts, answers, opens replaced files, and ends."""

import http.client
import signal
import socket
from pathlib import Path

import numpy as np
import pytest

from tests.toolkit.server.plane.models import answers, samples, write
from tests.toolkit.server.processes import PATIENCE, body_of, logits_of, ready_is_refused, serving, wait_until

BATCH = samples(16)


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("served") / "tiny.onnx")


@pytest.fixture(scope="module")
def expected(graph: Path) -> np.ndarray:
    return answers(graph, BATCH)


def test_a_second_signal_ends_at_once(graph: Path) -> None:
    with serving(str(graph), "--drain-delay", "600") as server:
        server.signal(signal.SIGTERM)
        wait_until(lambda: ready_is_refused(server))
        server.signal(signal.SIGINT)
        assert server.wait() == -signal.SIGINT


def test_a_hangup_and_a_replaced_file_are_opened_and_answers_change(tmp_path: Path) -> None:
    path = write(tmp_path / "tiny.onnx")
    with serving(str(path), "--drain-delay", "0") as server:
        server.signal(signal.SIGHUP)
        wait_until(lambda: b'reloads_total{model="tiny",outcome="succeeded"} 1.0' in server.get("/metrics")[1])
        write(path, 1)
        wait_until(lambda: b'reloads_total{model="tiny",outcome="succeeded"} 2.0' in server.get("/metrics")[1])
        body, headers = body_of(BATCH)
        connection = http.client.HTTPConnection(server.http, timeout=PATIENCE)
        connection.request("POST", "/v2/models/tiny/infer", body, headers)
        answer = connection.getresponse()
        np.testing.assert_allclose(
            logits_of(answer, answer.read(), len(BATCH)), answers(path, BATCH), rtol=1e-3, atol=1e-4
        )
        connection.close()
        server.signal(signal.SIGTERM)
        assert server.wait() == 0


def test_without_uvloop_and_watchfiles_it_serves_the_same(tmp_path: Path) -> None:
    (tmp_path / "shadow").mkdir()
    for name in ("uvloop", "watchfiles"):
        (tmp_path / "shadow" / f"{name}.py").write_text("raise ImportError")
    path = write(tmp_path / "tiny.onnx")
    with serving(str(path), "--drain-delay", "0", PYTHONPATH=str(tmp_path / "shadow")) as server:
        assert server.get("/v2/health/ready")[0] == 200
        write(path, 1)
        wait_until(lambda: b'reloads_total{model="tiny",outcome="succeeded"} 1.0' in server.get("/metrics")[1])
        server.signal(signal.SIGTERM)
        assert server.wait() == 0


@pytest.mark.parametrize("front", ["--http-port", "--grpc-port"])
def test_a_front_may_be_off(graph: Path, front: str) -> None:
    with serving(str(graph), "--drain-delay", "0", last=[front, "-1"]) as server:
        assert (server.said["http"] is None) == (front == "--http-port")
        assert (server.said["grpc"] is None) == (front == "--grpc-port")
        if server.http:
            assert server.get("/v2/health/ready")[0] == 200
        else:
            host, port = server.grpc.rsplit(":", 1)
            socket.create_connection((host, int(port)), PATIENCE).close()
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
