"""A caller that waits runs an idle session itself, and leaves everything as if its worker had."""

import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from engines.errors import DeadlineExceeded, InputError, RunError
from engines.sessions.fake import FakeSession
from engines.sessions.onnxruntime import OnnxRuntimeSession
from engines.sessions.torch import TorchSession
from tests.toolkit.batching.sessions import PATIENCE, DeviceLike, Gated, poisoned, sample, small, within
from toolkit import Batcher
from toolkit.runtime.batching import aside


class Interrupt(BaseException):
    """What an interrupt raises in here."""


class Watched(FakeSession):
    """Notes the thread of each run, and does something there first."""

    def __init__(self, before=lambda: None, **options):
        super().__init__((2,), 1, **options)
        self.before, self.threads = before, []

    def _run(self, feeds, batch):
        self.threads.append(threading.current_thread())
        self.before()
        return super()._run(feeds, batch)


def idle(batcher, seats=1):
    """Wait until so many workers have nothing to do."""
    until = time.monotonic() + PATIENCE
    while len(batcher._queue._idle) != seats:
        assert time.monotonic() < until, "they never came to rest"
        time.sleep(0.0005)
    return batcher


def right(session, value, result):
    np.testing.assert_array_equal(result["logits"], session.expected(sample(value)[None])[0])


def in_thread(function):
    thread = threading.Thread(target=function)
    thread.start()
    return thread


def test_a_caller_runs_an_idle_session_and_the_worker_what_is_only_submitted():
    session = Watched()
    with Batcher(session) as batcher:
        idle(batcher)
        for value in range(3):
            right(session, value, batcher.run(sample(value)))
        right(session, 3, batcher.submit(sample(3)).result(PATIENCE))
        right(session, 4, idle(batcher).run(sample(4, (2, 2))[0]))
        stats = batcher.stats()
    me = threading.current_thread()
    assert [thread is me for thread in session.threads] == [True, True, True, False, True]
    assert (stats.requests["accepted"], stats.requests["answered"], stats.batches) == (5, 5, {1: 5})
    assert stats.waiting.count == stats.staging.count == stats.running.count == 5


@pytest.mark.parametrize("beside", [False, True], ids=["small", "large"])
def test_the_real_thing_gives_the_same_answer(graph_path, monkeypatch, beside):
    monkeypatch.setattr(aside, "PIECE", 1 if beside else aside.PIECE)
    data = np.random.default_rng(0).standard_normal((5, 3, 16, 16)).astype(np.float32)
    with OnnxRuntimeSession(graph_path, device="cpu", threads=1) as session:
        expected = session.run({"input": data})["logits"]
        with Batcher(session, max_batch=8) as batcher:
            for _ in range(2):
                carried = idle(batcher).run(data)["logits"]
                np.testing.assert_allclose(carried, expected, rtol=1e-5, atol=1e-6)
                own = batcher.submit(data).result(PATIENCE)["logits"]
                np.testing.assert_allclose(own, expected, rtol=1e-5, atol=1e-6)


def test_who_comes_meanwhile_is_run_together_when_the_caller_is_through():
    session = small()
    with Batcher(session) as batcher:
        idle(batcher)
        results = []
        first = in_thread(lambda: results.append(batcher.run(sample(0))))
        within(session.entered.acquire)
        answers = [batcher.submit(sample(value)) for value in (1, 2)]
        late = in_thread(lambda: results.append(batcher.run(sample(3))))
        while batcher.stats().depth < 3:
            pass  # the thread is on its way there
        assert not session.entered.acquire(timeout=0.02), "two at one session"
        session.let_all()
        for thread in (first, late):
            thread.join(PATIENCE)
        for value, answer in enumerate(answers, 1):
            right(session, value, answer.result(PATIENCE))
        assert len(results) == 2
    assert session.batches == [1, 3]


def test_another_idle_session_is_woken_while_a_caller_has_the_first():
    one, other = small(), small()
    with Batcher([one, other]) as batcher:
        idle(batcher, 2)
        first = in_thread(lambda: batcher.run(sample(1)))
        while batcher.stats().requests["accepted"] < 1:
            pass
        second = batcher.submit(sample(2))
        within(one.entered.acquire)
        within(other.entered.acquire)
        one.let_all()
        other.let_all()
        assert second.result(PATIENCE)
        first.join(PATIENCE)
        idle(batcher, 2)


def test_a_run_that_fails_is_tried_again_by_the_worker():
    session = Watched(fail_on={0})
    with Batcher(session) as batcher:
        right(session, 1, idle(batcher).run(sample(1)))
        stats = batcher.stats()
        idle(batcher)
    me = threading.current_thread()
    assert [thread is me for thread in session.threads][:2] == [True, False]
    assert (stats.failures, stats.retries, stats.restarts) == (1, 1, 0)


def test_a_request_that_fails_its_session_again_is_told_so_and_the_next_one_runs():
    session = small(fails=poisoned(7))
    session.let_all()
    with Batcher(session) as batcher:
        with pytest.raises(RunError, match="there is a 7"):
            idle(batcher).run(sample(7))
        right(session, 1, batcher.run(sample(1)))


def test_a_session_that_dies_under_its_caller_is_replaced():
    fresh = FakeSession((2,), 1)
    with Batcher(FakeSession((2,), 1, fail_on=range(1 << 60)), restart=lambda dead: fresh) as batcher:
        for _ in range(2):
            right(fresh, 1, idle(batcher).run(sample(1)))
        assert batcher.stats().restarts == 1


def test_or_its_caller_is_told_and_nobody_may_come_any_more():
    with Batcher(FakeSession((2,), 1, fail_on=range(1 << 60))) as batcher:
        for _ in range(2):
            with pytest.raises(RunError, match="died: the fake session was told to fail"):
                idle(batcher).run(sample(1)) if batcher.stats().sessions else batcher.run(sample(1))
            batcher._threads[0].join(PATIENCE)


