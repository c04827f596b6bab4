"""What tritonclient's HTTP client asks and understands, the one that waits and the one for asyncio."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from tritonclient.utils import InferenceServerException

from tests.tiny import CLASSES, SIZE, tiny_graph
from tests.toolkit.server.fronts import Fronts, faked, serving

Ask = Callable[..., Any]

# The asyncio client doesn't read what it is told of readiness; KServe's does, so something must be told.
pytestmark = pytest.mark.filterwarnings("ignore:Unclosed connection:ResourceWarning")


def feed(name: str, array: np.ndarray, datatype: str, *, binary: bool = True) -> triton.InferInput:
    entry = triton.InferInput(name, list(array.shape), datatype)
    return entry.set_data_from_numpy(array, binary_data=binary)


def samples(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 3, SIZE, SIZE), np.float32)


@pytest.fixture(params=["sync", "aio"])
def ask(request: pytest.FixtureRequest, fronts: Fronts) -> Iterator[Ask]:
    """Calls a method of either client by its name."""
    if request.param == "sync":
        with triton.InferenceServerClient(fronts.http, concurrency=4) as client:
            yield lambda name, /, *args, **kwargs: getattr(client, name)(*args, **kwargs)
        return

    def call(name: str, /, *args: Any, **kwargs: Any) -> Any:
        async def run() -> Any:
            async with triton_aio.InferenceServerClient(fronts.http) as client:
                return await getattr(client, name)(*args, **kwargs)

        return asyncio.run(run())

    yield call


@pytest.fixture(scope="module")
def expected() -> Callable[[np.ndarray], np.ndarray]:
    """The graph's answers, by ONNX Runtime without a server."""
    import onnxruntime

    session = onnxruntime.InferenceSession(tiny_graph().SerializeToString(), providers=["CPUExecutionProvider"])
    return lambda array: session.run(["logits"], {"input": array})[0]


def test_the_server_is_live_and_ready_and_says_what_it_is(ask: Ask) -> None:
    assert ask("is_server_live") is True
    assert ask("is_server_ready") is True
    about = ask("get_server_metadata")
    assert about["name"] == "onnx-tensorrt-toolkit"
    assert about["version"]
    assert {"binary_tensor_data", "classification", "statistics"} <= set(about["extensions"])


def test_models_are_ready_by_name_and_version_and_others_are_not(ask: Ask) -> None:
    assert ask("is_model_ready", "tiny") is True
    assert ask("is_model_ready", "tiny", "1") is True
    assert ask("is_model_ready", "tiny", "2") is False
    assert ask("is_model_ready", "none") is False


def test_a_models_metadata_configuration_and_statistics(ask: Ask) -> None:
    about = ask("get_model_metadata", "tiny")
    assert about["name"] == "tiny"
    assert about["versions"] == ["1"]
    assert about["platform"] == "onnxruntime_onnx"
    assert about["inputs"] == [{"name": "input", "datatype": "FP32", "shape": [-1, 3, SIZE, SIZE]}]
    assert about["outputs"] == [{"name": "logits", "datatype": "FP32", "shape": [-1, CLASSES]}]
    assert ask("get_model_metadata", "tiny", "1") == about
    config = ask("get_model_config", "tiny", "1")
    assert config["max_batch_size"] == 8
    assert config["input"][0]["dims"] == [3, SIZE, SIZE]
    assert config["input"][0]["data_type"] == "TYPE_FP32"
    before = ask("get_inference_statistics", "tiny")["model_stats"][0]
    ask("infer", "tiny", [feed("input", samples(2), "FP32")])
    after = ask("get_inference_statistics", "tiny", "1")["model_stats"][0]
    assert after["inference_stats"]["success"]["count"] == before["inference_stats"]["success"]["count"] + 1
    assert {model["name"] for model in ask("get_inference_statistics")["model_stats"]} == {"tiny", "echo"}


