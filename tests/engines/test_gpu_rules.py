"""Rules of the real libraries that a session keeps: threads, spoilt captures, releasing, failed devices."""

import threading
import types
import weakref

import numpy as np
import pytest

from engines.cuda_graph import capture
from engines.errors import InputError, RunError
from engines.sessions.device_arrays import adopt
from engines.sessions.stage import Stage, Streams
from engines.sessions.tensorrt_rtx import RtxSession
from tests.conformance import samples
from tests.engines import simulated, simulated_driver, simulated_trt
from tests.engines.simulated import Elsewhere, View
from tests.engines.simulated_trt import linear


def in_another_thread(work):
    """What ``work`` gives, or raises, in a thread that no device was made current in."""
    outcome = []

    def run():
        try:
            outcome.append((work(), None))
        except Exception as error:
            outcome.append((None, error))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    ((value, error),) = outcome
    if error is not None:
        raise error
    return value


class TestThreads:
    def test_the_simulation_refuses_a_thread_without_a_device(self):
        with pytest.raises(RuntimeError, match="INVALID_CONTEXT"):
            in_another_thread(lambda: simulated.core.LegacyPinnedMemoryResource().allocate(1))

    @pytest.mark.parametrize("kind", ["plan", "rtx"])
    def test_every_call_works_in_a_thread_that_never_used_the_device(self, simulate, monkeypatch, tmp_path, kind):
        monkeypatch.setenv("TOOLKIT_CACHE", str(tmp_path / "cache"))
        engine = simulated_trt.Engine(linear)
        session = simulate(engine, RtxSession) if kind == "rtx" else simulate(engine)
        data = samples(3)
        logits = in_another_thread(lambda: session.run({"input": data}))["logits"]
        np.testing.assert_allclose(logits, linear(data), rtol=0, atol=1e-5)
        slot, _ = in_another_thread(lambda: session.slots(2))
        for _ in range(3):
            in_another_thread(lambda: slot.inputs(3))["input"][:] = data
            in_another_thread(slot.start)
            while not in_another_thread(slot.done):
                pass
            logits = in_another_thread(slot.wait)["logits"]
            np.testing.assert_allclose(logits, linear(data), rtol=0, atol=1e-5)
        other = in_another_thread(session.sibling)
        in_another_thread(session.close)
        in_another_thread(other.close)
        if kind == "rtx":
            kept = [file.read_bytes() for file in (tmp_path / "cache").rglob("*") if file.is_file()]
            assert b"kernels 3" in kept, "closing kept what was compiled"


class TestSpoiltCaptures:
    @pytest.mark.parametrize("capturable", [True, False], ids=["the engine says nothing", "the engine says so"])
    def test_an_engine_that_spoils_its_capture_runs_on_without_graphs(self, simulate, capturable):
        first = len(simulated_driver.graphs)
        engine = simulated_trt.Engine(linear, spoils=True, capturable=capturable)
        data = samples(2)
        with simulate(engine) as session:
            for _ in range(4):
                logits = session.run({"input": data})["logits"]
                np.testing.assert_allclose(logits, linear(data), rtol=0, atol=1e-5)
            assert "CUDA graph" in session.graph_problem
        assert simulated_driver.graphs[first:] == []

    def test_every_graph_is_destroyed_once(self, simulate):
        first = len(simulated_driver.graphs)
        with simulate(simulated_trt.Engine(linear)) as session:
            for batch in (1, 2, 1, 2):
                session.run({"input": samples(batch)})
        assert [graph.closed for graph in simulated_driver.graphs[first:]] == [True] * 4

    @pytest.mark.parametrize("outcome", ["refuses", "raises", "does nothing", "is interrupted"])
    def test_a_stream_is_never_left_capturing(self, simulate, outcome):
        first = len(simulated_driver.graphs)

        def enqueue(handle):
            if outcome in {"refuses", "does nothing"}:
                return outcome == "does nothing"
            raise ValueError("no") if outcome == "raises" else KeyboardInterrupt

        with simulate(simulated_trt.Engine(linear)) as session:
            stream = session._streams.compute
            with pytest.raises(KeyboardInterrupt if outcome == "is interrupted" else RunError):
                capture(stream, enqueue)
            assert stream.recording is None
        assert all(graph.closed for graph in simulated_driver.graphs[first:])

    def test_a_graph_that_cannot_be_made_ready_is_destroyed(self, simulate, monkeypatch):
        first = len(simulated_driver.graphs)
        monkeypatch.setattr(simulated_driver.Driver, "cuGraphInstantiate", lambda *_: (2, None))
        with simulate(simulated_trt.Engine(linear)) as session:
            for _ in range(3):
                session.run({"input": samples(2)})
            assert session.graph_problem == "capturing a CUDA graph failed: cuGraphInstantiate: 2"
        assert [graph.closed for graph in simulated_driver.graphs[first:]] == [True]

    def test_a_launch_that_the_driver_refuses_is_an_error_in_words(self, simulate, monkeypatch):
        with simulate(simulated_trt.Engine(linear)) as session:
            for _ in range(2):
                session.run({"input": samples(2)})
            monkeypatch.setattr(simulated_driver.Driver, "cuGraphLaunch", lambda *_: (719,))
            with pytest.raises(RunError, match="cuGraphLaunch: 719"):
                session.run({"input": samples(2)})


