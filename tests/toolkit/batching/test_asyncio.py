"""The batcher in event loops."""

import asyncio
import threading

import numpy as np
import pytest

from engines.errors import DeadlineExceeded, InputError, Overloaded, RunError
from engines.sessions.fake import FakeSession
from tests.toolkit.batching.sessions import PATIENCE, poisoned, sample, small, values, within
from toolkit import Batcher


def question(number, shape=(3, 16, 16)):
    return np.random.default_rng(number).standard_normal(shape).astype(np.float32)


def test_many_tasks_get_their_own_answers(new_session):
    async def main():
        async def ask(number):
            single = number % 3
            data = question(number, (3, 16, 16) if single else (number % 4 + 1, 3, 16, 16))
            return data, (await batcher.infer(data))["logits"]

        async with Batcher(new_session(), max_batch=8) as batcher:
            return await asyncio.gather(*(ask(number) for number in range(200)))

    pairs = asyncio.run(main())
    with new_session() as alone:
        for data, answer in pairs:
            expected = alone.run({"input": data if data.ndim == 4 else data[None]})["logits"]
            np.testing.assert_allclose(answer, expected if data.ndim == 4 else expected[0], rtol=1e-4, atol=1e-5)


def test_a_batch_wakes_each_loop_once():
    session = small()
    calls = []

    async def main(number, ready):
        loop = asyncio.get_running_loop()
        plain = loop.call_soon_threadsafe

        def counted(*arguments):
            calls.append(number)
            return plain(*arguments)

        async def ask(value):
            return await batcher.infer(sample(value))

        tasks = [asyncio.create_task(ask(value)) for value in range(4)]
        await asyncio.sleep(0)
        loop.call_soon_threadsafe = counted
        ready.release()
        results = await asyncio.gather(*tasks)
        loop.call_soon_threadsafe = plain
        return results

    with Batcher(session, max_batch=8) as batcher:
        first = batcher.submit(sample(9))
        within(session.entered.acquire)
        ready = threading.Semaphore(0)
        loops = [threading.Thread(target=lambda n=n: asyncio.run(main(n, ready))) for n in range(2)]
        for thread in loops:
            thread.start()
        within(ready.acquire)
        within(ready.acquire)
        session.let_all()
        for thread in loops:
            thread.join(PATIENCE)
        assert first.done()
    assert session.batches == [1, 8]
    assert sorted(calls) == [0, 1]


def test_cancelling_a_task_takes_its_request_back_and_leaves_the_others():
    session = small()

    async def main():
        async with Batcher(session, max_batch=4) as batcher:
            runs = asyncio.create_task(batcher.infer(sample(1)))
            await asyncio.to_thread(within, session.entered.acquire)
            waits, stays = (asyncio.create_task(batcher.infer(sample(value))) for value in (2, 3))
            await asyncio.sleep(0)
            assert batcher.stats().depth == 2
            waits.cancel()
            runs.cancel()
            for task in (waits, runs):
                with pytest.raises(asyncio.CancelledError):
                    await task
            assert batcher.stats().depth == 1
            session.let_all()
            assert await stays
            assert batcher.stats().requests["cancelled"] == 1

    asyncio.run(main())
    assert values(session) == [[1], [3]]


def test_errors_come_where_they_are_awaited():
    session = small(fails=poisoned(2))

    async def main():
        async with Batcher(session, queue=2) as batcher:
            first = batcher.submit(sample(1))
            await asyncio.to_thread(within, session.entered.acquire)
            with pytest.raises(DeadlineExceeded, match="had not begun to run"):
                await batcher.infer(sample(5), timeout=0.01)
            bad = asyncio.create_task(batcher.infer(sample(2)))
            taken_back = batcher.submit(sample(6))
            await asyncio.sleep(0)
            with pytest.raises(Overloaded):
                await batcher.infer(sample(3))
            with pytest.raises(InputError):
                await batcher.infer(sample(3, (3,)))
            taken_back.cancel()
            with pytest.raises(asyncio.CancelledError):
                await taken_back
            session.let_all()
            with pytest.raises(RunError, match="there is a 2"):
                await bad
            in_time = await asyncio.wait_for(first, PATIENCE)
            assert in_time is await first, "one that is done may be awaited again"
            assert await batcher.infer(sample(1), timeout=3600)

    asyncio.run(main())
    assert 5 not in {number for batch in values(session) for number in batch}


def test_one_answer_may_have_several_who_wait():
    session = small()

    async def main():
        with Batcher(session) as batcher:
            answer = batcher.submit(sample(1))

            async def wait():
                return await answer

            tasks = [asyncio.create_task(wait()) for _ in range(3)]
            thread = asyncio.create_task(asyncio.to_thread(answer.result))
            await asyncio.to_thread(within, session.entered.acquire)
            session.let()
            results = await asyncio.gather(*tasks, thread)
            assert all(one is results[0] for one in results)

    asyncio.run(main())


def test_a_loop_that_is_gone_holds_up_nobody():
    session = small()

    async def impatient():
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(batcher.infer(sample(1)), 0.01)

    def leave_at_once():
        async def ask():
            await batcher.infer(sample(2))

        loop = asyncio.new_event_loop()
        waiting = ask()
        task = loop.create_task(waiting)
        loop.call_later(0, loop.stop)
        loop.run_forever()
        loop.close()
        task._log_destroy_pending = False
        return task

    with Batcher(session) as batcher:
        asyncio.run(impatient())
        gone = leave_at_once()
        stays = batcher.submit(sample(3))
        session.let_all()
        assert stays.result(PATIENCE)
        gone.get_coro().close()


def test_threads_and_loops_share_one_batcher():
    with FakeSession((4,), 2) as session, Batcher([session, FakeSession((4,), 2)], max_batch=16) as batcher:
        wrong = []

        def check(number, answer):
            if not np.array_equal(answer["logits"], session.expected(question(number, (4,))[None])[0]):
                wrong.append(number)

        async def task(number):
            check(number, await batcher.infer(question(number, (4,))))

        async def all_tasks():
            await asyncio.gather(*(task(number) for number in range(200)))

        def thread():
            for number in range(200):
                check(number, batcher.run(question(number, (4,))))

        workers = [threading.Thread(target=thread) for _ in range(4)]
        workers += [threading.Thread(target=lambda: asyncio.run(all_tasks())) for _ in range(2)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(PATIENCE)
        assert wrong == []
        assert batcher.stats().requests["answered"] == 1200