def test_the_index_names_every_model_and_loading_opens_one_again(ask: Ask) -> None:
    index = ask("get_model_repository_index")
    assert [(model["name"], model["version"], model["state"]) for model in index] == [
        ("tiny", "1", "READY"),
        ("echo", "1", "READY"),
    ]
    ask("load_model", "echo")
    for name, arguments, words in (
        ("load_model", {"model_name": "none"}, "no model 'none'"),
        ("load_model", {"model_name": "tiny", "config": "{}"}, "without parameters"),
        ("unload_model", {"model_name": "tiny"}, "not unloaded"),
        ("get_system_shared_memory_status", {}, "systemsharedmemory"),
        ("get_trace_settings", {}, "trace"),
        ("get_log_settings", {}, "logging"),
    ):
        with pytest.raises(InferenceServerException, match=words) as caught:
            ask(name, **arguments)
        assert caught.value.status() in {"400", "404"}


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False, None])
@pytest.mark.parametrize("count", [1, 3, 20])  # 20 are more than the engine's batch
def test_answers_are_the_engines(
    ask: Ask, expected: Callable[[np.ndarray], np.ndarray], binary_in: bool, binary_out: bool | None, count: int
) -> None:
    array = samples(count, seed=count)
    wanted = None if binary_out is None else [triton.InferRequestedOutput("logits", binary_data=binary_out)]
    result = ask(
        "infer", "tiny", [feed("input", array, "FP32", binary=binary_in)], outputs=wanted, request_id=f"n{count}"
    )
    np.testing.assert_allclose(result.as_numpy("logits"), expected(array), rtol=1e-4, atol=1e-5)
    answer = result.get_response()
    assert (answer["model_name"], answer["model_version"], answer["id"]) == ("tiny", "1", f"n{count}")
    has_binary = "binary_data_size" in answer["outputs"][0].get("parameters", {})
    assert has_binary is (binary_out is not False)


@pytest.mark.parametrize("binary", [True, False])
def test_several_inputs_of_several_types_come_back_as_they_were(ask: Ask, binary: bool) -> None:
    a = np.float32([[1.5, -2, 3e30, 0.1], [4, 5, 6, 7]])
    b = np.float16([[1, -0.5, 2], [65504, 0, 3]])
    c = np.uint8([[0, 255], [7, 128]])
    inputs = [feed("a", a, "FP32", binary=binary), feed("c", c, "UINT8", binary=binary)]
    inputs.insert(1, feed("b", b, "FP16"))  # the protocol has no FP16 in JSON
    outputs = [triton.InferRequestedOutput(name, binary_data=True) for name in ("c_out", "b_out")]
    result = ask("infer", "echo", inputs, outputs=outputs)
    assert [output["name"] for output in result.get_response()["outputs"]] == ["c_out", "b_out"]
    np.testing.assert_array_equal(result.as_numpy("c_out"), c)
    np.testing.assert_array_equal(result.as_numpy("b_out"), b)
    assert result.as_numpy("b_out").dtype == np.float16
    everything = ask("infer", "echo", inputs)
    np.testing.assert_array_equal(everything.as_numpy("a_out"), a)


def test_classification_gives_the_likeliest_with_their_labels(
    ask: Ask, expected: Callable[[np.ndarray], np.ndarray]
) -> None:
    array = samples(2)
    outputs = [triton.InferRequestedOutput("logits", class_count=3)]
    found = ask("infer", "tiny", [feed("input", array, "FP32")], outputs=outputs).as_numpy("logits")
    assert found.shape == (2, 3)
    for row, logits in zip(found, expected(array), strict=True):
        for text, index in zip(row, np.argsort(-logits)[:3], strict=True):
            value, number, label = text.decode().split(":")
            assert (int(number), label) == (index, f"class {index}")
            assert float(value) == pytest.approx(logits[index], rel=1e-3, abs=1e-4)


