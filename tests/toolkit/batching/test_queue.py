"""Who waits, for how long, in which order, and who is turned away."""

import gc
import threading
import weakref
from concurrent.futures import CancelledError

import numpy as np
import pytest

from engines.errors import DeadlineExceeded, InputError, Overloaded, RunError
from engines.sessions.fake import FakeSession
from tests.toolkit.batching.sessions import PATIENCE, sample, small, values, within
from toolkit import Batcher
from toolkit.runtime.batching.answer import Answer


@pytest.fixture
def busy():
    """A batcher, its gated session, and a first request that runs."""
    opened = []

    def make(**options):
        session = small()
        batcher = Batcher(session, **options)
        opened.append((batcher, session))
        first = batcher.submit(sample(0))
        within(session.entered.acquire)
        return batcher, session, first

    yield make
    for batcher, session in opened:
        session.let_all()
        batcher.close()


def test_an_idle_session_runs_at_once_and_what_comes_meanwhile_fills_the_next_batch(busy):
    batcher, session, first = busy(max_batch=4, max_delay=3600)
    answers = [batcher.submit(sample(value)) for value in range(1, 7)]
    assert batcher.stats().depth == 6
    assert first.running()
    assert not answers[0].running()
    session.let_all()
    results = [answer.result(PATIENCE)["logits"] for answer in answers]
    for value, result in enumerate(results, 1):
        np.testing.assert_array_equal(result, session.expected(sample(value)[None])[0])
    assert values(session) == [[0], [1, 2, 3, 4], [5, 6]]


def test_answers_do_not_wait_for_the_next_batch(busy):
    batcher, session, first = busy()
    second = batcher.submit(sample(1))
    session.let()
    assert first.result(PATIENCE)
    within(session.entered.acquire)
    assert not second.done()
    session.let_all()


def test_a_request_is_never_split(busy):
    batcher, session, _ = busy(max_batch=4)
    answers = [batcher.submit(sample(value, (count, 2))) for value, count in ((1, 3), (2, 2), (3, 2), (4, 1))]
    session.let_all()
    assert [len(answer.result(PATIENCE)["logits"]) for answer in answers] == [3, 2, 2, 1]
    assert session.batches == [1, 3, 4, 1]


def test_a_full_queue_refuses_at_once_and_counts_samples(busy):
    batcher, session, _ = busy(max_batch=4, queue=5)
    waiting = [batcher.submit(sample(1, (4, 2))), batcher.submit(sample(2))]
    with pytest.raises(Overloaded, match="5 samples wait already, of 5 that may") as caught:
        batcher.submit(sample(3))
    assert caught.value.remedy
    assert waiting[0].cancel()
    late = batcher.submit(sample(4, (4, 2)))
    with pytest.raises(Overloaded):
        batcher.run(sample(3))
    session.let_all()
    assert late.result(PATIENCE)["logits"].shape == (4, 1)
    assert batcher.stats().requests["refused"] == 2
    assert batcher.submit(sample(5)).result(PATIENCE)


def test_a_request_always_fits_an_empty_queue(busy):
    batcher, session, _ = busy(max_batch=4, queue=2)
    batcher.submit(sample(1, (4, 2)))
    with pytest.raises(Overloaded):
        batcher.submit(sample(2))
    session.let_all()


