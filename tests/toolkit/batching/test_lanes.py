"""The order in which requests are run."""

from hypothesis import given
from hypothesis import strategies as st

from toolkit.runtime.batching.answer import CANCELLED, WAITING, Answer
from toolkit.runtime.batching.lanes import Lanes


class TestLanes:
    """Against a list that is sorted anew for every batch."""

    @given(
        st.lists(
            st.one_of(
                st.tuples(st.just("add"), st.integers(-1, 1), st.integers(1, 4), st.sampled_from([None, 5.0, 50.0])),
                st.tuples(st.just("leave"), st.integers(0, 30)),
                st.tuples(st.just("form"), st.sampled_from([1.0, 10.0])),
                st.tuples(st.just("fail"), st.integers(0, 30)),
            ),
            max_size=60,
        )
    )
    def test_order_size_and_depth(self, steps):
        lanes, model, running = Lanes(limit=3), [], []
        for step in steps:
            if step[0] == "add":
                answer = Answer(None, (), step[2], True, step[1], None)
                answer.deadline = step[3]
                lanes.add(answer)
                model.append(answer)
            elif step[0] == "leave" and model:
                answer = model.pop(step[1] % len(model))
                lanes.leave(answer)
                answer.state = CANCELLED
            elif step[0] == "fail" and running:
                answer = running.pop(step[1] % len(running))
                answer.state, answer.attempts = WAITING, 1
                lanes.add_first(answer)
                model.insert(0, answer)
            elif step[0] == "form":
                got = lanes.form(4, step[1])
                expected = self.expected(model, 4, step[1])
                assert got == expected
                for answer in got[1]:
                    answer.state = CANCELLED
                running += got[0]
                model = [one for one in model if one not in got[0] + got[1]]
            assert lanes.depth == sum(one.count for one in model)
            oldest = lanes.oldest()
            assert (oldest is None) == (not model)
            assert lanes._gone >= 0
        assert sorted(map(id, lanes.clear())) == sorted(map(id, model))
        assert (lanes.depth, lanes.oldest()) == (0, None)

    def expected(self, model, room, now):
        batch, late = [], []
        for answer in sorted(model, key=lambda one: -one.priority):
            if not room:
                break
            if answer.deadline is not None and answer.deadline <= now:
                late.append(answer)
            elif answer.count > room or (answer.attempts and batch):
                break
            else:
                batch.append(answer)
                room = 0 if answer.attempts else room - answer.count
        return batch, late