@pytest.mark.parametrize(
    ("name", "datatype", "shape", "status", "words"),
    [
        ("other", "FP32", (1, 3, SIZE, SIZE), "400", "no value for input"),
        ("input", "FP32", (1, 3, SIZE, SIZE - 1), "400", "input"),
        ("input", "FP32", (SIZE,), "400", "input"),
        ("input", "INT32", (1, 3, SIZE, SIZE), "400", "INT32"),
        ("input", "FP64", (1, 3, SIZE, SIZE), "400", "FP64"),
        ("input", "FP32", (0, 3, SIZE, SIZE), "400", "input"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_name(
    ask: Ask, name: str, datatype: str, shape: tuple[int, ...], status: str, words: str
) -> None:
    dtype = {"FP32": np.float32, "FP64": np.float64, "INT32": np.int32}[datatype]
    with pytest.raises(InferenceServerException, match=words) as caught:
        ask("infer", "tiny", [feed(name, np.zeros(shape, dtype), datatype)])
    assert caught.value.status() == status


def test_bytes_unknown_models_versions_and_outputs_are_refused(ask: Ask) -> None:
    texts = np.array([[b"one", b"two"]], np.object_)
    good = [feed("input", samples(1), "FP32")]
    for arguments, status, words in (
        (("tiny", [feed("input", texts, "BYTES")]), "400", "BYTES"),
        (("none", good), "404", "none"),
        (("tiny", good, "7"), "404", "version '7'"),
        (("tiny", [*good, feed("more", samples(1), "FP32")]), "400", "more"),
        (("tiny", good, "", [triton.InferRequestedOutput("nothing")]), "400", "nothing"),
    ):
        with pytest.raises(InferenceServerException, match=words) as caught:
            ask("infer", *arguments)
        assert caught.value.status() == status, words


def test_sequences_are_refused_and_priorities_and_parameters_taken(ask: Ask) -> None:
    good = [feed("input", samples(1), "FP32")]
    with pytest.raises(InferenceServerException, match="sequence"):
        ask("infer", "tiny", good, sequence_id=5, sequence_start=True)
    assert ask("infer", "tiny", good, priority=1, timeout=10_000_000, parameters={"mine": 1}).as_numpy("logits").shape


def test_a_time_that_is_up_is_told_as_such() -> None:
    with serving(faked(delay=0.3)) as slow, triton.InferenceServerClient(slow.http) as client:
        with pytest.raises(InferenceServerException, match="time was up") as caught:
            client.infer("fake", [feed("input", np.zeros((1, 4), np.float32), "FP32")], timeout=20_000)
        assert caught.value.status() == "504"


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_packed_requests_and_answers(ask: Ask, expected: Callable[[np.ndarray], np.ndarray], coding: str) -> None:
    array = samples(60)  # whose answer has more than a packet's worth of bytes
    result = ask(
        "infer", "tiny", [feed("input", array, "FP32")],
        request_compression_algorithm=coding, response_compression_algorithm=coding,
    )  # fmt: skip
    np.testing.assert_allclose(result.as_numpy("logits"), expected(array), rtol=1e-4, atol=1e-5)


def test_a_hundred_requests_at_once_each_get_their_own_answer(
    fronts: Fronts, expected: Callable[[np.ndarray], np.ndarray]
) -> None:
    array = samples(100)
    with triton.InferenceServerClient(fronts.http, concurrency=16) as client:
        handles = [client.async_infer("tiny", [feed("input", one[None], "FP32")]) for one in array]
        answers = [handle.get_result().as_numpy("logits")[0] for handle in handles]
    np.testing.assert_allclose(answers, expected(array), rtol=1e-4, atol=1e-5)


def test_bodies_made_and_read_by_the_clients_own_functions(
    fronts: Fronts, expected: Callable[[np.ndarray], np.ndarray]
) -> None:
    import http.client

    array = samples(1)
    make = triton.InferenceServerClient.generate_request_body
    body, length = make([feed("input", array, "FP32")], request_id="mine")
    connection = http.client.HTTPConnection(fronts.http)
    connection.request(
        "POST", "/v2/models/tiny/versions/1/infer", body, {"Inference-Header-Content-Length": str(length)}
    )
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    assert answer.headers["Content-Type"] == "application/octet-stream"
    read = triton.InferenceServerClient.parse_response_body
    result = read(content, header_length=int(answer.headers["Inference-Header-Content-Length"]))
    np.testing.assert_allclose(result.as_numpy("logits"), expected(array), rtol=1e-4, atol=1e-5)
