"""What can be asked, what is refused before it is queued, and that each gets the answer to its own question."""

import threading

import numpy as np
import pytest

import toolkit
from engines.errors import InputError, RunError, UnsupportedError
from engines.sessions.fake import FakeSession
from tests.toolkit.batching.sessions import Plain, sample, small
from toolkit import Batcher
from toolkit.runtime.batching import staging


def some(count, shape=(3, 16, 16), seed=0):
    return np.random.default_rng(seed).standard_normal((count, *shape)).astype(np.float32)


def test_one_sample_is_answered_without_the_batch_axis_and_several_with_it(new_session):
    data = some(6)
    with new_session() as alone, Batcher(new_session(), max_batch=8) as batcher:
        expected = alone.run({"input": data})["logits"]
        one = batcher.run(data[0])
        assert one["logits"].shape == (5,)
        np.testing.assert_allclose(one["logits"], expected[0], rtol=1e-5, atol=1e-5)
        for count in (1, 2, 6):
            several = batcher.run(data[:count])["logits"]
            assert several.shape == (count, 5)
            np.testing.assert_allclose(several, expected[:count], rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(batcher.run({"input": data[0]})["logits"], one["logits"])
        np.testing.assert_array_equal(batcher.submit({"input": data}).result()["logits"].shape, (6, 5))


class Subclass(np.ndarray):
    def __array_function__(self, func, types, args, kwargs):
        raise AssertionError("the batcher copies plain arrays")


@pytest.mark.parametrize(
    "change",
    [
        np.asfortranarray,
        lambda data: data.astype(">f4"),
        lambda data: data.repeat(2, axis=-1)[..., ::2],
        lambda data: data[::-1][::-1],
        lambda data: data.view(Subclass),
    ],
    ids=["fortran", "big-endian", "gaps", "reversed", "subclass"],
)
def test_any_layout_in_memory_will_do(change):
    data = some(3, (4, 5))
    changed = change(data)
    with FakeSession((4, 5)) as session, Batcher(session) as batcher:
        expected = session.expected(data)
        np.testing.assert_array_equal(batcher.run(changed)["logits"], expected)
        np.testing.assert_array_equal(batcher.run(changed[1])["logits"], expected[1])
        read_only = data[2]
        read_only.flags.writeable = False
        np.testing.assert_array_equal(batcher.run(read_only)["logits"], expected[2])


def two_inputs():
    def function(feeds):
        weighed = feeds["x"] * feeds["weight"][:, None]
        return {"sum": weighed.sum(axis=1), "double": 2 * weighed}

    inputs = [("x", "float32", ("n", 3)), ("weight", "float32", ("n",))]
    return Plain(inputs, [("sum", "float32", ("n",)), ("double", "float32", ("m", 3))], function)


def test_several_inputs_outputs_and_scalars_a_sample():
    x, weight = some(4, (3,)), np.arange(4, dtype=np.float32)
    with Batcher(two_inputs(), max_batch=4) as batcher:
        several = batcher.run({"x": x, "weight": weight})
        np.testing.assert_array_equal(several["double"], 2 * x * weight[:, None])
        one = batcher.run({"x": x[1], "weight": weight[1, ...]})
        assert (one["sum"].shape, one["double"].shape) == ((), (3,))
        np.testing.assert_array_equal(one["double"], several["double"][1])
        pair = batcher.run({"x": x[2:3], "weight": weight[2:3]})
        assert (pair["sum"].shape, pair["double"].shape) == ((1,), (1, 3))
        with pytest.raises(InputError, match="weight has one sample without the batch axis, input x 4 samples"):
            batcher.submit({"x": x, "weight": weight[1, ...]})
        with pytest.raises(InputError, match="weight has 3 samples, input x 4 samples"):
            batcher.submit({"x": x, "weight": weight[:3]})
        with pytest.raises(InputError, match="one value for 2 inputs"):
            batcher.submit(x)
        with pytest.raises(InputError, match="no value for input weight"):
            batcher.submit({"x": x})
        with pytest.raises(InputError, match="unknown input bias"):
            batcher.submit({"x": x, "weight": weight, "bias": weight})


@pytest.mark.parametrize("name", ["sum", "double"])
def test_one_output_is_enough(name):
    session = two_inputs()
    session._outputs = tuple(spec for spec in session.outputs if spec.name == name)
    with Batcher(session) as batcher:
        assert set(batcher.run({"x": some(1, (3,))[0], "weight": np.float32([2])[0, ...]})) == {name}


def test_a_fixed_batch_is_filled_up_with_zeros():
    session = Plain([("x", "uint8", (4, 2))], [("y", "uint8", (4, 2))], lambda feeds: {"y": feeds["x"] + np.uint8(1)})
    with Batcher(session, max_batch=32) as batcher:
        assert batcher.max_batch == 4
        for count in (4, 1, 3):
            data = np.full((count, 2), 10 + count, np.uint8)
            np.testing.assert_array_equal(batcher.run(data)["y"], data + 1)
        assert batcher.stats().batches == {1: 1, 3: 1, 4: 1}
    np.testing.assert_array_equal(session.fed[1]["x"], [[11, 11], [0, 0], [0, 0], [0, 0]])


def test_a_smaller_batch_than_the_fixed_one_can_be_asked_for():
    session = Plain([("x", "int8", (8, 1))], [("y", "int8", (8, 1))], lambda feeds: {"y": feeds["x"] * 2})
    with Batcher(session, max_batch=2) as batcher:
        np.testing.assert_array_equal(batcher.run(np.int8([[1], [2]]))["y"], [[2], [4]])
        with pytest.raises(InputError, match="has 3 samples"):
            batcher.submit(np.int8([[1], [2], [3]]))


def test_large_batches_are_copied_by_several_threads(monkeypatch):
    shape = (2, 512, 512)
    session = Plain(
        [("x", "float32", ("n", *shape))], [("y", "float32", ("n", 2))], lambda feeds: {"y": feeds["x"][:, :, 7, 9]}
    )
    data = np.arange(12 * 2 * 512 * 512, dtype=np.float32).reshape(12, *shape)
    copied = set()

    def watched(target, parts, copy=staging._copy):
        copied.add(threading.current_thread().name)
        copy(target, parts)

    monkeypatch.setattr(staging, "_copy", watched)
    monkeypatch.setattr(staging.os, "cpu_count", lambda: 4)
    with Batcher(session, max_batch=8) as batcher:
        batcher.submit(data[0]).result()
        assert copied == {"batcher-0"}
        answers = [batcher.submit(part) for part in (data[:7], data[::-1][:8], data[4], data[5], data[6:8])]
        got = [answer.result()["y"] for answer in answers]
        batcher.close()
        sizes = batcher.stats().batches
    expected = data[:, :, 7, 9]
    for one, right in zip(
        got, (expected[:7], expected[::-1][:8], expected[4], expected[5], expected[6:8]), strict=True
    ):
        np.testing.assert_array_equal(one, right)
    assert {"batcher-0", "batcher-staging_0"} < copied
    assert max(sizes) == 8
    assert session.fed[2]["x"].shape[0] == 8


@pytest.mark.parametrize("bad", ["thread", "own"])
def test_a_copy_that_fails_is_the_batchs_failure(monkeypatch, bad):
    def failing(target, parts, copy=staging._copy):
        if (threading.current_thread().name == "batcher-0") == (bad == "own"):
            raise MemoryError("no room")
        copy(target, parts)

    monkeypatch.setattr(staging, "PIECE", 8)
    monkeypatch.setattr(staging.os, "cpu_count", lambda: 2)
    with FakeSession((4,), 1) as session, Batcher(session, retries=0) as batcher:
        with monkeypatch.context() as patch:
            patch.setattr(staging, "_copy", failing)
            with pytest.raises(RunError, match="MemoryError: no room"):
                batcher.submit(np.zeros((4, 4), np.float32)).result()
        assert batcher.run(np.zeros((4, 4), np.float32))


@pytest.mark.parametrize(
    ("given", "cause"),
    [
        (sample(1, (3,)), r"input has shape \[3\]"),
        (sample(1, (1, 3)), r"has shape \[1, 3\]"),
        (sample(1, (1, 1, 2)), r"has shape \[1, 1, 2\]"),
        (sample(1, ()), r"has shape \[\]"),
        (sample(1).astype(np.float64), "is float64, not float32"),
        (np.array([None, None]), "is object, not float32"),
        ([1.0, 2.0], "is list, not float32"),
        (None, "is NoneType, not float32"),
        (sample(1, (0, 2)), "has 0 samples"),
        (sample(1, (5, 2)), "has 5 samples"),
        ({"inputs": sample(1)}, "no value for input input"),
        ({"input": sample(1), 7: sample(1)}, "unknown input 7"),
        ({"input": "text"}, "is str, not float32"),
    ],
)
def test_a_bad_sample_fails_alone_before_it_is_queued(given, cause):
    session = small()
    with session, Batcher(session, max_batch=4) as batcher:
        good = batcher.submit(sample(1))
        with pytest.raises(InputError, match=cause) as caught:
            batcher.submit(given)
        assert caught.value.remedy
        session.let_all()
        assert good.result()["logits"].shape == (1,)
        assert batcher.stats().requests["invalid"] == 1
        assert batcher.stats().requests["accepted"] == 1
    assert session.batches == [1]


def test_a_result_is_the_callers_own():
    with FakeSession((2,), 3) as session, Batcher(session) as batcher:
        first = batcher.run(np.float32([[1, 2], [3, 4]]))["logits"]
        kept = first.copy()
        second = batcher.run(np.float32([[5, 6], [7, 8]]))["logits"]
        np.testing.assert_array_equal(first, kept)
        second[:] = 0
        np.testing.assert_array_equal(
            batcher.run(np.float32([5, 6]))["logits"], session.expected(np.float32([[5, 6]]))[0]
        )


@pytest.mark.parametrize(
    "options",
    [
        {"max_batch": 0}, {"max_batch": 2.5}, {"queue": 0}, {"max_delay": -1}, {"max_delay": float("nan")},
        {"max_delay": float("inf")}, {"retries": -1}, {"slots": 0}, {"max_batch": 9},
    ],
    ids=str,
)  # fmt: skip
def test_options_that_make_no_sense_are_refused(options):
    with FakeSession(max_batch=8) as session, pytest.raises(InputError) as caught:
        Batcher(session, **options)
    assert caught.value.remedy


def test_sessions_have_to_be_of_one_engine():
    with pytest.raises(InputError, match="no session"):
        Batcher([])
    with pytest.raises(InputError, match="different inputs or outputs"):
        Batcher([FakeSession((2,)), FakeSession((3,))])


@pytest.mark.parametrize(
    ("inputs", "outputs", "cause"),
    [
        ([], [("y", "int8", (1,))], "no inputs"),
        ([("x", "int8", ())], [("y", "int8", (1,))], "'x' is x"),
        ([("x", "int8", ("n", 2)), ("scale", "int8", (1,))], [("y", "int8", ("n",))], "'scale' is scale"),
        ([("x", "int8", ("n", 2)), ("z", "int8", ("m", 2))], [("y", "int8", ("n",))], "'z' is z"),
        ([("x", "int8", ("n", 2))], [("y", "int8", ())], "'y' is y"),
        ([("x", "int8", (4, 2))], [("y", "int8", (3, 2))], "'y' is y"),
        ([("x", "int8", ("n", "length"))], [("y", "int8", ("n",))], "varies in 'length'"),
    ],
)
def test_engines_without_a_batch_everywhere_cannot_be_batched(inputs, outputs, cause):
    with pytest.raises(UnsupportedError, match=cause):
        Batcher(Plain(inputs, outputs, dict))


def test_outputs_that_are_not_one_a_sample_are_an_error_and_not_a_mix_up():
    session = Plain([("x", "int8", ("n", 1))], [("y", "int8", ("m",))], lambda feeds: {"y": feeds["x"].sum(axis=0)})
    with (
        Batcher(session, retries=0) as batcher,
        pytest.raises(RunError, match=r"'y' has shape \[1\] for a batch of 2"),
    ):
        batcher.run(np.int8([[1], [2]]))


def test_the_session_lives_on_and_its_slots_are_spent():
    with FakeSession() as session:
        with Batcher(session):
            pass
        assert session.run({"input": some(1)})["logits"].shape == (1, 5)
        with pytest.raises(RunError, match="has its slots already"):
            Batcher(session)


def test_the_front_door_leads_there():
    assert toolkit.Batcher is Batcher
    assert issubclass(toolkit.Overloaded, toolkit.ToolkitError)
    assert issubclass(toolkit.DeadlineExceeded, toolkit.ToolkitError)
