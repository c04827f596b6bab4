"""What tritonclient's gRPC client asks and understands, the one that waits and the one for asyncio."""

import asyncio
import queue
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException

from tests.tiny import CLASSES, SIZE, tiny_graph
from tests.toolkit.server.fronts import Fronts, channel, faked, serving

Ask = Callable[..., Any]
Expected = Callable[[np.ndarray], np.ndarray]


def feed(name: str, array: np.ndarray, datatype: str) -> triton.InferInput:
    return triton.InferInput(name, list(array.shape), datatype).set_data_from_numpy(array)


def samples(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 3, SIZE, SIZE), np.float32)


@contextmanager
def asking(kind: str, address: str) -> Iterator[Ask]:
    """What calls a method of a client by its name: "sync" is the one that waits, "aio" the one for asyncio."""
    if kind == "sync":
        with triton.InferenceServerClient(address) as client:
            yield lambda name, /, *args, **kwargs: getattr(client, name)(*args, **kwargs)
        return

    def call(name: str, /, *args: Any, **kwargs: Any) -> Any:
        async def run() -> Any:
            async with triton_aio.InferenceServerClient(address) as client:
                return await getattr(client, name)(*args, **kwargs)

        return asyncio.run(run())

    yield call


@pytest.fixture(params=["sync", "aio"])
def ask(request: pytest.FixtureRequest, fronts: Fronts) -> Iterator[Ask]:
    """Calls a method of either client by its name."""
    with asking(request.param, fronts.grpc) as call:
        yield call


@pytest.fixture(scope="module")
def expected() -> Expected:
    """The graph's answers, by ONNX Runtime without a server."""
    import onnxruntime

    session = onnxruntime.InferenceSession(tiny_graph().SerializeToString(), providers=["CPUExecutionProvider"])
    return lambda array: session.run(["logits"], {"input": array})[0]


def test_the_server_is_live_and_ready_and_says_what_it_is(ask: Ask) -> None:
    assert ask("is_server_live") is True
    assert ask("is_server_ready") is True
    about = ask("get_server_metadata")
    assert about.name == "onnx-tensorrt-toolkit"
    assert {"binary_tensor_data", "classification", "statistics"} <= set(about.extensions)


def test_models_are_ready_by_name_and_version_and_others_are_not(ask: Ask) -> None:
    assert ask("is_model_ready", "tiny") is True
    assert ask("is_model_ready", "tiny", "1") is True
    assert ask("is_model_ready", "tiny", "2") is False
    assert ask("is_model_ready", "none") is False


def test_a_models_metadata_configuration_and_statistics(ask: Ask) -> None:
    about = ask("get_model_metadata", "tiny", "1")
    assert (about.name, about.versions, about.platform) == ("tiny", ["1"], "onnxruntime_onnx")
    tensors = [(tensor.name, tensor.datatype, tensor.shape) for tensor in (*about.inputs, *about.outputs)]
    assert tensors == [("input", "FP32", [-1, 3, SIZE, SIZE]), ("logits", "FP32", [-1, CLASSES])]
    assert ask("get_model_metadata", "tiny", as_json=True)["name"] == "tiny"
    config = ask("get_model_config", "tiny").config
    assert (config.max_batch_size, config.input[0].dims) == (8, [3, SIZE, SIZE])
    before = ask("get_inference_statistics", "tiny").model_stats[0]
    ask("infer", "tiny", [feed("input", samples(2), "FP32")])
    after = ask("get_inference_statistics", "tiny", "1").model_stats[0]
    assert after.inference_stats.success.count == before.inference_stats.success.count + 1
    assert {model.name for model in ask("get_inference_statistics").model_stats} == {"tiny", "echo"}


