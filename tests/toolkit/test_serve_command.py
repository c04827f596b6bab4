"""``toolkit serve`` says what is wrong before it listens, and what it serves once it does."""

import http.client
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.toolkit.refusals import Refusal
from tests.toolkit.server.plane.models import write
from tests.toolkit.server.processes import PATIENCE, serving


@pytest.fixture
def taken() -> Iterator[str]:
    """A port at which somebody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield str(listener.getsockname()[1])


@pytest.mark.parametrize("front", ["http", "grpc"])
def test_a_port_in_use(tmp_path: Path, refused: Refusal, taken: str, front: str) -> None:
    write(tmp_path / "tiny.onnx")
    other = {"http": "grpc", "grpc": "http"}[front]
    said = refused("serve", "tiny.onnx", f"--{front}-port", taken, f"--{other}-port", "0")
    assert f"port {taken} of 127.0.0.1 is in use" in said
    assert f"--{front}-port 0" in said


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["gone.onnx"], "'gone.onnx' does not exist"),
        (["damaged.onnx"], "damaged.onnx"),
        (["text.engine"], "text.engine"),
        (["tiny.onnx", "other/tiny.onnx"], "two models would be called 'tiny'"),
        (["tiny.onnx", "--http-port", "-1", "--grpc-port", "-1"], "both fronts are off"),
        (["tiny.onnx", "--http-port", "9999", "--grpc-port", "9999"], "both fronts are to listen at port 9999"),
        (["tiny.onnx", "--http-port", "70000"], "70000"),
        (["tiny.onnx", "--host", "no.such.host.invalid"], "'no.such.host.invalid' is no address"),
        (["tiny.onnx", "--host", "192.0.2.1"], "'192.0.2.1' is no address of this machine"),
        (["tiny.onnx", "--max-body", "much"], "'much' is not a size"),
        (["tiny.onnx", "--max-body", "0"], "--max-body is 0"),
        (["tiny.onnx", "--token", "a b"], "no token"),
        (["tiny.onnx", "--token", ""], "nothing"),
        (["tiny.onnx", "--token-file", "gone"], "'gone' does not exist"),
        (["tiny.onnx", "--token-file", "empty"], "'empty' holds nothing"),
        (["tiny.onnx", "--token-file", "empty", "--token", "abc"], "given twice"),
        (["tiny.onnx", "--device", "tpu"], "tpu"),
        (["tiny.onnx", "--backend", "tensorrt"], "tensorrt"),
        (["tiny.onnx", "--instances", "0"], "0"),
        (["tiny.onnx", "--queue", "0"], "0"),
    ],
)
def test_what_can_not_be_served_is_refused(tmp_path: Path, refused: Refusal, arguments: list[str], says: str) -> None:
    graph = write(tmp_path / "tiny.onnx")
    (tmp_path / "other").mkdir()
    write(tmp_path / "other" / "tiny.onnx")
    (tmp_path / "damaged.onnx").write_bytes(graph.read_bytes()[:3000])
    (tmp_path / "text.engine").write_text("no engine")
    (tmp_path / "empty").write_text("\n")
    ports = [] if "9999" in arguments or "70000" in arguments or "-1" in arguments else ["0"]
    options = [one for port in ports for one in ("--http-port", port, "--grpc-port", port)]
    assert says in refused("serve", *arguments, *options)


def test_it_says_what_it_serves_and_asks_for_the_token(tmp_path: Path) -> None:
    first, second = write(tmp_path / "first.onnx"), write(tmp_path / "second.onnx", 1, metadata=None)
    (tmp_path / "token").write_text("secret\n")
    with serving(
        str(first), f"other={second}", "--token-file", str(tmp_path / "token"), "--instances", "2",
        "--max-batch", "8", "--access-log", "--drain-delay", "0",
    ) as server:  # fmt: skip
        assert [(one["name"], one["file"], one["max_batch"]) for one in server.said["models"]] == [
            ("first", "first.onnx", 8),
            ("other", "second.onnx", 8),
        ]
        assert server.said["pid"] == server.process.pid
        assert server.get("/v2/health/ready")[0] == 200
        assert server.get("/v2/models/first")[0] == 401
        connection = http.client.HTTPConnection(server.http, timeout=PATIENCE)
        connection.request("GET", "/v2/models/first", headers={"Authorization": "Bearer secret"})
        answer = connection.getresponse()
        assert (answer.status, b'"first"' in answer.read()) == (200, True)
        connection.close()
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
    told = "".join(server.errors)
    assert "classifier first: first.onnx on cpu (onnxruntime), 2 session(s), batches up to 8" in told
    assert "model other: second.onnx" in told
    assert server.said["http"] in told
    assert server.said["grpc"] in told
    assert "/v2/models/first" in told
    assert "secret" not in told
    assert "note:" not in told


@pytest.mark.parametrize(("token", "warned"), [([], True), (["--token", "secret"], False)])
def test_a_server_that_others_reach_without_a_token_is_warned_of(
    tmp_path: Path, token: list[str], warned: bool
) -> None:
    with serving(str(write(tmp_path / "tiny.onnx")), "--host", "0.0.0.0", "--drain-delay", "0", *token) as server:  # noqa: S104
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
    assert any("asks for no token" in line for line in server.errors) == warned
