"""What a server holds at once, whoever sends it."""

import contextlib
import gzip
import http.client
import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from engines.errors import InputError, Overloaded
from tests.toolkit.server.fronts import Fronts, channel, faked, held, opened, running, serving, until
from tests.toolkit.server.http.test_front import GOOD, INFER, ask, request_of
from tests.toolkit.server.processes import ROOT
from toolkit.server.front import Bodies
from toolkit.server.protocol.limits import Limits
from toolkit.server.settings import ServerSettings

METHOD = "/inference.GRPCInferenceService/ModelInfer"


def message_of(rows: int) -> bytes:
    request = service_pb2.ModelInferRequest(model_name="fake")
    request.inputs.add(name="input", datatype="FP32", shape=[rows, 4])
    request.raw_input_contents.append(bytes(16 * rows))
    return request.SerializeToString()


def infer(fronts: Fronts, body: bytes) -> int:
    return ask(fronts, "POST", INFER, body)[0]


def call(fronts: Fronts, message: bytes) -> str:
    with channel(fronts.grpc) as wire:
        try:
            wire.unary_unary(METHOD)(message, timeout=10)
        except grpc.RpcError as error:
            return str(error.code().name)
    return "OK"


def test_what_was_taken_is_given_back_and_one_by_itself_is_always_taken() -> None:
    bodies = Bodies(10)
    assert bodies.take(15) == 15
    assert bodies.take(5, 15) == 20
    with pytest.raises(Overloaded, match="try again"):
        bodies.take(1)
    bodies.give(20)
    assert (bodies.take(6), bodies.take(4), bodies.held) == (6, 4, 10)


@pytest.mark.parametrize("coding", [None, "gzip"])
@pytest.mark.parametrize("chunked", [False, True])
def test_bodies_are_bounded_in_sum_over_http(coding: str | None, chunked: bool) -> None:
    body = GOOD + b" " * 3000
    packed = gzip.compress(body) if coding else body
    headers = {"Content-Encoding": coding} if coding else {}
    with held(max_held=len(body)) as (fronts, batcher, gate):
        for turn in range(3):
            with contextlib.closing(http.client.HTTPConnection(fronts.http, timeout=10)) as connection:
                given = iter([packed[:20], packed[20:]]) if chunked else packed
                connection.request("POST", INFER, given, headers, encode_chunked=chunked)
                until(lambda turn=turn: batcher.stats().requests["accepted"] == 2 * turn + 1)
                status, reply, text = ask(fronts, "POST", INFER, body)
                assert status == 503
                assert reply["retry-after"]
                assert "at most" in json.loads(text)["error"]
                gate.set()
                assert connection.getresponse().status == 200
            assert infer(fronts, body) == 200  # everything was given back
            gate.clear()


def test_bodies_are_bounded_in_sum_over_grpc() -> None:
    message = message_of(1)
    with held(max_held=2 * len(message) - 1) as (fronts, batcher, gate):
        answers: list[str] = []
        first = threading.Thread(target=lambda: answers.append(call(fronts, message)))
        first.start()
        until(lambda: running(batcher))
        assert call(fronts, message) == "UNAVAILABLE"
        gate.set()
        first.join()
        assert answers == ["OK"]
        assert [call(fronts, message), call(fronts, message)] == ["OK", "OK"]


def test_who_went_away_holds_nothing() -> None:
    with held(max_held=4000) as (fronts, _, gate):
        for _ in range(4):
            connection = http.client.HTTPConnection(fronts.http, timeout=10)
            connection.request("POST", INFER, iter([GOOD, b" " * 2000]), {"Content-Length": "3900"})
            connection.close()
        gate.set()
        until(lambda: infer(fronts, GOOD + b" " * 3500) == 200)


def test_much_json_keeps_nobody_waiting() -> None:
    limits = Limits(max_body=64 << 20, max_elements=64 << 20)
    values = b"0.5," * 3_000_000
    body = b'{"inputs":[{"name":"input","datatype":"FP32","shape":[1,4],"data":[' + values + b"1]}]}"
    with serving(faked(), limits=limits) as fronts:
        answers: list[int] = []
        large = threading.Thread(target=lambda: answers.append(infer(fronts, body)))
        waits: list[float] = []
        large.start()
        while large.is_alive():
            began = time.monotonic()
            assert ask(fronts, "GET", "/v2/health/live")[0] == 200
            waits.append(time.monotonic() - began)
        assert answers == [400]
        assert len(waits) > 5
        assert infer(fronts, request_of(np.zeros((1, 4), np.float32)) + b" " * (2 << 20)) == 200


def test_clients_are_not_told_where_files_lie(tmp_path: Path) -> None:
    with serving(opened(tmp_path)) as fronts:
        (tmp_path / "tiny.onnx").write_bytes(b"no graph")
        status, _, body = ask(fronts, "POST", "/v2/repository/models/tiny/load")
        assert status == 400
        assert "'tiny.onnx'" in body.decode()
        assert str(tmp_path) not in body.decode()


def test_messages_do_not_repeat_what_is_long(fronts: Fronts) -> None:
    inputs = [{"name": f"{number}" * 4000, "datatype": "UINT8", "shape": [1], "data": [1]} for number in range(9)]
    status, _, body = ask(fronts, "POST", "/v2/models/tiny/infer", json.dumps({"inputs": inputs}).encode())
    assert status == 400
    assert len(body) < 2500


@pytest.mark.parametrize("name", ["drain_delay", "drain_timeout"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
def test_times_that_cannot_be_waited_for_are_refused(name: str, value: float) -> None:
    with pytest.raises(InputError, match=name.replace("_", "-")):
        ServerSettings(**{name: value})


def test_more_than_grpc_takes_is_as_much_as_it_takes() -> None:
    with serving(faked(), limits=Limits(max_body=1 << 40, max_elements=1 << 20)) as fronts:
        assert call(fronts, message_of(1)) == "OK"


@pytest.mark.parametrize("library", ["starlette", "orjson", "prometheus_client", "python_multipart", "tritonclient"])
def test_a_missing_library_is_told_before_anything_listens(tmp_path: Path, library: str) -> None:
    code = (
        f"import sys; sys.modules[{library!r}] = None\n"
        "from pathlib import Path\n"
        "from tests.toolkit.server.fronts import sources\n"
        "from toolkit.cli import main\n"
        "path = str(sources(Path(sys.argv[1]))[0].path)\n"
        "main(['serve', path, '--device', 'cpu', '--http-port', '0', '--grpc-port', '0'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=20, cwd=ROOT, check=False
    )
    assert done.returncode == 2, done.stderr
    assert library in done.stderr
    assert "Traceback" not in done.stderr
    assert "listening" not in done.stderr
