"""What an answer tells of the batch that gave it its result."""

from time import monotonic

import pytest

from engines.errors import RunError
from tests.toolkit.batching.sessions import PATIENCE, DeviceLike, poisoned, sample, small, within
from toolkit import Batcher


def in_order(answer):
    ride = answer.ride
    return answer.arrived <= ride.began <= ride.staged <= ride.ended <= monotonic()


def test_those_who_ran_together_had_one_ride():
    session = small()
    with Batcher(session, max_batch=4) as batcher:
        first = batcher.submit(sample(0))
        within(session.entered.acquire)
        together = [batcher.submit(sample(value, shape)) for value, shape in ((1, (2,)), (2, (2, 2)))]
        assert first.ride is None
        session.let_all()
        for answer in (first, *together):
            answer.result(PATIENCE)
            assert in_order(answer)
    assert together[0].ride is together[1].ride is not first.ride
    assert (first.ride.size, together[0].ride.size, first.ride.device) == (1, 3, "cpu")
    assert first.ride.ended <= together[0].ride.began


def test_a_retried_request_tells_of_the_batch_that_answered_it_and_a_failed_one_of_none():
    session = small(fails=poisoned(2))
    with Batcher(session, max_batch=4) as batcher:
        batcher.submit(sample(0))
        within(session.entered.acquire)
        good, bad = batcher.submit(sample(1)), batcher.submit(sample(2))
        session.let_all()
        good.result(PATIENCE)
        with pytest.raises(RunError):
            bad.result(PATIENCE)
        assert (good.ride.size, bad.ride) == (1, None)
        assert in_order(good)


def test_it_tells_the_device():
    session = DeviceLike((2,), 1)
    session.finish()
    with Batcher(session) as batcher:
        answer = batcher.submit(sample(1))
        answer.result(PATIENCE)
        assert (answer.ride.device, in_order(answer)) == ("cuda:0", True)
