"""The GPU session's own logic, on a GPU simulated in host memory; the real one runs in tests/gpu."""

import numpy as np
import pytest

from engines.errors import EngineFormatError, EngineMismatchError, InputError, RunError, UnsupportedError
from engines.sessions import plan_runner
from engines.sessions.plan_profiles import ProfileRange, choose_profile, largest_batch
from engines.sessions.tensorrt import TensorRTSession
from tests.conformance import Case, Conformance, samples
from tests.engines import simulated_trt
from tests.engines.simulated_trt import linear


class TestWithGraphs(Conformance):
    @pytest.fixture
    def case(self, simulate):
        return Case(lambda: simulate(simulated_trt.Engine(linear)), linear, 1e-5, device=True)


class TestWithoutGraphs(Conformance):
    @pytest.fixture
    def case(self, simulate):
        return Case(lambda: simulate(simulated_trt.Engine(linear), graphs=False), linear, 1e-5, device=True)


class TestSeveralProfiles(Conformance):
    @pytest.fixture
    def case(self, simulate):
        sizes = ((1, 1, 1), (2, 4, 8), (1, 8, 16))
        profiles = tuple(tuple((n, 3, 16, 16) for n in profile) for profile in sizes)
        return Case(lambda: simulate(simulated_trt.Engine(linear, profiles=profiles)), linear, 1e-5, device=True)


def test_the_first_run_of_a_shape_is_direct_and_later_ones_are_graphs(simulate):
    engine = simulated_trt.Engine(linear)
    with simulate(engine) as session:
        for _ in range(4):
            session.run({"input": samples(3)})
        used = [context for context in engine.contexts if context.shape[0] == 3]
    assert [(context.direct_runs, context.graph_runs) for context in used] == [(1, 3)]


def test_without_graphs_one_context_a_profile_serves_every_batch(simulate):
    engine = simulated_trt.Engine(linear)
    with simulate(engine, graphs=False) as session:
        for batch in (1, 2, 3, 2, 1):
            session.run({"input": samples(batch)})
    (context,) = engine.contexts
    assert (context.direct_runs, context.graph_runs) == (5, 0)


def test_contexts_are_bounded_and_an_evicted_shape_still_runs(simulate, monkeypatch):
    monkeypatch.setattr(plan_runner, "MAX_LANES", 3)
    engine = simulated_trt.Engine(linear)
    with simulate(engine) as session:
        for batch in (1, 2, 3, 4, 5, 1, 1, 1):
            data = samples(batch)
            np.testing.assert_allclose(session.run({"input": data})["logits"], linear(data), rtol=0, atol=1e-5)
        assert len(session._pipeline._main._program._lanes) == 3


def test_an_engine_that_cannot_be_captured_runs_on_and_says_so(simulate):
    engine = simulated_trt.Engine(linear, capturable=False)
    data = samples(2)
    with simulate(engine) as session:
        assert session.graph_problem == ""
        for _ in range(3):
            np.testing.assert_allclose(session.run({"input": data})["logits"], linear(data), rtol=0, atol=1e-5)
        assert "refused to be captured" in session.graph_problem


def test_scratch_memory_is_shared_by_all_contexts(simulate):
    engine = simulated_trt.Engine(linear, device_memory_size_v2=4096)
    with simulate(engine) as session:
        for batch in (1, 2, 8):
            session.run({"input": samples(batch)})
    assert len({context.scratch for context in engine.contexts}) == 1


def test_a_batch_outside_every_profile_is_refused_with_what_is_covered(simulate):
    profiles = (((2, 3, 16, 16), (4, 3, 16, 16), (8, 3, 16, 16)),)
    with simulate(simulated_trt.Engine(linear, profiles=profiles)) as session:
        assert session.info.max_batch == 8
        with pytest.raises(InputError, match="batch 9 is larger than the engine's largest, 8"):
            session.run({"input": samples(9)})
        with pytest.raises(InputError, match=r"no profile for input \[1, 3, 16, 16\]; it covers input \[2, 3"):
            session.run({"input": samples(1)})


