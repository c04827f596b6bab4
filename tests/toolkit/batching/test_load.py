"""Many callers at once: each gets the answer to its own question, and everyone gets one."""

import asyncio
import threading
from concurrent.futures import CancelledError, ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.errors import DeadlineExceeded, InputError, Overloaded, RunError
from engines.sessions.fake import FakeSession
from tests.toolkit.batching.sessions import PATIENCE
from toolkit import Batcher

CALLERS = 64


def in_threads(function, count=CALLERS):
    """Call ``function(number)`` in as many threads, all let go at once; gives what they return."""
    barrier = threading.Barrier(count)

    def call(number):
        barrier.wait(PATIENCE)
        return function(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(call, range(count)))


def questions(number, rounds):
    """Requests of a caller: each a seed of its own, some of one sample and some of a few."""
    for turn in range(rounds):
        seed = 1000 * number + turn
        rng = np.random.default_rng(seed)
        count = seed % 5
        shape = (count, 3, 16, 16) if count else (3, 16, 16)
        yield rng.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("sessions", [1, 3])
def test_64_threads_with_mixed_sizes(new_session, sessions):
    rounds = 6

    def caller(number):
        return [(data, batcher.run(data)["logits"]) for data in questions(number, rounds)]

    with Batcher([new_session() for _ in range(sessions)], max_batch=16) as batcher:
        answers = [pair for pairs in in_threads(caller) for pair in pairs]
        stats = batcher.stats()
    with new_session() as alone:
        for data, answer in answers:
            expected = alone.run({"input": data if data.ndim == 4 else data[None]})["logits"]
            np.testing.assert_allclose(answer, expected if data.ndim == 4 else expected[0], rtol=1e-4, atol=1e-5)
    assert stats.requests["answered"] == CALLERS * rounds
    assert sum(size * count for size, count in stats.batches.items()) == sum(
        len(data) if data.ndim == 4 else 1 for data, _ in answers
    )
    assert max(stats.batches) <= 16


def test_everything_at_once_and_everyone_is_answered():
    """Bad samples, deadlines, cancelling, overload, failing runs and a session that dies, all under load."""
    shape, rounds = (4,), 40
    model = FakeSession(shape, 3)
    made = []

    def restart(dead):
        made.append(FakeSession(shape, 3))
        return made[-1]

    def caller(number):
        kinds = []
        for turn in range(rounds):
            data = np.random.default_rng(1000 * number + turn).standard_normal(shape).astype(np.float32)
            try:
                if turn % 10 == 3:
                    with pytest.raises(InputError):
                        batcher.submit(data[:3])
                answer = batcher.submit(data, timeout=0.0005 if turn % 10 == 5 else None, priority=number % 3)
                if turn % 10 == 7:
                    answer.cancel()
                logits = answer.result(PATIENCE)["logits"]
            except (Overloaded, DeadlineExceeded, CancelledError) as error:
                kinds.append(type(error))
            else:
                np.testing.assert_array_equal(logits, model.expected(data[None])[0])
                kinds.append(None)
        return kinds

    first = FakeSession(shape, 3, fail_on={5, 11, 12})
    second = FakeSession(shape, 3, fail_on=range(20, 1 << 60))
    with Batcher([first, second], max_batch=8, queue=40, restart=restart, retries=3) as batcher:
        kinds = [kind for answers in in_threads(caller) for kind in answers]
        stats = batcher.stats()
    counts = stats.requests
    assert len(kinds) == CALLERS * rounds
    assert counts["answered"] == kinds.count(None)
    assert counts["failed"] == 0
    assert (counts["refused"], counts["expired"]) == (kinds.count(Overloaded), kinds.count(DeadlineExceeded))
    assert counts["cancelled"] == kinds.count(CancelledError)
    assert counts["invalid"] == CALLERS * rounds // 10
    assert counts["accepted"] == counts["answered"] + counts["expired"] + counts["cancelled"]
    assert (stats.depth, stats.sessions) == (0, 2)
    assert len(made) == stats.restarts


