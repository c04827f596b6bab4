"""That the simulated GPU objects: each of its rules once, broken by a spoiled session."""

import numpy as np
import pytest

from engines.errors import RunError
from engines.sessions.stage import Stage, Streams
from tests.conformance import samples
from tests.engines import simulated, simulated_trt
from tests.engines.simulated_trt import linear, warm


@pytest.mark.parametrize("left_out", ["copied", "computed"])
def test_a_stream_that_does_not_wait_for_another(simulate, monkeypatch, left_out):
    index = {"copied": 1, "computed": 3}[left_out]
    original = Stage._enqueue

    def spoiled(stage, *arguments):
        missing = stage._timers[index]
        with monkeypatch.context() as patch:
            wait = simulated.Stream.wait
            patch.setattr(simulated.Stream, "wait", lambda s, event: None if event is missing else wait(s, event))
            original(stage, *arguments)

    monkeypatch.setattr(Stage, "_enqueue", spoiled)
    with (
        simulate(simulated_trt.Engine(linear), graphs=False) as session,
        pytest.raises(RunError, match="while other work may still write it"),
    ):
        session.run({"input": samples(2)})


def test_an_answer_that_is_read_before_its_event(simulate, monkeypatch):
    monkeypatch.setattr(Stage, "wait", lambda stage: setattr(stage, "_ran", False))
    with simulate(simulated_trt.Engine(linear)) as session:
        logits = session.run({"input": samples(2)})["logits"]
    assert np.abs(logits).max() < 1e-10, "garbage (0xA5 in every byte)"


def test_an_input_that_is_changed_while_it_is_copied(simulate):
    with simulate(simulated_trt.Engine(linear)) as session:
        slot, _ = session.slots()
        view = slot.inputs(2)["input"]
        view[:] = samples(2)
        slot.start()
        view[:] = 0
        with pytest.raises(RunError, match="changed while its copy was under way"):
            slot.wait()


def test_two_stages_on_one_memory(simulate):
    with simulate(simulated_trt.Engine(linear)) as session:
        one, two = session.slots()
        for slot in (one, two):
            slot.inputs(2)["input"][:] = samples(2)
        warm(one, two)
        two._stage._staged = one._stage._staged
        one.start()
        with pytest.raises(RunError, match="is overwritten while other work may still read it"):
            two.start()
        one.wait()
        two._stage._staged = {}


def test_closing_without_waiting(simulate, monkeypatch):
    session = simulate(simulated_trt.Engine(linear))
    slot, _ = session.slots()
    slot.inputs(2)["input"][:] = samples(2)
    slot.start()
    with monkeypatch.context() as patch:
        patch.setattr(Streams, "sync", lambda streams: None)
        with pytest.raises(AssertionError, match="while other work may still"):
            session.close()


def test_two_streams_on_one_scratch_memory(simulate):
    engine = simulated_trt.Engine(linear)
    with simulate(engine) as session, session.sibling() as other:
        other._plan._scratch, kept = session._plan._scratch, other._plan._scratch
        one, two = session.slots()[0], other.slots()[0]
        for slot in (one, two):
            slot.inputs(2)["input"][:] = samples(2)
        one.start()
        with pytest.raises(RunError, match="while other work may still write it"):
            two.start()
        other._plan._scratch = kept
        one.wait()
