"""What slots are made of on any machine: shapes of a batch, memory of the host, and copying in pieces."""

import threading
import time

import numpy as np
import pytest

from engines.errors import InputError, RunError, UnsupportedError
from engines.sessions import staging
from engines.sessions.fake import FakeSession
from engines.sessions.slots import batch_shapes
from engines.sessions.staging import Copier
from engines.tensors import TensorSpec

NAMED = TensorSpec("x", "float32", ("batch", 3))


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        ((NAMED,), {"x": (4, 3)}),
        ((NAMED, TensorSpec("mask", "bool", ("batch",))), {"x": (4, 3), "mask": (4,)}),
        ((NAMED, TensorSpec("scale", "float32", (1,))), {"x": (4, 3), "scale": (1,)}),
        ((TensorSpec("x", "float32", (4, 3)),), {"x": (4, 3)}),
    ],
)
def test_the_batch_is_the_only_thing_that_varies(inputs, expected):
    assert batch_shapes(inputs, 4) == expected


def test_other_batches_and_other_free_dimensions_are_refused_by_name():
    with pytest.raises(InputError, match="exactly 8, not 4"):
        batch_shapes((TensorSpec("x", "float32", (8, 3)),), 4)
    with pytest.raises(UnsupportedError, match=r"'words' varies in 'length'"):
        batch_shapes((NAMED, TensorSpec("words", "int64", ("batch", "length"))), 4)


def test_a_slot_on_the_host_is_laid_out_once_and_fails_as_its_session_does():
    with FakeSession(max_batch=4, fail_on={0}) as session:
        slot, other = session.slots()
        first = slot.inputs(4)["input"]
        assert np.shares_memory(first, slot.inputs(2)["input"])
        assert not np.shares_memory(first, other.inputs(4)["input"])
        slot.inputs(1)["input"][:] = 0
        with pytest.raises(RunError, match="told to fail on run 0"):
            slot.start()
        with pytest.raises(RunError, match="nothing under way"):
            slot.wait()
        slot.start()
        np.testing.assert_array_equal(slot.wait()["logits"], np.zeros((1, 5)))


class TestCopier:
    @pytest.fixture
    def copier(self, monkeypatch):
        monkeypatch.setattr(staging, "PIECE", 64)
        copier = Copier()
        yield copier
        copier.close()

    @pytest.mark.parametrize("shape", [(7, 4), (8, 4), (1, 64), (3,), (), (5, 100), (64, 1)])
    def test_the_pieces_follow_each_other_to_the_end(self, copier, shape):
        source = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        target, reached = np.zeros_like(source), 0
        for start, nbytes in copier.copy(target, source):
            assert start == reached
            reached += nbytes
            done = target.reshape(-1).view(np.uint8)[:reached]
            np.testing.assert_array_equal(done, source.reshape(-1).view(np.uint8)[:reached])
        assert reached == source.nbytes

    def test_gaps_and_byte_order_are_taken_out(self, copier):
        source = np.asfortranarray(np.arange(60, dtype=">f4").reshape(20, 3))
        target = np.zeros((20, 3), np.float32)
        list(copier.copy(target, source))
        np.testing.assert_array_equal(target, source)

    def test_who_stops_listening_finds_nothing_writing_any_more(self, copier, monkeypatch):
        def slow(target, source, copy=np.copyto):
            time.sleep(0.02)
            copy(target, source)

        monkeypatch.setattr(staging.np, "copyto", slow)
        source, target = np.ones((64, 4), np.float32), np.zeros((64, 4), np.float32)
        pieces = copier.copy(target, source)
        next(pieces)
        pieces.close()
        before = target.copy()
        time.sleep(0.1)
        np.testing.assert_array_equal(target, before)

    def test_small_arrays_need_no_threads_and_closing_ends_them(self, copier):
        def running():
            return [thread for thread in threading.enumerate() if thread.name.startswith("staging")]

        list(copier.copy(np.zeros(4), np.ones(4)))
        assert running() == []
        list(copier.copy(np.zeros(400), np.ones(400)))
        assert running()
        copier.close()
        assert running() == []
