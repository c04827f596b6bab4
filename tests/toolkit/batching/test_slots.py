"""Where copies and computing overlap: when the next batch is staged."""

import numpy as np

from engines.errors import RunError
from tests.conformance import samples
from tests.engines import simulated_trt
from tests.engines.conftest import simulate  # noqa: F401 - a fixture
from tests.engines.simulated_trt import linear
from tests.toolkit.batching.sessions import PATIENCE, DeviceLike, sample, within
from toolkit import Batcher

AGES = 3600.0


def new(**options):
    session = DeviceLike((2,), 1)
    return session, Batcher(session, **options)


def right(session, value, answer):
    np.testing.assert_array_equal(answer.result(PATIENCE)["logits"], session.expected(sample(value)[None])[0])


def test_a_full_batch_is_staged_while_another_computes_and_answers_keep_their_order():
    session, batcher = new(max_batch=2, max_delay=AGES)
    with batcher:
        first = batcher.submit(sample(0))
        slot = session.first(1)[0]
        within(slot.looked.acquire)  # nothing is known of its time, so its worker waits for it
        answers = [batcher.submit(sample(value)) for value in range(1, 6)]
        slot.finished.set()
        right(session, 0, first)
        _, one, two = session.first(3)
        assert one is not two
        assert [one.batch, two.batch] == [2, 2]
        assert not any(answer.done() for answer in answers), "both are under way"
        within(one.looked.acquire)
        two.finished.set()
        one.finished.set()
        for value in range(1, 5):
            right(session, value, answers[value - 1])
        last = session.first(4)[3]
        assert last.batch == 1, "the session was idle, so it didn't wait for company"
        last.finished.set()
        right(session, 5, answers[4])


def test_a_busy_session_waits_for_company_until_its_batch_is_full():
    session, batcher = new(max_batch=3, max_delay=AGES)
    with batcher:
        batcher._workers[0]._expected[1] = AGES
        first = batcher.submit(sample(0))
        session.first(1)
        answers = [batcher.submit(sample(value)) for value in (1, 2, 3)]
        second = session.first(2)[1]
        assert second.batch == 3
        assert not first.done()
        session.finish()
        for value, answer in enumerate([first, *answers]):
            right(session, value, answer)


def test_but_nobody_waits_for_company_longer_than_max_delay():
    session, batcher = new(max_batch=3, max_delay=0.01)
    with batcher:
        batcher._workers[0]._expected[1] = AGES
        answers = [batcher.submit(sample(0))]
        session.first(1)
        answers.append(batcher.submit(sample(1)))
        assert session.first(2)[1].batch == 1
        assert not answers[0].done()
        session.finish()
        for value, answer in enumerate(answers):
            right(session, value, answer)


def test_the_expected_time_is_learnt_and_unlearnt():
    session, batcher = new()
    with batcher:
        expected = batcher._workers[0]._expected
        answer = batcher.submit(sample(0))
        slot = session.first(1)[0]
        within(slot.looked.acquire)
        slot.finished.set()
        right(session, 0, answer)
        assert 0 < expected[1] < PATIENCE
        expected[1] = 0.05
        session.finish()
        right(session, 1, batcher.submit(sample(1)))
        assert expected[1] <= 0.05 * 0.8


def test_a_batch_that_fails_on_its_way_takes_no_other_with_it():
    session, batcher = new(max_batch=1, retries=0)
    with batcher:
        first = batcher.submit(sample(0))
        slot = session.first(1)[0]
        within(slot.looked.acquire)
        answers = [batcher.submit(sample(value)) for value in (1, 2)]
        slot.finished.set()
        right(session, 0, first)
        bad, good = session.first(3)[1:]
        assert bad is not good
        bad.error = RunError("a fault in a kernel", "")
        session.finish()
        assert answers[0].exception(PATIENCE).cause == "a fault in a kernel"
        right(session, 2, answers[1])
        stats = batcher.stats()
    assert (stats.failures, stats.sessions) == (1, 1)


def test_a_batch_that_cannot_be_started_is_run_again():
    session, batcher = new()
    session.finish()
    session.refusal = RunError("too busy", "")
    with batcher:
        right(session, 1, batcher.submit(sample(1)))
        assert batcher.stats().retries == 1


def test_two_batches_are_in_a_session_on_a_gpu(simulate):  # noqa: F811
    with simulate(simulated_trt.Engine(linear)) as session:
        with Batcher(session, max_batch=4) as batcher:
            assert len(session._slots) == 2
            data = samples(40)
            answers = [batcher.submit(one) for one in data]
            got = np.stack([answer.result(PATIENCE)["logits"] for answer in answers])
        np.testing.assert_allclose(got, linear(data), rtol=1e-5, atol=1e-5)
