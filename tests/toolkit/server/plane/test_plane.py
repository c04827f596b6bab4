"""The data plane answers right, refuses clearly, and says what it has."""

import asyncio
from pathlib import Path

import numpy as np
import pytest

from engines.errors import DeadlineExceeded, InputError, Overloaded, RunError, UnsupportedError
from engines.sessions.fake import FakeSession
from tests.tiny import CLASSES, METADATA
from tests.toolkit.server.plane.models import (
    answers,
    fake_plane,
    infer,
    logits,
    plane_of,
    samples,
    until,
    within,
    write,
)
from toolkit.server.plane.plane import DataPlane
from toolkit.server.protocol.messages import (
    InferRequest,
    RequestedOutput,
    Tensor,
    TooLargeError,
    UnavailableError,
    UnknownModelError,
)


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("graphs") / "tiny.onnx")


@pytest.mark.parametrize("instances", [1, 2])
@pytest.mark.parametrize("count", [1, 3, 4, 5, 11])
def test_requests_of_any_size_are_cut_and_joined(graph: Path, count: int, instances: int) -> None:
    plane = plane_of(graph, max_batch=4, instances=instances, threads=1)

    async def work(plane: DataPlane) -> None:
        batch = samples(count)
        response = await plane.infer(infer("tiny", batch, id="mine"))
        assert (response.model, response.version, response.id) == ("tiny", "1", "mine")
        np.testing.assert_allclose(logits(response), answers(graph, batch), rtol=1e-4, atol=1e-5)
        assert max(plane.statistics()["tiny"]["batches"], key=int) <= "4"

    within(work, plane)


def test_every_one_of_many_callers_gets_its_own_answer(graph: Path) -> None:
    batch = samples(64)
    expected = answers(graph, batch)

    async def work(plane: DataPlane) -> None:
        found = await asyncio.gather(*(plane.infer(infer("tiny", batch[at : at + 1])) for at in range(64)))
        np.testing.assert_allclose(np.concatenate([*map(logits, found)]), expected, rtol=1e-4, atol=1e-5)

    within(work, plane_of(graph, threads=1))


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        (infer("tiny", samples(1), name="other"), "no value for input input"),
        (infer("tiny", samples(1).astype(np.float64), datatype="FP64"), "input input is FP64, not FP32"),
        (infer("tiny", samples(1)[0]), "has shape [3, 16, 16]"),
        (infer("tiny", samples(1)[:, :, 1:]), "has shape [1, 3, 15, 16]"),
        (infer("tiny", samples(1)[:0]), "has shape [0, 3, 16, 16]"),
        (InferRequest("tiny", ()), "no value for input input"),
        (InferRequest("tiny", (Tensor("input", "FP32", samples(1)),) * 2), "given twice"),
        (
            InferRequest("tiny", tuple(Tensor(name, "FP32", samples(1)) for name in ("input", "more"))),
            "unknown input 'more'",
        ),
        (infer("tiny", samples(1), outputs=(RequestedOutput("logit"),)), "unknown output 'logit'"),
        (infer("tiny", samples(1), outputs=(RequestedOutput("logits"),) * 2), "asked for twice"),
        (infer("tiny", samples(1), priority=1.5), "priority"),
    ],
)
def test_what_does_not_fit_is_refused(graph: Path, request_: InferRequest, says: str) -> None:
    async def work(plane: DataPlane) -> None:
        with pytest.raises(InputError) as error:
            await plane.infer(request_)
        assert says in error.value.cause
        assert error.value.remedy
        assert plane.models["tiny"].errors == {"InputError": 1}

    within(work, plane_of(graph, threads=1))


def test_unknown_models_and_versions(graph: Path) -> None:
    async def work(plane: DataPlane) -> None:
        for name, version in (("none", ""), ("tiny", "2"), ("tiny", "x"), ("", "")):
            with pytest.raises(UnknownModelError):
                await plane.infer(InferRequest(name, (), version))
            for ask in (plane.metadata, plane.model_ready):
                with pytest.raises(UnknownModelError):
                    ask(name, version)
        for call in (plane.reload("none"), plane.classify(b"", model="none")):
            with pytest.raises(UnknownModelError):
                await call
        with pytest.raises(UnknownModelError):
            plane.statistics("none")
        assert logits(await plane.infer(infer("tiny", samples(1), version="1"))).shape == (1, CLASSES)

    within(work, plane_of(graph, threads=1))


