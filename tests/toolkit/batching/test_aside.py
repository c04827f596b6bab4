"""Sessions on the host with large batches: the next one is copied while one computes."""

import subprocess
import sys
import threading
from typing import ClassVar

import numpy as np
import pytest

from engines.errors import RunError
from engines.sessions.fake import FakeSession
from engines.sessions.onnxruntime import OnnxRuntimeSession
from tests.toolkit.batching.conftest import batcher_threads
from tests.toolkit.batching.sessions import PATIENCE, Gated, poisoned, sample, within
from toolkit import Batcher
from toolkit.runtime.batching import aside, worker

LARGE = (1 << 18,)
"""A sample of 1 MiB, of which four make a batch that is worth a thread."""


def large(**options):
    return Gated(LARGE, 1, **options)


def right(session, value, answer):
    expected = session.expected(sample(value, LARGE)[None])[0]
    np.testing.assert_array_equal(answer.result(PATIENCE)["logits"], expected)


def until(condition):
    for _ in range(PATIENCE * 1000):
        if condition():
            return
        threading.Event().wait(0.001)
    raise AssertionError("it never came to that")


@pytest.fixture
def always_beside(monkeypatch):
    monkeypatch.setattr(worker, "FEW", 1000)


def test_a_full_batch_is_taken_while_another_runs_and_a_smaller_one_when_it_has_ended(always_beside):
    session = large()
    with Batcher(session, max_batch=4, max_delay=0) as batcher:
        answers = [batcher.submit(sample(0, LARGE))]
        within(session.entered.acquire)
        answers += [batcher.submit(sample(value, LARGE)) for value in range(1, 7)]
        until(lambda: batcher.stats().depth == 2)
        assert [answer.running() for answer in answers] == [True] * 5 + [False] * 2
        assert session.batches == []
        session.let_all()
        for value, answer in enumerate(answers):
            right(session, value, answer)
    assert session.batches == [1, 4, 2]


def test_the_worker_is_told_when_the_session_is_idle(always_beside):
    session = large()
    with Batcher(session, max_batch=4) as batcher:
        first = batcher.submit(sample(1, LARGE))
        within(session.entered.acquire)
        until(lambda: batcher._queue._gatherers)
        session.let()
        right(session, 1, first)
        second = batcher.submit(sample(2, LARGE))
        within(session.entered.acquire)
        third = batcher.submit(sample(3, LARGE))
        session.let_all()
        right(session, 2, second)
        right(session, 3, third)
    assert session.batches == [1, 1, 1]


def test_failures_are_those_of_one_batch(always_beside):
    session = large(fails=poisoned(3))
    with Batcher(session, max_batch=4) as batcher:
        answers = [batcher.submit(sample(0, LARGE))]
        within(session.entered.acquire)
        answers += [batcher.submit(sample(value, LARGE)) for value in range(1, 9)]
        session.let_all()
        for value in (0, 1, 2, 4, 5, 6, 7, 8):
            right(session, value, answers[value])
        with pytest.raises(RunError, match="there is a 3"):
            answers[3].result(PATIENCE)


def test_one_that_died_is_replaced(always_beside):
    fresh = FakeSession(LARGE, 1)
    with Batcher(
        FakeSession(LARGE, 1, fail_on=range(1, 1 << 60)), max_batch=4, restart=lambda dead: fresh
    ) as batcher:
        answers = [batcher.submit(sample(value, LARGE)) for value in range(12)]
        for value, answer in enumerate(answers):
            right(fresh, value, answer)
        assert batcher.stats().restarts == 1
    assert batcher_threads() == []


def test_closing_drains():
    session = large()
    batcher = Batcher(session, max_batch=4)
    answers = [batcher.submit(sample(value, LARGE)) for value in range(11)]
    session.let_all()
    batcher.close()
    for value, answer in enumerate(answers):
        assert answer.done()
        right(session, value, answer)


def test_many_threads_on_the_real_thing(graph_path, monkeypatch):
    monkeypatch.setattr(aside, "PIECE", 1)
    rng = np.random.default_rng(0)
    data = rng.standard_normal((64, 3, 16, 16)).astype(np.float32)
    with OnnxRuntimeSession(graph_path, device="cpu", threads=1) as session:
        expected = session.run({"input": data})["logits"]
        with Batcher(session, max_batch=16) as batcher:
            assert any(name.startswith("batcher-run") for name in batcher_threads()) is False
            got = {}

            def caller(number):
                for _ in range(10):
                    got[number] = batcher.run(data[number])["logits"]

            callers = [threading.Thread(target=caller, args=(number,)) for number in range(64)]
            for thread in callers:
                thread.start()
            for thread in callers:
                thread.join(PATIENCE)
            assert any(name.startswith("batcher-run") for name in batcher_threads())
            assert batcher.stats().requests["answered"] == 640
    np.testing.assert_allclose(np.stack([got[number] for number in range(64)]), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", ["(4,)", "(1 << 18,)"])
def test_an_interpreter_ends_with_a_batcher_left_open(shape):
    code = (
        "import numpy as np, toolkit\n"
        "from engines.sessions.fake import FakeSession\n"
        f"batcher = toolkit.Batcher(FakeSession({shape}, 1), max_batch=4)\n"
        f"print(batcher.run(np.zeros({shape}, np.float32)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert (done.returncode, done.stderr) == (0, "")
    assert "logits" in done.stdout


def test_a_small_batch_is_run_by_the_worker_itself_and_a_larger_one_beside_it():
    class Watched(Gated):
        threads: ClassVar[list[str]] = []

        def _run(self, feeds, batch):
            self.threads.append(threading.current_thread().name)
            return super()._run(feeds, batch)

    session = Watched(LARGE, 1)
    with Batcher(session, max_batch=8) as batcher:
        answers = [batcher.submit(sample(0, LARGE))]
        within(session.entered.acquire)
        answers += [batcher.submit(sample(value, LARGE)) for value in (1, 2, 3)]
        session.let_all()
        for value, answer in enumerate(answers):
            right(session, value, answer)
    assert session.batches == [1, 3]
    assert session.threads == ["batcher-0", "batcher-run_0"]
