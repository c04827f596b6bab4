"""Sessions that fail a batch, and sessions that die."""

import threading

import numpy as np
import pytest

from engines.errors import DeadlineExceeded, InputError, Overloaded, RunError
from engines.sessions.fake import FakeSession
from tests.toolkit.batching.sessions import PATIENCE, Gated, poisoned, sample, small, values, within
from toolkit import Batcher
from toolkit.runtime.batching.layout import Layout
from toolkit.runtime.batching.staging import Stager

FOR_EVER = range(1 << 60)


def right(session, value, answer):
    np.testing.assert_array_equal(answer.result(PATIENCE)["logits"], session.expected(sample(value)[None])[0])


def queued(session, batcher, count):
    """A first request that runs, and others behind it; then the session is let go on."""
    answers = [batcher.submit(sample(0))]
    within(session.entered.acquire)
    answers += [batcher.submit(sample(value)) for value in range(1, count)]
    session.let_all()
    return answers


def test_a_request_that_fails_its_batch_fails_alone():
    session = small(fails=poisoned(2))
    with Batcher(session, max_batch=4) as batcher:
        answers = queued(session, batcher, 6)
        for value in (0, 1, 3, 4, 5):
            right(session, value, answers[value])
        with pytest.raises(RunError, match="there is a 2 in it"):
            answers[2].result(PATIENCE)
        stats = batcher.stats()
    zeros = [0]
    assert values(session) == [[0], [1, 2, 3, 4], zeros, [1], [2], zeros, [3], [4], [5]]
    assert (stats.failures, stats.retries, stats.restarts, stats.sessions) == (2, 4, 0, 1)
    assert stats.requests["failed"] == 1


def test_without_retries_the_batch_is_told_and_the_next_one_runs():
    session = small(fails=poisoned(2))
    with Batcher(session, max_batch=2, retries=0) as batcher:
        answers = queued(session, batcher, 5)
        errors = [answers[value].exception(PATIENCE) for value in (1, 2)]
        right(session, 0, answers[0])
        right(session, 3, answers[3])
        right(session, 4, answers[4])
    assert [str(error) for error in errors] == ["there is a 2 in it (take it out)"] * 2
    assert errors[0] is not errors[1], "each caller raises an error of its own"


def test_what_is_no_error_of_ours_becomes_one_with_its_cause():
    session = small(fails=lambda data: ZeroDivisionError("by zero") if data.any() else None)
    session.let_all()
    with Batcher(session) as batcher:
        with pytest.raises(RunError, match="ZeroDivisionError: by zero") as caught:
            batcher.run(sample(1))
        assert isinstance(caught.value.__cause__, ZeroDivisionError)
        assert batcher.run(sample(0))


def test_a_cancelled_or_late_request_is_not_retried():
    session = small(fails=poisoned(1))
    with Batcher(session, max_batch=1) as batcher:
        answers = [batcher.submit(sample(1)), batcher.submit(sample(2), timeout=3600)]
        within(session.entered.acquire)
        batcher._queue.expire(answers[0])
        session.let_all()
        right(session, 2, answers[1])
        assert answers[0].exception(0)
    assert values(session) == [[1], [0], [2]]


def test_one_that_died_is_replaced_and_nobody_notices():
    dead, fresh = FakeSession((2,), 1, fail_on=range(1, 1 << 60)), FakeSession((2,), 1)
    asked = []

    def restart(session):
        asked.append(session)
        with pytest.raises(RunError, match="is closed"):
            session.check_open()
        return fresh

    with Batcher(dead, restart=restart) as batcher:
        for value in range(4):
            right(fresh, value, batcher.submit(sample(value)))
        stats = batcher.stats()
    assert asked == [dead]
    assert (stats.restarts, stats.sessions, stats.failures, stats.retries) == (1, 1, 1, 1)
    with pytest.raises(RunError, match="is closed"):
        fresh.check_open()


def test_a_request_that_another_session_runs_already_is_not_failed_with_the_one_that_died():
    dead, other = FakeSession((2,), 1, fail_on=FOR_EVER), small()

    def restart(_):
        # The request that it failed is run by the other session, once that is through with its own.
        within(other.entered.acquire)
        other.let()
        within(other.entered.acquire)
        raise RunError("not now", "wait")

    with Batcher([dead, other], max_batch=1, restart=restart) as batcher:
        dying = batcher._workers[0]
        answers = [batcher.submit(sample(value)) for value in (1, 2)]
        batcher._threads[0].join(PATIENCE)
        assert not dying.counts.alive
        other.let()
        for value, answer in zip((1, 2), answers, strict=True):
            right(other, value, answer)
        assert batcher.stats().requests["failed"] == 0


def test_a_replacement_may_die_too():
    made = []

    def restart(session):
        made.append(FakeSession((2,), 1, fail_on=FOR_EVER if len(made) < 1 else ()))
        return made[-1]

    with Batcher(FakeSession((2,), 1, fail_on=FOR_EVER), restart=restart, retries=2) as batcher:
        assert batcher.run(sample(1))
    assert len(made) == 2