def test_more_samples_than_the_queue_holds_are_too_many(graph: Path) -> None:
    async def work(plane: DataPlane) -> None:
        with pytest.raises(TooLargeError, match="9 samples"):
            await plane.infer(infer("tiny", samples(9)))
        assert len(logits(await plane.infer(infer("tiny", samples(8))))) == 8

    within(work, plane_of(graph, max_batch=2, queue=8, threads=1))


def test_a_full_queue_takes_back_the_parts_of_a_request_that_does_not_fit() -> None:
    async def work(plane: DataPlane) -> None:
        first = asyncio.create_task(plane.infer(infer("fake", samples(2))))
        await until(lambda: plane.statistics()["fake"]["batches"] != {} or session.runs > 1)
        waiting = asyncio.create_task(plane.infer(infer("fake", samples(2))))
        await until(lambda: plane.statistics()["fake"]["depth"] == 2)
        with pytest.raises(Overloaded):
            await plane.infer(infer("fake", samples(4)))
        assert plane.statistics()["fake"]["depth"] == 2
        assert [len(logits(await task)) for task in (first, waiting)] == [2, 2]

    session = FakeSession(delay=0.2)
    within(work, fake_plane(lambda _: session, max_batch=2, queue=4))


def test_deadlines_and_cancelling() -> None:
    session = FakeSession(delay=0.1)

    async def work(plane: DataPlane) -> None:
        running = asyncio.create_task(plane.infer(infer("fake", samples(1))))
        await until(lambda: session.runs > 1)
        with pytest.raises(DeadlineExceeded):
            await plane.infer(infer("fake", samples(1), timeout=0.01))
        with pytest.raises(DeadlineExceeded):
            await plane.infer(infer("fake", samples(1), timeout=0.0))
        given_up = asyncio.create_task(plane.infer(infer("fake", samples(1))))
        await until(lambda: plane.statistics()["fake"]["depth"] == 1)
        given_up.cancel()
        with pytest.raises(asyncio.CancelledError):
            await given_up
        await running
        counts = plane.statistics()["fake"]["requests"]
        assert (counts["answered"], counts["expired"], counts["cancelled"]) == (1, 1, 1)
        assert plane.models["fake"].errors == {"DeadlineExceeded": 2, "CancelledError": 1}

    within(work, fake_plane(lambda _: session))


def test_an_engine_of_a_fixed_batch_takes_any_number_of_samples(tmp_path: Path) -> None:
    import onnx

    from tests.tiny import tiny_graph

    model = tiny_graph()
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 4
    onnx.save(model, tmp_path / "fixed.onnx")
    free = write(tmp_path / "free.onnx")

    async def work(plane: DataPlane) -> None:
        metadata = plane.metadata("fixed")
        assert (metadata.max_batch, metadata.inputs[0].shape) == (4, (-1, 3, 16, 16))
        for count in (1, 4, 6):
            found = logits(await plane.infer(infer("fixed", samples(count))))
            np.testing.assert_allclose(found, answers(free, samples(count)), rtol=1e-4, atol=1e-5)

    within(work, plane_of(tmp_path / "fixed.onnx", threads=1))