class TestDeadlines:
    def test_one_that_has_passed_is_told_while_the_session_is_still_busy_and_never_run(self, busy):
        batcher, session, first = busy()
        late = batcher.submit(sample(1), timeout=0.01)
        good = batcher.submit(sample(2), timeout=3600)
        with pytest.raises(DeadlineExceeded, match="had not begun to run") as caught:
            late.result()
        assert caught.value.remedy
        assert isinstance(late.exception(), DeadlineExceeded)
        assert batcher.stats().depth == 1
        session.let_all()
        assert first.result(PATIENCE)
        assert good.result(PATIENCE)
        assert values(session) == [[0], [2]]
        assert batcher.stats().requests["expired"] == 1

    def test_nobody_has_to_wait_for_it(self, busy):
        batcher, session, _ = busy()
        told = threading.Semaphore(0)
        late = batcher.submit(sample(1), timeout=1e-9)
        late.add_done_callback(lambda answer: told.release())
        batcher.submit(sample(2))
        session.let_all()
        within(told.acquire)
        assert isinstance(late.exception(), DeadlineExceeded)
        batcher.close()
        assert values(session) == [[0], [2]]

    def test_all_of_them_late_is_no_batch(self, busy):
        batcher, session, _ = busy()
        late = [batcher.submit(sample(1), timeout=1e-9) for _ in range(3)]
        session.let_all()
        batcher.close()
        assert session.batches == [1]
        assert {type(one.exception()) for one in late} == {DeadlineExceeded}

    def test_one_that_runs_is_told_and_its_batch_goes_on(self, busy):
        batcher, session, _ = busy()
        both = [batcher.submit(sample(1), timeout=0.05), batcher.submit(sample(2))]
        session.let()
        within(session.entered.acquire)
        with pytest.raises(DeadlineExceeded, match="time was up"):
            both[0].result()
        session.let_all()
        assert both[1].result(PATIENCE)
        assert isinstance(both[0].exception(0), DeadlineExceeded)
        assert values(session) == [[0], [1, 2]]
        assert batcher.stats().requests["answered"] == 2

    @pytest.mark.parametrize("timeout", [0, -1, float("nan")])
    def test_one_that_is_over_before_it_begins_is_refused(self, busy, timeout):
        batcher, session, _ = busy()
        with pytest.raises(DeadlineExceeded, match="over before it begins"):
            batcher.submit(sample(1), timeout=timeout)
        endless = batcher.submit(sample(1), timeout=float("inf"))
        session.let_all()
        assert endless.result()

    def test_waiting_no_longer_is_not_giving_up(self, busy):
        _, session, first = busy()
        with pytest.raises(TimeoutError, match=r"no answer after 0\.01 s"):
            first.result(0.01)
        with pytest.raises(TimeoutError):
            first.exception(timeout=0)
        assert first._listeners == []
        session.let_all()
        assert first.result(timeout=PATIENCE)


class TestCancelling:
    def test_what_waits_is_taken_back_and_what_runs_is_not(self, busy):
        batcher, session, first = busy()
        waits, stays = batcher.submit(sample(1)), batcher.submit(sample(2))
        told = []
        waits.add_done_callback(told.append)
        assert (first.cancel(), waits.cancel(), waits.cancel()) == (False, True, True)
        assert told == [waits]
        assert (waits.cancelled(), waits.done(), first.done()) == (True, True, False)
        for ask in (waits.result, waits.exception):
            with pytest.raises(CancelledError):
                ask()
        session.let_all()
        assert stays.result(PATIENCE)
        assert not stays.cancel()
        assert values(session) == [[0], [2]]
        assert batcher.stats().requests["cancelled"] == 1

    def test_those_who_come_and_go_take_no_memory(self, busy):
        batcher, _, _ = busy(queue=10)
        stays = batcher.submit(sample(1))
        gone = [weakref.ref(np.zeros(2, np.float32))]
        for _ in range(100):
            request = sample(2)
            gone.append(weakref.ref(request))
            assert batcher.submit(request).cancel()
        del request
        assert [one() for one in gone] == [None] * 101
        assert sum(map(len, batcher._queue._lanes._lanes.values())) <= 12
        assert batcher.stats().depth == 1
        assert not stays.done()

    def test_an_interrupted_caller_takes_its_request_back(self, busy, monkeypatch):
        batcher, session, _ = busy()

        def interrupted(self, timeout=None):
            raise KeyboardInterrupt

        monkeypatch.setattr(Answer, "result", interrupted)
        with pytest.raises(KeyboardInterrupt):
            batcher.run(sample(1))
        session.let_all()
        batcher.close()
        assert session.batches == [1]


def test_higher_priorities_go_first_and_equal_ones_in_their_order(busy):
    batcher, session, _ = busy(max_batch=2)
    for value, priority in ((1, 0), (2, -1), (3, 5), (4, 0), (5, 5), (6, 7)):
        batcher.submit(sample(value), priority=priority)
    session.let_all()
    batcher.close()
    assert values(session) == [[0], [6, 3], [5, 1], [4, 2]]