def test_a_caller_with_a_timeout_is_told_in_time():
    session = small()
    with Batcher(session) as batcher:
        idle(batcher)
        with pytest.raises(DeadlineExceeded, match="was running"):
            batcher.run(sample(1), timeout=0.02)
        session.let_all()


def test_closing_waits_for_a_caller_that_runs_a_session():
    session = small()
    batcher = idle(Batcher(session))
    results = []
    caller = in_thread(lambda: results.append(batcher.run(sample(1))))
    within(session.entered.acquire)
    waits = batcher.submit(sample(2))
    closing = in_thread(batcher.close)
    while not batcher._queue._closed:
        pass
    with pytest.raises(RunError, match="the batcher is closed"):
        batcher.run(sample(3))
    session.let_all()
    closing.join(PATIENCE)
    caller.join(PATIENCE)
    right(session, 1, results[0])
    right(session, 2, waits.result(0))


def test_a_signals_handler_may_close_it_in_the_middle_of_a_run():
    session = Watched()
    batcher = idle(Batcher(session))
    session.before = batcher.close
    right(session, 1, batcher.run(sample(1)))
    batcher._threads[0].join(PATIENCE)
    batcher.close()
    assert session.threads == [threading.current_thread()]


def test_what_is_refused_is_refused_as_ever():
    with Batcher(Watched()) as batcher:
        with pytest.raises(InputError, match="priority is 'high'"):
            idle(batcher).run(sample(1), priority="high")
        assert batcher.stats().requests["accepted"] == 0
    with pytest.raises(RunError, match="the batcher is closed"):
        batcher.run(sample(1))


def test_sessions_that_are_not_for_every_thread_are_left_to_their_workers():
    beside = DeviceLike((2,), 1)
    beside.finish()
    own = Watched()
    own.any_thread = False
    assert not TorchSession.any_thread
    with Batcher([beside]) as first, Batcher([own]) as second:
        assert idle(first).run(sample(1))
        assert idle(second).run(sample(1))
    assert own.threads[0] is not threading.current_thread()


@pytest.mark.parametrize("at", ["run", "wait"])
def test_an_interrupted_caller_leaves_a_session_that_works(monkeypatch, at):
    session = Watched()
    with Batcher(session) as batcher:
        idle(batcher)
        slot = batcher._workers[0]._keeper.own
        target, name = (session, "before") if at == "run" else (slot, "wait")

        def interrupt():
            monkeypatch.undo()
            raise Interrupt

        monkeypatch.setattr(target, name, interrupt)
        with pytest.raises(Interrupt):
            batcher.run(sample(1))
        idle(batcher)
        right(session, 2, batcher.submit(sample(2)).result(PATIENCE))
        right(session, 3, batcher.run(sample(3)))
        counts = batcher.stats().requests
    assert (counts["accepted"], counts["answered"], counts["failed"]) == (3, 2, 1)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="there are no timers here that interrupt")
def test_interrupts_at_any_time():
    """In a process of its own: an interrupt that strikes while another library's object is finalised may end it."""
    program = f"from {__name__} import interrupts; interrupts()"
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", program],
        capture_output=True, text=True, check=False, cwd=Path(__file__).resolve().parents[3], timeout=3 * PATIENCE,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def interrupts():
    """A timer interrupts the main thread somewhere in a run, hundreds of times; another thread asks all the while."""
    rng, armed, wrong, over = random.Random(0), [False], [], threading.Event()

    def handler(number, frame):
        assert armed[0], "nothing happened since the last one"
        armed[0] = False
        raise Interrupt

    session = FakeSession((2,), 1)
    batcher = Batcher(session, restart=lambda dead: FakeSession((2,), 1))

    def other():
        while not over.wait(0.002):
            if not np.array_equal(batcher.run(sample(5))["logits"], session.expected(sample(5)[None])[0]):
                wrong.append(5)

    session.expected(sample(5)[None])  # its weights are drawn by the first who asks
    before = signal.signal(signal.SIGALRM, handler)
    thread = in_thread(other)
    interrupted = 0
    try:
        for turn in range(300):
            try:
                armed[0] = True
                signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-6, 3e-4), PATIENCE)
                while armed[0]:
                    right(session, turn, batcher.run(sample(turn)))
            except Interrupt:
                interrupted += 1
        signal.setitimer(signal.ITIMER_REAL, 0)
        over.set()
        thread.join(PATIENCE)
        right(session, 1, batcher.submit(sample(1)).result(PATIENCE))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        over.set()
    batcher.close(PATIENCE)
    assert interrupted > 200
    assert wrong == []
    assert batcher.stats().depth == 0
    assert not any(one.is_alive() for one in batcher._threads)


def test_threads_that_come_and_go_find_it_as_it_was():
    """Bursts and lulls: seats change hands between callers and workers all the time."""
    sessions = [Gated((2,), 1), Gated((2,), 1)]
    for session in sessions:
        session.gate = threading.Semaphore(1 << 30)
    wrong = []

    def caller(number):
        rng = random.Random(number)
        for turn in range(60):
            result = batcher.run(sample(number))
            if not np.array_equal(result["logits"], sessions[0].expected(sample(number)[None])[0]):
                wrong.append((number, turn))
            time.sleep(rng.choice((0, 0, 1e-4, 1e-3)))

    with Batcher(sessions, max_batch=4) as batcher:
        threads = [in_thread(lambda number=number: caller(number)) for number in range(6)]
        for thread in threads:
            thread.join(PATIENCE)
        counts = idle(batcher, 2).stats().requests
    assert wrong == []
    assert counts["answered"] == counts["accepted"] == 360