def test_metadata_and_index_say_what_is_served(graph: Path, tmp_path: Path) -> None:
    foreign = write(tmp_path / "foreign.onnx", metadata=None)

    async def work(plane: DataPlane) -> None:
        metadata = plane.metadata("tiny", "1")
        assert (metadata.versions, metadata.platform, metadata.max_batch) == (("1",), "onnxruntime_onnx", 32)
        assert [(one.name, one.datatype, one.shape) for one in (*metadata.inputs, *metadata.outputs)] == [
            ("input", "FP32", (-1, 3, 16, 16)),
            ("logits", "FP32", (-1, CLASSES)),
        ]
        facts = metadata.facts
        assert (facts["file"], facts["labels"]) == ("tiny.onnx", list(METADATA.labels))
        assert str(graph.parent) not in str(facts)
        assert plane.metadata("foreign").facts["classifier"] is False
        assert plane.default_model() == "tiny"
        assert [(one.name, one.version, one.state) for one in plane.index()] == [
            ("foreign", "1", "READY"),
            ("tiny", "1", "READY"),
        ]
        assert plane.live()
        assert plane.ready()
        plane.gate.drain()
        assert (plane.ready(), plane.draining(), plane.model_ready("tiny")) == (False, True, True)
        assert len(logits(await plane.infer(infer("tiny", samples(1))))) == 1

    within(work, plane_of(foreign, graph, threads=1))


def test_the_likeliest_classes_in_place_of_values(graph: Path) -> None:
    async def work(plane: DataPlane) -> None:
        batch = samples(2)
        response = await plane.infer(infer("tiny", batch, outputs=(RequestedOutput("logits", classes=2),)))
        (tensor,) = response.outputs
        assert (tensor.datatype, tensor.data.shape) == ("BYTES", (2, 2))
        best = [text.decode().split(":") for text in tensor.data[:, 0]]
        expected = answers(graph, batch)
        assert [int(index) for _, index, _ in best] == expected.argmax(axis=1).tolist()
        assert [label for _, _, label in best] == [METADATA.labels[at] for at in expected.argmax(axis=1)]

    within(work, plane_of(graph, threads=1))


def test_an_engine_that_varies_in_more_than_its_batch_is_refused(tmp_path: Path) -> None:
    import onnx

    from tests.tiny import tiny_graph

    model = tiny_graph()
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"
    onnx.save(model, tmp_path / "free.onnx")
    with pytest.raises(UnsupportedError, match="varies in 'height'"):
        plane_of(tmp_path / "free.onnx")


def test_a_model_that_fails_on_zeros_is_not_served() -> None:
    sessions = [FakeSession(), FakeSession(fail_on={0})]
    left = iter(sessions)
    with pytest.raises(RunError, match="told to fail"):
        fake_plane(lambda _: next(left), instances=2)
    assert [session.closed for session in sessions] == [True, True]


def test_closing_answers_what_was_accepted_and_refuses_the_rest() -> None:
    session = FakeSession(delay=0.02)

    async def work() -> None:
        plane = fake_plane(lambda _: session, max_batch=2)
        batch = samples(20)
        tasks = [asyncio.create_task(plane.infer(infer("fake", batch[at : at + 1]))) for at in range(20)]
        await until(lambda: plane.statistics()["fake"]["requests"]["accepted"] == 20)
        closing = asyncio.create_task(plane.close())
        await asyncio.sleep(0)
        with pytest.raises(UnavailableError):
            await plane.infer(infer("fake", batch[:1]))
        with pytest.raises(UnavailableError):
            await plane.reload("fake")
        found = np.concatenate([logits(await task) for task in tasks])
        await closing
        weights = FakeSession()
        np.testing.assert_array_equal(found, weights.expected(batch))
        assert session.closed
        assert not plane.model_ready("fake")
        await plane.close()

    asyncio.run(work())


def test_what_is_held_waits_with_its_deadline_and_goes_on() -> None:
    async def work(plane: DataPlane) -> None:
        plane.gate.hold()
        plane.gate.hold()
        waiting = asyncio.create_task(plane.infer(infer("fake", samples(1))))
        short = asyncio.create_task(plane.infer(infer("fake", samples(1), timeout=0.01)))
        gone = asyncio.create_task(plane.infer(infer("fake", samples(1))))
        await asyncio.sleep(0.03)
        assert plane.gate.held == 3
        gone.cancel()
        await asyncio.sleep(0)
        assert (plane.gate.held, plane.statistics()["fake"]["requests"]["accepted"]) == (2, 0)
        plane.gate.release()
        assert len(logits(await waiting)) == 1
        with pytest.raises(DeadlineExceeded):
            await short
        assert len(logits(await plane.infer(infer("fake", samples(1))))) == 1

    within(work, fake_plane(lambda _: FakeSession()))