def test_the_index_names_every_model_and_loading_opens_one_again(ask: Ask) -> None:
    index = ask("get_model_repository_index").models
    assert [(model.name, model.state) for model in index] == [("tiny", "READY"), ("echo", "READY")]
    ask("load_model", "echo")
    for name, arguments, status, words in (
        ("load_model", {"model_name": "none"}, "NOT_FOUND", "no model 'none'"),
        ("load_model", {"model_name": "tiny", "config": "{}"}, "UNIMPLEMENTED", "without parameters"),
        ("unload_model", {"model_name": "tiny"}, "UNIMPLEMENTED", "not unloaded"),
        ("unload_model", {"model_name": "none"}, "NOT_FOUND", "no model 'none'"),
        ("get_model_metadata", {"model_name": "none"}, "NOT_FOUND", "no model 'none'"),
        ("get_model_config", {"model_name": "none"}, "NOT_FOUND", "no model 'none'"),
        ("get_inference_statistics", {"model_name": "tiny", "model_version": "9"}, "NOT_FOUND", "version '9'"),
    ):
        with pytest.raises(InferenceServerException, match=words) as caught:
            ask(name, **arguments)
        assert caught.value.status() == f"StatusCode.{status}", name


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("get_system_shared_memory_status", {}),
        ("get_cuda_shared_memory_status", {}),
        ("unregister_system_shared_memory", {}),
        ("register_system_shared_memory", {"name": "a", "key": "/a", "byte_size": 8}),
        ("get_trace_settings", {}),
        ("update_log_settings", {"settings": {"log_info": True}}),
        ("get_log_settings", {}),
    ],
)
def test_what_the_server_has_not_it_says(ask: Ask, name: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(InferenceServerException, match="no shared memory, tracing or log settings") as caught:
        ask(name, **arguments)
    assert caught.value.status() == "StatusCode.UNIMPLEMENTED"


@pytest.mark.parametrize("count", [1, 3, 20])  # 20 are more than the engine's batch
def test_answers_are_the_engines(ask: Ask, expected: Expected, count: int) -> None:
    array = samples(count, seed=count)
    wanted = [triton.InferRequestedOutput("logits")]
    result = ask("infer", "tiny", [feed("input", array, "FP32")], outputs=wanted, request_id=f"n{count}")
    np.testing.assert_allclose(result.as_numpy("logits"), expected(array), rtol=1e-4, atol=1e-5)
    answer = result.get_response()
    assert (answer.model_name, answer.model_version, answer.id) == ("tiny", "1", f"n{count}")
    assert result.as_numpy("nothing") is None


def test_several_inputs_of_several_types_come_back_as_they_were(ask: Ask) -> None:
    arrays = {
        "a": np.float32([[1.5, -2, 3e30, 0.1], [4, 5, 6, 7]]),
        "b": np.float16([[1, -0.5, 2], [65504, 0, 3]]),
        "c": np.uint8([[0, 255], [7, 128]]),
    }
    datatypes = {"a": "FP32", "b": "FP16", "c": "UINT8"}
    result = ask("infer", "echo", [feed(name, array, datatypes[name]) for name, array in arrays.items()])
    for name, array in arrays.items():
        np.testing.assert_array_equal(result.as_numpy(f"{name}_out"), array)
        assert result.as_numpy(f"{name}_out").dtype == array.dtype


def test_typed_contents_do_as_well_as_raw_ones(fronts: Fronts, expected: Expected) -> None:
    array = samples(1)
    message = service_pb2.ModelInferRequest(model_name="tiny")
    entry = message.inputs.add(name="input", datatype="FP32", shape=array.shape)
    entry.contents.fp32_contents.extend(array.ravel().tolist())
    with channel(fronts.grpc) as wire:
        answer = wire.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            request_serializer=service_pb2.ModelInferRequest.SerializeToString,
            response_deserializer=service_pb2.ModelInferResponse.FromString,
        )(message, timeout=5)
    values = np.frombuffer(answer.raw_output_contents[0], np.float32)
    np.testing.assert_allclose(values[None], expected(array), rtol=1e-4, atol=1e-5)


def test_classification_gives_the_likeliest_with_their_labels(ask: Ask, expected: Expected) -> None:
    array = samples(2)
    outputs = [triton.InferRequestedOutput("logits", class_count=3)]
    found = ask("infer", "tiny", [feed("input", array, "FP32")], outputs=outputs).as_numpy("logits")
    assert found.shape == (2, 3)
    for row, logits in zip(found, expected(array), strict=True):
        for text, index in zip(row, np.argsort(-logits)[:3], strict=True):
            value, number, label = text.decode().split(":")
            assert (int(number), label) == (index, f"class {index}")
            assert float(value) == pytest.approx(logits[index], rel=1e-3, abs=1e-4)


def test_what_does_not_fit_is_refused(ask: Ask) -> None:
    good = [feed("input", samples(1), "FP32")]
    texts = np.array([[b"one", b"two"]], np.object_)
    for arguments, status, words in (
        (("tiny", [feed("other", samples(1), "FP32")]), "INVALID_ARGUMENT", "no value for input"),
        (("tiny", [feed("input", samples(1)[:, :, :-1], "FP32")]), "INVALID_ARGUMENT", "input"),
        (("tiny", [feed("input", samples(1).astype(np.float64), "FP64")]), "INVALID_ARGUMENT", "FP64"),
        (("tiny", [feed("input", texts, "BYTES")]), "INVALID_ARGUMENT", "BYTES"),
        (("none", good), "NOT_FOUND", "none"),
        (("tiny", good, "7"), "NOT_FOUND", "version '7'"),
        (("tiny", [*good, feed("more", samples(1), "FP32")]), "INVALID_ARGUMENT", "more"),
        (("tiny", good, "", [triton.InferRequestedOutput("nothing")]), "INVALID_ARGUMENT", "nothing"),
    ):
        with pytest.raises(InferenceServerException, match=words) as caught:
            ask("infer", *arguments)
        assert caught.value.status() == f"StatusCode.{status}", words