class TestReleasing:
    def test_a_closed_session_holds_no_engine(self, simulate):
        engine = simulated_trt.Engine(linear)
        session = simulate(engine)
        session.run({"input": samples(2)})
        session.close()
        held = (session._engine, session._runtime, session._pipeline, session._plan._new_context)
        assert held == (None, None, None, None)

    def test_contexts_go_before_the_configuration_and_the_cache_that_they_were_made_with(
        self, simulate, monkeypatch, tmp_path
    ):
        monkeypatch.setenv("TOOLKIT_CACHE", str(tmp_path / "cache"))
        engine, gone = simulated_trt.Engine(linear), []
        session = simulate(engine, RtxSession)
        session.run({"input": samples(2)})
        for name, item in (
            ("context", engine.contexts.pop()), ("config", session._config), ("cache", session._kernels._cache),
        ):  # fmt: skip
            weakref.finalize(item, gone.append, name)
        del item
        session.close()
        assert gone == ["context", "config", "cache"]


class TestFailedDevices:
    def test_closing_goes_on_and_the_first_error_is_what_is_seen(self, simulate, monkeypatch):
        sync = Streams.sync

        def broken(streams):
            sync(streams)
            raise RuntimeError("CUDA_ERROR_ILLEGAL_ADDRESS")

        def faulty(data):
            raise RuntimeError("an illegal memory access was encountered")

        with (
            pytest.raises(RunError, match="an illegal memory access"),
            simulate(simulated_trt.Engine(faulty), graphs=False) as session,
        ):
            monkeypatch.setattr(Streams, "sync", broken)
            session.run({"input": samples(2)})
        assert session._pipeline is None


class Growing:
    """A program that needs as many bytes as the batch says, of two tensors."""

    def __init__(self):
        self.addresses = {}

    def sizes(self, shapes):
        return dict.fromkeys(("x", "y"), shapes["x"][0])

    def bind(self, addresses):
        self.addresses = dict(addresses)

    def close(self):
        pass


def test_a_stage_whose_memory_did_not_fit_takes_a_smaller_batch(simulate, monkeypatch):
    allocate = simulated.Device.allocate

    def scarce(device, size, *, stream):
        if size > 100 and len(simulated._memory) > full:
            raise MemoryError("CUDA_ERROR_OUT_OF_MEMORY")
        return allocate(device, size, stream=stream)

    with simulate(simulated_trt.Engine(linear)) as session:
        program = Growing()
        stage = Stage(session._streams, dict.fromkeys("xy", np.dtype(np.uint8)), program)
        stage.reserve({"x": (8,)})
        before = len(simulated._memory)
        full = before - 4 + 2  # the first tensor's two homes fit, the second's don't
        monkeypatch.setattr(simulated.Device, "allocate", scarce)
        with pytest.raises(MemoryError):
            stage.reserve({"x": (200,)})
        assert len(simulated._memory) <= before - 4 + 1, "what was made is given back"
        stage.reserve({"x": (8,)})
        assert set(program.addresses) == {"x", "y"}
        assert all(simulated.find(address) for address in program.addresses.values())
        stage.close()


def test_a_type_that_numpy_lacks_is_refused_in_words(simulate, monkeypatch):
    class Unnamed(types.SimpleNamespace):
        @property
        def dtype(self):
            raise NotImplementedError("bfloat16 needs ml_dtypes")

    with simulate(simulated_trt.Engine(linear)) as session:
        monkeypatch.setattr(View, "from_any_interface", lambda obj, stream_ptr: Unnamed(device_id=0, shape=(1,)))
        with pytest.raises(InputError, match="bfloat16 needs ml_dtypes"):
            adopt(session._streams.gpu, "x", Elsewhere(samples(1)), session._streams.copy_in)
