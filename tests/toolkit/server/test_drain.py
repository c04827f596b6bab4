"""A server that is told to end under load answers what it was sent."""

import http.client
import queue
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from tests.toolkit.server.plane.models import answers, samples, write
from tests.toolkit.server.processes import (
    PATIENCE,
    Process,
    body_of,
    logits_of,
    ready_is_refused,
    serving,
    wait_until,
)

BATCH = samples(16)


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("served") / "tiny.onnx")


@pytest.fixture(scope="module")
def expected(graph: Path) -> np.ndarray:
    return answers(graph, BATCH)


class Client(threading.Thread):
    """Asks over HTTP until nobody listens any more.

    One with an even number keeps its connection as long as the server does; the others take a new one each time.
    """

    def __init__(self, server: Process, number: int, expected: np.ndarray) -> None:
        super().__init__(daemon=True)
        self.server, self.number, self.expected = server, number, expected
        self.answered = 0
        self.told_to_go = False
        self.lost: list[str] = []

    def run(self) -> None:
        connection: http.client.HTTPConnection | None = None
        at = self.number % len(BATCH)
        body, headers = body_of(BATCH[at : at + 1])
        while True:
            fresh = connection is None
            if connection is None:
                connection = http.client.HTTPConnection(self.server.http, timeout=PATIENCE)
                try:
                    connection.connect()
                except ConnectionRefusedError:
                    return
            try:
                connection.request("POST", "/v2/models/tiny/infer", body, headers)
                answer = connection.getresponse()
                found = answer.read()
            except OSError as error:
                self.lost.append(f"{type(error).__name__} on a {'new' if fresh else 'kept'} connection: {error}")
                return
            if answer.status != 200:
                self.lost.append(f"{answer.status} {found!r}")
                return
            if not np.allclose(logits_of(answer, found, 1)[0], self.expected[at], rtol=1e-3, atol=1e-4):
                self.lost.append("a wrong answer")
                return
            self.answered += 1
            self.told_to_go |= answer.will_close
            if answer.will_close or self.number % 2:
                connection.close()
                connection = None


def test_a_drain_under_load_loses_no_request_over_http(graph: Path, expected: np.ndarray) -> None:
    with serving(str(graph), "--threads", "1", "--drain-delay", "0.5") as server:
        clients = [Client(server, number, expected) for number in range(16)]
        for client in clients:
            client.start()
        wait_until(lambda: all(client.answered > 3 for client in clients))
        server.signal(signal.SIGTERM)
        wait_until(lambda: ready_is_refused(server))
        for client in clients:
            client.join(PATIENCE)
        assert server.wait() == 0
    assert [client.lost for client in clients] == [[]] * 16
    assert all(client.told_to_go for client in clients)
    assert not any("Traceback" in line for line in server.errors), server.errors


def test_a_drain_under_load_loses_no_request_over_grpc(graph: Path, expected: np.ndarray) -> None:
    import tritonclient.grpc as client
    from tritonclient.utils import InferenceServerException

    answered, lost = [0] * 8, []

    def ask(number: int) -> None:
        tensor = client.InferInput("input", [1, 3, 16, 16], "FP32")
        tensor.set_data_from_numpy(BATCH[number : number + 1])
        with client.InferenceServerClient(server.grpc) as asked:
            while True:
                try:
                    found = asked.infer("tiny", [tensor]).as_numpy("logits")
                except InferenceServerException as error:
                    # Nobody listens there any more: it was never accepted.
                    if "onnection refused" not in str(error) and "GOAWAY" not in str(error):
                        lost.append(str(error))
                    return
                if not np.allclose(found[0], expected[number], rtol=1e-3, atol=1e-4):
                    lost.append("a wrong answer")
                answered[number] += 1

    with serving(str(graph), "--threads", "1", "--drain-delay", "0.3") as server:
        threads = [threading.Thread(target=ask, args=(number,), daemon=True) for number in range(8)]
        for thread in threads:
            thread.start()
        wait_until(lambda: min(answered) > 3)
        server.signal(signal.SIGINT)
        for thread in threads:
            thread.join(PATIENCE)
        assert server.wait() == 0
    assert lost == []
    assert not any("Traceback" in line for line in server.errors), server.errors


def test_a_client_that_never_ends_its_request_holds_the_end_up_for_so_long_and_no_longer(graph: Path) -> None:
    with serving(str(graph), "--drain-delay", "0", "--drain-timeout", "0.5") as server:
        body, headers = body_of(BATCH[:1])
        connection = http.client.HTTPConnection(server.http, timeout=PATIENCE)
        connection.putrequest("POST", "/v2/models/tiny/infer")
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            connection.putheader(name, value)
        connection.endheaders()
        connection.send(body[:100])
        assert server.get("/v2/health/live")[0] == 200
        began = time.monotonic()
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert time.monotonic() - began < PATIENCE / 2
        connection.close()
    assert any("given up" in line for line in server.errors)


def test_streams_end_once_nothing_is_asked_over_them(graph: Path, expected: np.ndarray) -> None:
    import tritonclient.grpc as client

    def told(result: client.InferResult | None, error: Exception | None) -> None:
        answers.put(error if error is not None else result.as_numpy("logits"))

    answers: queue.Queue[Exception | np.ndarray] = queue.Queue()
    tensor = client.InferInput("input", [16, 3, 16, 16], "FP32")
    tensor.set_data_from_numpy(BATCH)
    with (
        serving(str(graph), "--threads", "1", "--drain-delay", "0") as server,
        client.InferenceServerClient(server.grpc) as asking,
    ):
        asking.start_stream(told)
        for _ in range(20):
            asking.async_stream_infer("tiny", [tensor])
        began = time.monotonic()
        np.testing.assert_allclose(answers.get(timeout=PATIENCE), expected, rtol=1e-3, atol=1e-4)
        server.signal(signal.SIGTERM)
        for _ in range(19):
            np.testing.assert_allclose(answers.get(timeout=PATIENCE), expected, rtol=1e-3, atol=1e-4)
        assert server.wait() == 0
        # Long before the time is up that requests get.
        assert time.monotonic() - began < 15
    assert not any("Traceback" in line or "given up" in line for line in server.errors), server.errors