def test_a_priority_is_a_whole_number(busy):
    batcher, _, _ = busy()
    with pytest.raises(InputError, match="priority is 'high'"):
        batcher.submit(sample(1), priority="high")
    assert batcher.stats().depth == 0


class TestClosing:
    def test_it_drains_and_refuses(self, busy):
        batcher, session, _ = busy(max_batch=2)
        answers = [batcher.submit(sample(value)) for value in range(5)]
        closing = threading.Thread(target=batcher.close)
        closing.start()
        while not batcher._queue._closed:  # the thread is on its way there
            pass
        with pytest.raises(RunError, match="the batcher is closed"):
            batcher.submit(sample(9))
        assert not any(answer.done() for answer in answers)
        session.let_all()
        closing.join(PATIENCE)
        assert not closing.is_alive()
        assert all(answer.result(0) for answer in answers)
        batcher.close()
        assert batcher.stats().sessions == 0

    def test_after_its_timeout_what_waits_is_answered_and_what_runs_is_waited_for(self, busy):
        batcher, session, first = busy()
        waits = batcher.submit(sample(1))
        waits.add_done_callback(lambda answer: session.let())
        batcher.close(timeout=0)
        with pytest.raises(RunError, match="closed before this request ran"):
            waits.result(0)
        assert first.result(0)
        assert session.batches == [1]

    def test_a_callback_may_close_it(self, busy):
        batcher, session, first = busy()
        closed = threading.Semaphore(0)
        waits = batcher.submit(sample(1))

        def close(answer):
            batcher.close()
            closed.release()

        first.add_done_callback(close)
        session.let_all()
        within(closed.acquire)
        assert waits.result(PATIENCE)
        for thread in batcher._threads:
            thread.join(PATIENCE)

    def test_one_that_is_dropped_ends_its_threads(self):
        session = FakeSession()
        batcher = Batcher(session)
        threads = batcher._threads
        assert batcher.run(np.zeros((3, 16, 16), np.float32))
        del batcher
        gc.collect()
        assert not any(thread.is_alive() for thread in threads)

    def test_one_that_is_dropped_while_the_lock_is_held_waits_for_it(self):
        batcher = Batcher(FakeSession())
        threads, lock = batcher._threads, batcher._queue.lock
        with lock:
            del batcher
            gc.collect()
        for thread in threads:
            thread.join(PATIENCE)
        for thread in threading.enumerate():
            if thread.name == "batcher-end":
                thread.join(PATIENCE)


def test_a_callback_that_fails_is_logged_and_harms_nobody(busy, caplog):
    batcher, session, first = busy()

    def fail(answer):
        raise SystemExit("oops")

    first.add_done_callback(fail)
    second = batcher.submit(sample(1))
    session.let_all()
    assert second.result(PATIENCE)
    assert "a callback of an answer failed" in caplog.text
    told = []
    first.add_done_callback(told.append)
    assert told == [first]


def test_stats_tell_what_happened(busy):
    batcher, session, _ = busy(max_batch=2, queue=7)
    for value in range(3):
        batcher.submit(sample(value))
    during = batcher.stats()
    assert (during.depth, during.limit, during.sessions) == (3, 7, 1)
    session.let_all()
    batcher.close()
    after = batcher.stats()
    assert after.batches == {1: 2, 2: 1}
    assert after.requests == {
        "accepted": 4, "answered": 4, "failed": 0, "cancelled": 0, "expired": 0, "refused": 0, "invalid": 0,
    }  # fmt: skip
    assert (after.waiting.count, after.staging.count, after.running.count) == (4, 3, 3)
    for times in (after.waiting, after.staging, after.running):
        assert sum(times.buckets) == times.count
        assert 0 < times.mean <= times.largest <= times.seconds
    plain = after.to_json()
    assert len(plain["bounds"]) + 1 == len(plain["waiting"]["buckets"])
    assert plain["batches"] == {"1": 2, "2": 1}
