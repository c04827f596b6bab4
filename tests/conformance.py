"""What every session must do, whatever runs below it; a test class inherits this and says how to open one."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

from engines.errors import InputError, RunError
from engines.sessions import Session
from engines.sessions.base import Slot
from engines.sessions.slots import DEFAULT_CAPACITY
from engines.tensors import Array


@dataclass(frozen=True)
class Case:
    """A way to open a session of a classifier with 5 classes on float32 [batch, 3, 16, 16], and its right answers.

    Attributes:
        open: a new session.
        expected: float32 samples to logits, computed by something else than the session.
        tolerance: how far a logit may be from the expected one, absolutely.
        device: the session runs apart from the host.
    """

    open: Callable[[], Session]
    expected: Callable[[Array], Array]
    tolerance: float
    device: bool = False


def samples(count: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal((count, 3, 16, 16)).astype(np.float32)


class Conformance:
    """Tests of the protocol; a subclass gives the fixture ``case``."""

    def test_it_says_what_it_takes_and_gives(self, case: Case):
        with case.open() as session:
            (given,), (answer,) = session.inputs, session.outputs
            assert (given.name, given.dtype, given.shape) == ("input", "float32", ("batch", 3, 16, 16))
            assert (answer.name, answer.dtype, answer.shape) == ("logits", "float32", ("batch", 5))
            assert session.metadata is not None
            assert len(session.metadata.labels) == 5
            assert session.info.versions

    @pytest.mark.parametrize("batch", [1, 2, 7, 8])
    def test_answers_are_right_at_every_batch_size(self, case: Case, batch: int):
        data = samples(batch, seed=batch)
        with case.open() as session:
            for _ in range(3):  # the first run may differ from later ones: lazy setup, graph capture
                logits = session.run({"input": data})["logits"]
                assert logits.shape == (batch, 5)
                assert logits.dtype == np.float32
                np.testing.assert_allclose(logits, case.expected(data), rtol=0, atol=case.tolerance)

    def test_batch_sizes_can_alternate(self, case: Case):
        data = samples(8)
        expected = case.expected(data)
        with case.open() as session:
            for batch in (8, 8, 8, 1, 1, 1, 8, 3, 3, 3, 1, 8, 3):
                logits = session.run({"input": data[:batch]})["logits"]
                np.testing.assert_allclose(logits, expected[:batch], rtol=0, atol=case.tolerance)

    def test_every_row_answers_its_own_sample(self, case: Case):
        data = samples(5)
        order = np.array([3, 0, 4, 1, 2])
        with case.open() as session:
            straight = session.run({"input": data})["logits"]
            shuffled = session.run({"input": data[order]})["logits"]
        np.testing.assert_allclose(shuffled, straight[order], rtol=0, atol=case.tolerance)
        assert np.abs(straight - straight[order]).max() > 10 * case.tolerance

    def test_odd_arrays_are_taken_as_what_they_hold(self, case: Case):
        data = samples(3)
        odd = {
            "strided": np.repeat(data, 2, axis=3)[..., ::2],
            "transposed": np.ascontiguousarray(data.transpose(2, 3, 0, 1)).transpose(2, 3, 0, 1),
            "other byte order": data.astype(data.dtype.newbyteorder()),
        }
        odd["read-only"] = data.copy()
        odd["read-only"].flags.writeable = False
        with case.open() as session:
            straight = session.run({"input": data})["logits"]
            for name, array in odd.items():
                logits = session.run({"input": array})["logits"]
                np.testing.assert_allclose(logits, straight, rtol=0, atol=case.tolerance, err_msg=name)

    @pytest.mark.parametrize(
        ("feeds", "message"),
        [
            ({}, "no value for input input"),
            ({"input": samples(1), "mask": samples(1)}, "unknown input mask"),
            ({"input": samples(1).astype(np.float64)}, "float64, not float32"),
            ({"input": (samples(1) * 255).astype(np.uint8)}, "uint8, not float32"),
            ({"input": samples(1)[0]}, r"shape \[3, 16, 16\]"),
            ({"input": samples(1)[:, :2]}, r"shape \[1, 2, 16, 16\]"),
            ({"input": samples(0)}, "empty"),
            ({"input": samples(1).tolist()}, "list, not float32"),
        ],
    )
    def test_feeds_that_do_not_fit_are_refused_and_do_no_harm(self, case: Case, feeds: dict, message: str):
        data = samples(2)
        with case.open() as session:
            with pytest.raises(InputError, match=message):
                session.run(feeds)
            np.testing.assert_allclose(
                session.run({"input": data})["logits"], case.expected(data), rtol=0, atol=case.tolerance
            )

    def test_outputs_belong_to_the_caller(self, case: Case):
        first, second = samples(2, seed=1), samples(2, seed=2)
        with case.open() as session:
            answer = session.run({"input": first})["logits"]
            kept = answer.copy()
            session.run({"input": second})
            np.testing.assert_array_equal(answer, kept)
            answer[:] = 99.0
            again = session.run({"input": first})["logits"]
            np.testing.assert_allclose(again, kept, rtol=0, atol=case.tolerance)
        assert (answer == 99.0).all(), "closing the session must not take its outputs back"

    def test_the_input_belongs_to_the_caller_again_after_the_run(self, case: Case):
        data = samples(2)
        before = data.copy()
        with case.open() as session:
            answer = session.run({"input": data})["logits"]
            kept = answer.copy()
            np.testing.assert_array_equal(data, before)
            data[:] = 0
            np.testing.assert_array_equal(answer, kept)

    def test_closing_twice_is_safe_and_a_closed_session_says_so(self, case: Case):
        session = case.open()
        session.run({"input": samples(1)})
        session.close()
        session.close()
        with pytest.raises(RunError, match="is closed"):
            session.run({"input": samples(1)})

    def test_leaving_the_block_closes_it_even_after_an_error(self, case: Case):
        with pytest.raises(ZeroDivisionError), case.open() as session:
            raise ZeroDivisionError
        with pytest.raises(RunError, match="is closed"):
            session.run({"input": samples(1)})

    def test_a_second_run_at_the_same_time_is_refused(self, case: Case):
        with case.open() as session:
            slot, _ = session.slots(max_batch=2)
            slot.inputs(1)["input"][:] = samples(1)
            assert session._owner.acquire(blocking=False), "nothing is running"  # as a run in another thread does
            try:
                for call in (lambda: session.run({"input": samples(1)}), slot.start):
                    with pytest.raises(RunError, match="already running in another thread"):
                        call()
            finally:
                session._owner.release()
            assert session.run({"input": samples(1)})["logits"].shape == (1, 5)

    def test_stage_times_are_of_the_device_or_absent(self, case: Case):
        with case.open() as session:
            session.run({"input": samples(4)})
            times = session.stage_times()
            if not case.device:
                assert times is None
                return
            assert times is not None
            assert min(times.copy_in, times.device, times.copy_out) >= 0
            assert 0 < times.device < 60
            assert session.info.device.startswith("cuda:")

    def test_two_sessions_do_not_disturb_each_other(self, case: Case):
        data = samples(3)
        expected = case.expected(data)
        with case.open() as one, case.open() as other:
            a = one.run({"input": data})["logits"]
            b = other.run({"input": data[:1]})["logits"]
            one.close()
            c = other.run({"input": data})["logits"]
        for logits in (a, b, c):
            np.testing.assert_allclose(logits, expected[: len(logits)], rtol=0, atol=case.tolerance)

    def test_slots_overlap_and_each_answers_its_own_batch(self, case: Case):
        batches = [samples(size, seed=size) for size in (8, 1, 3, 8, 5, 2, 8, 8, 4)]
        with case.open() as session:
            slots = session.slots(3, max_batch=8)
            assert [slot.capacity for slot in slots] == [8, 8, 8]
            for _ in range(2):  # the second time over, every batch size has been seen
                under_way: list[tuple[Slot, Array]] = []
                for number, data in enumerate(batches):
                    slot = slots[number % 3]
                    if len(under_way) == 3:
                        self.check(case, *under_way.pop(0))
                    view = slot.inputs(len(data))["input"]
                    assert (view.shape, view.dtype) == (data.shape, data.dtype)
                    view[:] = data
                    slot.start()
                    under_way.append((slot, data))
                for pair in under_way:
                    self.check(case, *pair)

    @staticmethod
    def check(case: Case, slot: Slot, data: Array) -> None:
        logits = slot.wait()["logits"]
        assert slot.done()
        assert logits.dtype == np.float32
        np.testing.assert_allclose(logits, case.expected(data), rtol=0, atol=case.tolerance)
        assert slot.wait()["logits"] is logits, "waiting again gives the same answer"

    def test_a_slot_can_run_again_what_it_holds_and_becomes_done_by_itself(self, case: Case):
        data = samples(3)
        with case.open() as session:
            (slot,) = session.slots(1, max_batch=4)
            assert not slot.done()
            slot.inputs(3)["input"][:] = data
            for _ in range(3):
                slot.start()
                for _ in range(100_000):
                    if slot.done():
                        break
                assert slot.done()
                self.check(case, slot, data)

    def test_runs_and_slots_do_not_disturb_each_other(self, case: Case):
        first, second, third = (samples(4, seed=seed) for seed in range(3))
        with case.open() as session:
            one, two = session.slots(max_batch=8)
            one.inputs(4)["input"][:] = first
            one.start()
            two.inputs(4)["input"][:] = second
            logits = session.run({"input": third})["logits"]
            two.start()
            self.check(case, one, first)
            self.check(case, two, second)
        np.testing.assert_allclose(logits, case.expected(third), rtol=0, atol=case.tolerance)

    def test_a_slot_keeps_its_order_of_calls(self, case: Case):
        data = samples(2)
        with case.open() as session:
            slot, _ = session.slots(2, max_batch=4)
            with pytest.raises(RunError, match="no batch to run"):
                slot.start()
            with pytest.raises(RunError, match="nothing under way"):
                slot.wait()
            for batch in (0, 5, -1):
                with pytest.raises(InputError, match="takes 1 to 4 samples"):
                    slot.inputs(batch)
            slot.inputs(2)["input"][:] = data
            slot.start()
            with pytest.raises(RunError, match="is under way"):
                slot.start()
            with pytest.raises(RunError, match="is under way"):
                slot.inputs(1)
            self.check(case, slot, data)
            slot.inputs(1)
            with pytest.raises(RunError, match="nothing under way"):
                slot.wait()

    def test_slots_are_made_once_and_closed_with_their_session(self, case: Case):
        with case.open() as session:
            with pytest.raises(InputError, match="0 slots"):
                session.slots(0)
            with pytest.raises(InputError, match="no batches of 0"):
                session.slots(2, max_batch=0)
            slot, busy = session.slots(2, max_batch=2)
            with pytest.raises(RunError, match="its slots already"):
                session.slots(2)
            busy.inputs(1)["input"][:] = samples(1)
            busy.start()  # closing waits for what is under way
        assert busy.done(), "waiting says at once that it is closed"
        for call in (lambda: slot.inputs(1), slot.start, slot.wait, busy.wait):
            with pytest.raises(RunError, match="is closed"):
                call()
        with pytest.raises(RunError, match="is closed"):
            session.slots()

    def test_slots_take_as_much_as_the_engine_unless_told(self, case: Case):
        with case.open() as session:
            limit = session.info.max_batch
            assert {slot.capacity for slot in session.slots()} == {limit or DEFAULT_CAPACITY}
        if limit is not None:
            with case.open() as session, pytest.raises(InputError, match=f"no batches of {limit + 1}"):
                session.slots(max_batch=limit + 1)
