"""When the worker of a busy session takes the next batch."""

import threading
from time import monotonic

import pytest

from tests.toolkit.batching.sessions import PATIENCE, sample
from toolkit.runtime.batching.answer import Answer
from toolkit.runtime.batching.queue import RequestQueue


class TestGathering:
    """When the worker of a busy session takes the next batch."""

    @pytest.fixture
    def queue(self):
        return RequestQueue(100, 3, 3600.0, 1)

    def put(self, queue, count=1):
        answer = Answer(queue, (sample(1),), count, True, 0, None)
        queue.put(answer)
        return answer

    def gathering(self, queue, until):
        got = []
        thread = threading.Thread(target=lambda: got.append(queue.gather(until)))
        thread.start()
        while not queue._gatherers and thread.is_alive():
            pass
        return thread, got

    def test_it_waits_until_the_batch_is_full(self, queue):
        thread, got = self.gathering(queue, monotonic() + 3600)
        answers = [self.put(queue) for _ in range(3)]
        thread.join(PATIENCE)
        assert got == [answers]

    def test_a_full_one_is_due_even_if_the_session_should_be_idle(self, queue):
        answers = [self.put(queue) for _ in range(4)]
        assert queue.gather(0.0) == answers[:3]

    def test_it_gives_up_when_the_session_is_expected_to_be_idle(self, queue):
        assert queue.gather(monotonic() + 0.01) == []
        self.put(queue)
        before = monotonic()
        assert queue.gather(before + 0.01) == []
        assert monotonic() - before >= 0.01
        assert queue.depth == 1

    def test_nobody_waits_for_company_longer_than_max_delay(self, queue):
        queue.max_delay = 0.01
        thread, got = self.gathering(queue, monotonic() + 3600)
        answer = self.put(queue)
        thread.join(PATIENCE)
        assert got == [[answer]]
        assert monotonic() - answer.arrived >= 0.01

    def test_closing_ends_it(self, queue):
        thread, got = self.gathering(queue, monotonic() + 3600)
        queue.close()
        thread.join(PATIENCE)
        assert got == [[]]

    def test_what_has_been_cancelled_does_not_make_a_batch_due(self, queue):
        queue.max_delay = 0.0
        assert self.put(queue).cancel()
        assert queue.gather(0.0) == []