def test_closing_under_load_answers_everything_that_was_accepted():
    session = FakeSession((2,), 1, delay=0.0005)
    batcher = Batcher(session, max_batch=4)
    under_load = threading.Semaphore(0)

    def caller(number):
        if number == 0:
            for _ in range(50):
                assert under_load.acquire(timeout=PATIENCE)
            batcher.close()
            return []
        answers = []
        try:
            while True:
                answers.append(batcher.submit(np.full(2, len(answers), np.float32)))
                under_load.release()
                answers[-1].result(PATIENCE)
        except RunError as error:
            assert "the batcher is closed" in str(error)  # noqa: PT017
        return answers

    lists = in_threads(caller, 16)
    answers = [answer for several in lists for answer in several]
    assert len(answers) >= 50
    assert all(answer.result(0) for answer in answers)
    assert batcher.stats().requests["answered"] == len(answers) == batcher.stats().requests["accepted"]


def test_dropping_under_load_tells_everyone():
    batcher = Batcher(FakeSession((2,), 1, delay=0.001), max_batch=1)
    answers = [batcher.submit(np.zeros(2, np.float32)) for _ in range(500)]
    batcher.close(timeout=0)
    outcomes = [answer.exception(0) for answer in answers]
    assert all(outcome is None or "closed before" in str(outcome) for outcome in outcomes)
    assert any(outcomes)


STEP = st.one_of(
    st.tuples(st.just("ask"), st.integers(0, 4), st.integers(-1, 1), st.sampled_from([None, None, 1e-6, 60.0])),
    st.tuples(st.just("cancel"), st.integers(0, 20)),
    st.tuples(st.just("wait"), st.integers(0, 20)),
    st.tuples(st.just("await"), st.integers(0, 20)),
    st.tuples(st.just("bad")),
)


@given(
    callers=st.lists(st.lists(STEP, max_size=20), min_size=1, max_size=3),
    sessions=st.integers(1, 3),
    max_batch=st.integers(4, 6),
    queue=st.integers(1, 12),
    fail_on=st.sets(st.integers(0, 12), max_size=6),
    retries=st.integers(0, 2),
    restarts=st.booleans(),
    patience=st.sampled_from([None, None, 0.0]),
)
@settings(max_examples=60, deadline=None)
def test_random_schedules(callers, sessions, max_batch, queue, fail_on, retries, restarts, patience):
    """Whatever happens: each answer is right or an error that may come, and the books balance."""
    model = FakeSession((2,), 3)
    batcher = Batcher(
        [FakeSession((2,), 3, fail_on=fail_on) for _ in range(sessions)],
        max_batch=max_batch, queue=queue, retries=retries,
        restart=(lambda dead: FakeSession((2,), 3, fail_on=fail_on)) if restarts else None,
    )  # fmt: skip

    def caller(number):
        asked = []

        async def waiting(answer):
            return await answer

        def judge(data, give):
            try:
                logits = give()["logits"]
            except (RunError, DeadlineExceeded, CancelledError, asyncio.CancelledError):
                return
            expected = model.expected(data if data.ndim == 2 else data[None])
            np.testing.assert_array_equal(logits, expected if data.ndim == 2 else expected[0])

        for turn, step in enumerate(callers[number]):
            pick = asked[step[1] % len(asked)] if asked and step[0] in {"cancel", "wait", "await"} else None
            if step[0] == "ask":
                shape = (step[1], 2) if step[1] else (2,)
                data = np.random.default_rng(100 * number + turn).standard_normal(shape).astype(np.float32)
                try:
                    asked.append((data, batcher.submit(data, priority=step[2], timeout=step[3])))
                except (Overloaded, RunError):
                    continue
            elif step[0] == "bad":
                with pytest.raises(InputError):
                    batcher.submit(np.zeros(2))
            elif pick is not None and step[0] == "cancel":
                pick[1].cancel()
            elif pick is not None and step[0] == "wait":
                judge(pick[0], lambda pick=pick: pick[1].result(PATIENCE))
            elif pick is not None:
                judge(pick[0], lambda pick=pick: asyncio.run(waiting(pick[1])))
        return asked, judge

    outcomes = in_threads(caller, len(callers))
    batcher.close(patience)
    for asked, judge in outcomes:
        for data, answer in asked:
            assert answer.done()
            judge(data, lambda answer=answer: answer.result(0))
    counts = batcher.stats().requests
    assert counts["accepted"] == sum(len(asked) for asked, _ in outcomes)
    assert counts["accepted"] == sum(counts[one] for one in ("answered", "failed", "cancelled", "expired"))
    assert batcher.stats().depth == 0