def test_an_engine_of_fixed_shape_takes_that_batch(simulate):
    fixed = (4, 3, 16, 16)
    engine = simulated_trt.Engine(linear, profiles=((fixed,) * 3,), shapes={"input": fixed, "logits": (4, 5)})
    with simulate(engine) as session:
        assert session.inputs[0].shape == fixed
        data = samples(4)
        np.testing.assert_allclose(session.run({"input": data})["logits"], linear(data), rtol=0, atol=1e-5)


def test_an_engine_that_fails_while_it_runs_is_a_run_error(simulate):
    def broken(data):
        raise RuntimeError("an illegal memory access was encountered")

    session = simulate(simulated_trt.Engine(broken), graphs=False)
    with pytest.raises(RunError, match="failed on a batch of 2: an illegal memory access"):
        session.run({"input": samples(2)})
    assert session.stage_times() is None
    session.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"place": simulated_trt.Place.HOST}, "is a shape on the host"),
        ({"layout": simulated_trt.Layout.CHW32}, "vectorised layout"),
        ({"kind": simulated_trt.DataType.FP8}, "FP8, which numpy can't hold"),
        ({"shapes": {"input": (-1, 3, 16, 16), "logits": (-1, -1)}}, "depends on the data"),
    ],
)
def test_engines_that_a_session_cannot_feed_are_refused(simulate, options, message):
    with pytest.raises(UnsupportedError, match=message):
        simulate(simulated_trt.Engine(linear, **options))


def test_a_plan_that_the_library_refuses_gives_its_reason_and_a_remedy(simulate):
    with pytest.raises(EngineMismatchError, match=r"can't load 'model\.engine' on Simulated") as caught:
        simulate(None)
    assert "build-engine" in caught.value.remedy


def test_options_that_a_plan_cannot_honour_are_refused(simulate):
    engine = simulated_trt.Engine(linear)
    with pytest.raises(InputError, match="no CPU threads"):
        simulate(engine, threads=2)
    with pytest.raises(UnsupportedError, match="not on the CPU"):
        simulate(engine, device="cpu")
    with pytest.raises(InputError, match="there is no device 'gpu'"):
        simulate(engine, device="gpu")
    with pytest.raises(UnsupportedError, match="CUDA device 7 can't be used: there is no device 7"):
        simulate(engine, device="cuda:7")
    assert simulate(engine, device="cuda:1").info.device == "cuda:1"


def test_a_damaged_plan_is_refused_before_the_gpu_is_looked_for(tmp_path):
    path = tmp_path / "model.engine"
    path.write_bytes(b"not a plan at all")
    with pytest.raises(EngineFormatError, match="not a TensorRT plan"):
        TensorRTSession(path)


class TestProfiles:
    RANGES = tuple(
        ProfileRange({"x": (low, 3)}, {"x": (best, 3)}, {"x": (high, 3)})
        for low, best, high in ((1, 1, 1), (1, 8, 64), (16, 32, 64))
    )

    @pytest.mark.parametrize(("batch", "chosen"), [(1, 0), (2, 1), (8, 1), (15, 1), (17, 2), (64, 2)])
    def test_the_profile_tuned_nearest_to_the_batch_is_taken(self, batch, chosen):
        assert choose_profile(self.RANGES, {"x": (batch, 3)}) == chosen

    @pytest.mark.parametrize("shape", [(65, 3), (0, 3), (4, 4), (4,), (4, 3, 1)])
    def test_what_none_covers_is_refused(self, shape):
        with pytest.raises(InputError, match="has no profile for x"):
            choose_profile(self.RANGES, {"x": shape})

    def test_the_largest_batch_is_over_all_profiles(self):
        assert largest_batch(self.RANGES) == 64
        assert largest_batch([ProfileRange({}, {}, {})]) is None