def test_the_last_one_that_dies_leaves_nobody_waiting():
    session = small(fails=lambda data: RunError("the device is gone", "plug it in"))
    with Batcher(session, max_batch=2) as batcher:
        answers = queued(session, batcher, 7)
        for answer in answers:
            with pytest.raises(RunError, match="the session on cpu died: the device is gone"):
                answer.result(PATIENCE)
        with pytest.raises(RunError, match="died: the device is gone"):
            batcher.submit(sample(1))
        stats = batcher.stats()
    assert (stats.sessions, stats.depth, stats.requests["failed"]) == (0, 0, 7)
    with pytest.raises(RunError, match="is closed"):
        session.check_open()


def test_the_others_go_on_when_one_has_died():
    dying, other = small(fails=lambda data: RunError("gone", "")), small()
    with Batcher([dying, other], max_batch=1) as batcher:
        answers = [batcher.submit(sample(value)) for value in range(2)]
        within(dying.entered.acquire)
        within(other.entered.acquire)
        dying.let_all()
        batcher._threads[0].join(PATIENCE)
        assert not batcher._threads[0].is_alive()
        other.let_all()
        for value, answer in enumerate(answers):
            right(other, value, answer)
        right(other, 7, batcher.submit(sample(7)))
        assert batcher.stats().sessions == 1


def no_restart(session):
    raise OSError("no device")


@pytest.mark.parametrize(
    ("restart", "cause"),
    [
        (no_restart, "died: .*told to fail.*restarting it failed: no device"),
        (lambda session: FakeSession((3,), 1), "the engine in its place has other inputs or outputs"),
        (lambda session: session, "is closed"),
    ],
)
def test_a_restart_that_fails_is_reported(restart, cause):
    with Batcher(FakeSession((2,), 1, fail_on=FOR_EVER), restart=restart) as batcher:
        with pytest.raises((RunError, InputError), match=cause):
            batcher.run(sample(1))
        with pytest.raises(RunError, match=cause):
            batcher.submit(sample(1))


def test_a_session_closed_by_somebody_else_is_a_dead_one():
    session = FakeSession((2,), 1)
    with Batcher(session, restart=lambda dead: FakeSession((2,), 1)) as batcher:
        assert batcher.run(sample(1))
        session.close()
        right(session, 2, batcher.submit(sample(2)))


def test_a_mistake_of_our_own_leaves_nobody_waiting(monkeypatch):
    def broken(self, outputs, batch, size):
        raise SystemExit("not even an Exception")

    with Batcher(FakeSession((2,), 1)) as batcher:
        monkeypatch.setattr(Layout, "share", broken)
        with pytest.raises(RunError, match="SystemExit: not even an Exception"):
            batcher.submit(sample(1)).result(PATIENCE)


def test_death_while_closing_answers_everyone():
    session = small(fails=lambda data: RunError("gone", ""))
    batcher = Batcher(session, max_batch=1)
    answers = [batcher.submit(sample(value)) for value in range(5)]
    within(session.entered.acquire)
    closing = threading.Thread(target=batcher.close)
    closing.start()
    session.let_all()
    closing.join(PATIENCE)
    assert all(isinstance(answer.exception(0), RunError) for answer in answers)
    with pytest.raises(RunError, match="the batcher is closed"):
        batcher.submit(sample(1))


def test_requests_wait_while_a_session_is_replaced():
    died, may_come = threading.Semaphore(0), threading.Semaphore(0)

    def restart(session):
        died.release()
        within(may_come.acquire)
        return FakeSession((2,), 1)

    dead = Gated((2,), 1, fails=lambda data: RunError("gone", ""))
    dead.let_all()
    with Batcher(dead, restart=restart, queue=3) as batcher:
        first = batcher.submit(sample(1))
        within(died.acquire)
        second = batcher.submit(sample(2, (2, 2)))
        with pytest.raises(Overloaded):
            batcher.submit(sample(3))
        may_come.release()
        assert first.result(PATIENCE)
        assert second.result(PATIENCE)


def test_a_request_whose_time_is_up_while_it_is_staged_fails_nobody(monkeypatch):
    reached, go = threading.Event(), threading.Event()
    fill = Stager.fill

    def late(self, *arguments):
        reached.set()
        assert go.wait(PATIENCE)
        fill(self, *arguments)

    session = small()
    session.let_all()
    with Batcher(session) as batcher:
        monkeypatch.setattr(Stager, "fill", late)
        answer = batcher.submit(sample(1), timeout=0.05)
        assert reached.wait(PATIENCE)
        with pytest.raises(DeadlineExceeded):
            answer.result()
        go.set()
        batcher.submit(sample(2)).result(PATIENCE)
        assert batcher.stats().failures == 0