def test_sequences_are_refused_and_priorities_and_parameters_taken(ask: Ask) -> None:
    good = [feed("input", samples(1), "FP32")]
    with pytest.raises(InferenceServerException, match="sequence"):
        ask("infer", "tiny", good, sequence_id=5, sequence_start=True)
    assert ask("infer", "tiny", good, priority=1, timeout=10_000_000, parameters={"mine": 1}).as_numpy("logits").shape


@pytest.mark.parametrize("kind", ["sync", "aio"])
def test_a_time_that_is_up_is_told_as_such(kind: str) -> None:
    with serving(faked(delay=0.5)) as slow, asking(kind, slow.grpc) as ask:
        with pytest.raises(InferenceServerException) as caught:
            ask("infer", "fake", [feed("input", np.zeros((1, 4), np.float32), "FP32")], client_timeout=0.05)
        assert caught.value.status() == "StatusCode.DEADLINE_EXCEEDED"


def test_so_is_the_time_that_the_request_itself_names() -> None:
    with serving(faked(delay=0.3)) as slow, triton.InferenceServerClient(slow.grpc) as client:
        with pytest.raises(InferenceServerException, match="time was up") as caught:
            client.infer("fake", [feed("input", np.zeros((1, 4), np.float32), "FP32")], timeout=20_000)
        assert caught.value.status() == "StatusCode.DEADLINE_EXCEEDED"


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_packed_requests(ask: Ask, expected: Expected, coding: str) -> None:
    array = samples(4)
    result = ask("infer", "tiny", [feed("input", array, "FP32")], compression_algorithm=coding)
    np.testing.assert_allclose(result.as_numpy("logits"), expected(array), rtol=1e-4, atol=1e-5)


def test_a_hundred_calls_at_once_each_get_their_own_answer(fronts: Fronts, expected: Expected) -> None:
    array = samples(100)
    found: queue.Queue[tuple[int, Any, Any]] = queue.Queue()
    with triton.InferenceServerClient(fronts.grpc) as client:
        for number, one in enumerate(array):
            client.async_infer(
                "tiny",
                [feed("input", one[None], "FP32")],
                lambda result, error, number=number: found.put((number, result, error)),
            )
        answers = dict[int, np.ndarray]()
        for _ in array:
            number, result, error = found.get(timeout=10)
            assert error is None
            answers[number] = result.as_numpy("logits")[0]
    np.testing.assert_allclose([answers[number] for number in range(100)], expected(array), rtol=1e-4, atol=1e-5)


def test_a_stream_answers_every_request_in_turn_and_goes_on_after_an_error(
    fronts: Fronts, expected: Expected
) -> None:
    array = samples(80)
    found: queue.Queue[tuple[Any, Any]] = queue.Queue()
    with triton.InferenceServerClient(fronts.grpc) as client:
        client.start_stream(lambda result, error: found.put((result, error)))
        for number, one in enumerate(array):
            name = "none" if number == 7 else "tiny"
            client.async_stream_infer(
                name, [feed("input", one[None], "FP32")], request_id=str(number), enable_empty_final_response=True
            )
        answers = [found.get(timeout=10) for _ in array]
        client.stop_stream()
    assert found.empty()
    assert "no model 'none'" in answers[7][1].message()
    good = [(number, result) for number, (result, _) in enumerate(answers) if number != 7]
    assert [result.get_response().id for _, result in good] == [str(number) for number, _ in good]
    assert all(result.get_response().parameters["triton_final_response"].bool_param for _, result in good)
    np.testing.assert_allclose(
        [result.as_numpy("logits")[0] for _, result in good],
        expected(array)[[number for number, _ in good]],
        rtol=1e-4,
        atol=1e-5,
    )


def test_a_stream_in_asyncio(fronts: Fronts, expected: Expected) -> None:
    array = samples(5)

    async def requests() -> AsyncIterator[dict[str, Any]]:
        for one in array:
            yield {"model_name": "tiny", "inputs": [feed("input", one[None], "FP32")]}

    async def run() -> list[np.ndarray]:
        answers = []
        async with triton_aio.InferenceServerClient(fronts.grpc) as client:
            async for result, error in client.stream_infer(requests()):
                assert error is None
                answers.append(result.as_numpy("logits")[0])
        return answers

    np.testing.assert_allclose(asyncio.run(run()), expected(array), rtol=1e-4, atol=1e-5)
