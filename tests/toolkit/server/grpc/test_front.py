"""What the gRPC front does besides answering: lets in, refuses, ends calls that nobody waits for."""

import asyncio
import logging
import queue
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException

from tests.toolkit.server.fronts import LIMITS, Fronts, channel, faked, held, running, serving, until
from toolkit.server.plane.plane import DataPlane
from toolkit.server.protocol.messages import InferRequest, InferResponse

PATH = "/inference.GRPCInferenceService/"
INFER = PATH + "ModelInfer"
SAMPLE = np.float32([[1, 2, 3, 4]])


def request_of(array: np.ndarray = SAMPLE, model: str = "fake") -> service_pb2.ModelInferRequest:
    message = service_pb2.ModelInferRequest(model_name=model, raw_input_contents=[array.tobytes()])
    message.inputs.add(name="input", datatype="FP32", shape=array.shape)
    return message


def call(fronts: Fronts, path: str, message: bytes, **options: Any) -> bytes:
    """One call with bytes in and out."""
    with channel(fronts.grpc, **{"grpc.max_send_message_length": -1}) as wire:
        answer: bytes = wire.unary_unary(path)(message, timeout=10, **options)
        return answer


def refusal(fronts: Fronts, path: str, message: bytes, **options: Any) -> tuple[grpc.StatusCode, str, dict[str, str]]:
    with pytest.raises(grpc.RpcError) as caught:
        call(fronts, path, message, **options)
    return caught.value.code(), caught.value.details(), dict(caught.value.trailing_metadata())


GOOD = request_of().SerializeToString()


@pytest.fixture(scope="module")
def fake() -> Iterator[Fronts]:
    with serving(faked()) as fronts:
        yield fronts


def test_a_token_guards_all_but_health() -> None:
    with serving(faked(), token="secret") as fronts:  # noqa: S106
        assert service_pb2.ServerReadyResponse.FromString(call(fronts, PATH + "ServerReady", b"")).ready
        assert service_pb2.ServerLiveResponse.FromString(call(fronts, PATH + "ServerLive", b"")).live
        assert call(fronts, "/grpc.health.v1.Health/Check", b"") == b"\x08\x01"
        for path, message in ((INFER, GOOD), (PATH + "ServerMetadata", b""), (PATH + "ModelReady", b"")):
            for metadata in ((), (("authorization", "Bearer wrong"),), (("authorization", "secret"),)):
                code, details, _ = refusal(fronts, path, message, metadata=metadata)
                assert code is grpc.StatusCode.UNAUTHENTICATED
                assert "token" in details
        right = (("authorization", "Bearer secret"),)
        assert call(fronts, INFER, GOOD, metadata=right)
        with channel(fronts.grpc) as wire:
            stream = wire.stream_stream(PATH + "ModelStreamInfer")
            with pytest.raises(grpc.RpcError) as caught:
                list(stream(iter([GOOD]), timeout=10))
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
            assert len(list(stream(iter([GOOD]), timeout=10, metadata=right))) == 1
        with triton.InferenceServerClient(fronts.grpc) as client:
            assert client.get_server_metadata(headers={"authorization": "Bearer secret"}).name


def test_the_standard_health_check_follows_readiness() -> None:
    plane = faked()
    with serving(plane) as fronts:
        check = "/grpc.health.v1.Health/Check"
        name = b"inference.GRPCInferenceService"
        assert call(fronts, check, b"") == call(fronts, check, b"\x0a" + bytes([len(name)]) + name) == b"\x08\x01"
        assert refusal(fronts, check, b"\x0a\x04what")[0] is grpc.StatusCode.NOT_FOUND
        plane.gate.drain()
        assert call(fronts, check, b"") == b"\x08\x02"
        assert not service_pb2.ServerReadyResponse.FromString(call(fronts, PATH + "ServerReady", b"")).ready
        assert call(fronts, INFER, GOOD)


def test_unknown_methods_and_bytes_that_are_no_message_are_refused(fake: Fronts) -> None:
    assert refusal(fake, PATH + "Nothing", b"")[0] is grpc.StatusCode.UNIMPLEMENTED
    assert refusal(fake, "/some.Service/Nothing", b"")[0] is grpc.StatusCode.UNIMPLEMENTED
    for path in (INFER, PATH + "RepositoryIndex", "/grpc.health.v1.Health/Check"):
        code, details, _ = refusal(fake, path, b"\xff\xff\xff")
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert details.startswith("what came is no ")
    with channel(fake.grpc) as wire:
        answers = list(wire.stream_stream(PATH + "ModelStreamInfer")(iter([b"\xff\xff\xff", GOOD]), timeout=10))
    errors = [service_pb2.ModelStreamInferResponse.FromString(answer).error_message for answer in answers]
    assert errors[0].startswith("what came is no ModelInferRequest")
    assert errors[1] == ""
    assert call(fake, INFER, GOOD)


def test_a_message_that_is_too_large_is_refused_packed_or_not(fake: Fronts) -> None:
    large = request_of(np.zeros((1 + (LIMITS.max_body >> 4), 4), np.float32)).SerializeToString()
    for options in ({}, {"compression": grpc.Compression.Gzip}):
        assert refusal(fake, INFER, large, **options)[0] is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert call(fake, INFER, GOOD, compression=grpc.Compression.Gzip)


def test_long_messages_reach_the_caller_cut(fake: Fronts) -> None:
    message = request_of()
    message.inputs[0].name = "ä€" * 20_000
    code, details, _ = refusal(fake, INFER, message.SerializeToString())
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert details
    with channel(fake.grpc) as wire:
        [answer] = wire.stream_stream(PATH + "ModelStreamInfer")(iter([message.SerializeToString()]), timeout=10)
    assert service_pb2.ModelStreamInferResponse.FromString(answer).error_message == details


def test_a_call_whose_time_is_up_or_that_is_cancelled_takes_its_request_back() -> None:
    with held() as (fronts, batcher, gate), channel(fronts.grpc) as wire:
        infer = wire.unary_unary(INFER)

        def taken_back() -> int:
            counts = batcher.stats().requests
            return counts["cancelled"] + counts["expired"]

        first = infer.future(GOOD, timeout=20)
        until(lambda: running(batcher))
        late = infer.future(GOOD, timeout=1)
        until(lambda: batcher.stats().depth == 1)
        assert late.exception().code() is grpc.StatusCode.DEADLINE_EXCEEDED
        until(lambda: batcher.stats().depth == 0)
        before = taken_back()
        cancelled = infer.future(GOOD, timeout=20)
        until(lambda: batcher.stats().depth == 1)
        cancelled.cancel()
        until(lambda: taken_back() == before + 1)
        assert batcher.stats().depth == 0
        gate.set()
        assert first.result()


def test_a_stream_that_is_cancelled_takes_its_requests_back(caplog: pytest.LogCaptureFixture) -> None:
    with held() as (fronts, batcher, gate), channel(fronts.grpc) as wire:
        stream = wire.stream_stream(PATH + "ModelStreamInfer")(iter([GOOD] * 10), timeout=20)
        until(lambda: batcher.stats().depth == 9)
        stream.cancel()
        until(lambda: batcher.stats().depth == 0)
        assert batcher.stats().requests["cancelled"] >= 9
        gate.set()
        assert call(fronts, INFER, GOOD)
    assert not caplog.records


def test_a_stream_reads_no_further_than_it_can_answer() -> None:
    plane = faked(delay=0.005, queue=100)
    with serving(plane) as fronts, channel(fronts.grpc) as wire:
        answers = list(wire.stream_stream(PATH + "ModelStreamInfer")(iter([GOOD] * 150), timeout=10))
    errors = [service_pb2.ModelStreamInferResponse.FromString(answer).error_message for answer in answers]
    assert errors == [""] * 150  # all at once they were more than the queue holds


def test_a_full_queue_says_when_to_come_again() -> None:
    with held(queue=1) as (fronts, batcher, gate), channel(fronts.grpc) as wire:
        infer = wire.unary_unary(INFER)
        first = infer.future(GOOD, timeout=20)
        until(lambda: running(batcher))
        second = infer.future(GOOD, timeout=20)
        until(lambda: batcher.stats().depth == 1)
        code, _, trailers = refusal(fronts, INFER, GOOD)
        assert code is grpc.StatusCode.UNAVAILABLE
        assert trailers["retry-after"] == "1"
        gate.set()
        assert first.result()
        assert second.result()


def test_what_went_wrong_inside_stays_inside(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(DataPlane):
        async def infer(self, request: InferRequest) -> InferResponse:
            raise RuntimeError("the secret is in /etc")

        def statistics(self, name: str = "") -> Any:
            raise ZeroDivisionError("and the other one too")

    with serving(Broken(list(faked().models.values()))) as fronts, caplog.at_level(logging.ERROR):
        for path, message in ((INFER, GOOD), (PATH + "ModelStatistics", b"")):
            code, details, _ = refusal(fronts, path, message)
            assert (code, details) == (
                grpc.StatusCode.INTERNAL,
                "the server failed at this request; its log says why",
            )
        with triton.InferenceServerClient(fronts.grpc) as client, pytest.raises(InferenceServerException):
            client.get_inference_statistics()
    assert "the secret is in /etc" in caplog.text
    assert "and the other one too" in caplog.text


def test_two_servers_never_share_a_port(fake: Fronts) -> None:
    from toolkit.server.grpc.server import make_server
    from toolkit.server.metrics import FrontMetrics
    from toolkit.server.settings import FrontSettings

    async def again() -> None:
        server = make_server(fake.plane, FrontSettings(), FrontMetrics(fake.plane))
        with pytest.raises(RuntimeError):
            server.add_insecure_port(fake.grpc)
        await server.stop(0)

    asyncio.run(again())


def test_streams_that_stay_open_end_with_the_server_and_lose_nothing() -> None:
    with held() as (fronts, batcher, gate), channel(fronts.grpc) as wire, channel(fronts.grpc) as other:
        more: queue.Queue[bytes | None] = queue.Queue()
        stream = wire.stream_stream(PATH + "ModelStreamInfer")(iter(more.get, None), timeout=10)
        idle = other.stream_stream(PATH + "ModelStreamInfer")(iter(queue.Queue[bytes]().get, None), timeout=10)
        for _ in range(3):
            more.put(GOOD)
        until(lambda: batcher.stats().requests["accepted"] == 3)
        fronts.plane.gate.drain()
        with pytest.raises(grpc.RpcError) as caught:
            next(idle)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        gate.set()
        answers = [service_pb2.ModelStreamInferResponse.FromString(next(stream)) for _ in range(3)]
        assert not any(answer.error_message for answer in answers)
        with pytest.raises(grpc.RpcError) as caught:
            next(stream)
        assert (caught.value.code(), "ending" in caught.value.details()) == (grpc.StatusCode.UNAVAILABLE, True)
        more.put(None)
