"""Slots, siblings and arrays on the device, on the simulated GPU."""

import threading

import numpy as np
import pytest

from engines.cuda import StagedTensor
from engines.errors import InputError, RunError, UnsupportedError
from engines.sessions import staging
from engines.sessions.fake import FakeSession
from engines.sessions.tensorrt_rtx import RtxSession
from tests.conformance import Case, Conformance, samples
from tests.engines import simulated, simulated_trt
from tests.engines.simulated import Elsewhere
from tests.engines.simulated_trt import linear, warm


class TestRtx(Conformance):
    @pytest.fixture
    def case(self, simulate, monkeypatch, tmp_path):
        monkeypatch.setenv("TOOLKIT_CACHE", str(tmp_path / "cache"))
        return Case(lambda: simulate(simulated_trt.Engine(linear), RtxSession), linear, 1e-5, device=True)


def crossed(work):
    """Bytes that cross the bus while ``work`` runs: (to the device, to the host)."""
    before = len(simulated.bus)
    work()
    moves = simulated.bus[before:]
    return tuple(sum(size for came, size in moves if came == f"{what} memory") for what in ("pinned", "device"))


class TestOverlap:
    def test_a_batch_is_copied_in_while_another_computes(self, simulate):
        ran = []

        def watched(data):
            ran.append(len(data))
            return linear(data)

        with simulate(simulated_trt.Engine(watched)) as session:
            one, two = session.slots(2)
            one.inputs(8)["input"][:] = samples(8)
            two.inputs(3)["input"][:] = samples(3)
            warm(one, two)
            ran.clear()
            one.start()
            two.start()
            copied = two._stage._timers[1]
            copied.sync()
            assert ran == [], "the copy of the second batch waits for nothing that the first does"
            one.wait()
            assert ran == [8], "and the first doesn't wait for the second"
            two.wait()
        assert ran == [8, 3]

    def test_every_slot_captures_a_graph_a_batch_on_its_own_memory(self, simulate):
        engine = simulated_trt.Engine(linear)
        with simulate(engine) as session:
            for slot in session.slots(2):
                for batch in (2, 5):
                    for _ in range(3):
                        slot.inputs(batch)["input"][:] = samples(batch)
                        slot.start()
                        slot.wait()
            used = [context for context in engine.contexts if context.direct_runs]
            assert [(context.direct_runs, context.graph_runs) for context in used] == [(1, 2)] * 4
            assert len({context.addresses["input"] for context in used}) == 2
            assert len({context.scratch for context in engine.contexts}) == 1

    def test_a_batch_that_no_profile_covers_is_refused_when_it_is_asked_for(self, simulate):
        profiles = (((2, 3, 16, 16), (4, 3, 16, 16), (8, 3, 16, 16)),)
        with simulate(simulated_trt.Engine(linear, profiles=profiles)) as session:
            slot, _ = session.slots()
            with pytest.raises(InputError, match="no profile for input"):
                slot.inputs(1)
            slot.inputs(2)

    def test_an_engine_of_fixed_shape_has_slots_of_that_batch(self, simulate):
        fixed = (4, 3, 16, 16)
        engine = simulated_trt.Engine(linear, profiles=((fixed,) * 3,), shapes={"input": fixed, "logits": (4, 5)})
        with simulate(engine) as session:
            with pytest.raises(InputError, match="exactly 4, not 2"):
                session.slots(max_batch=2)
            slot, _ = session.slots()
            with pytest.raises(InputError, match="exactly 4, not 3"):
                slot.inputs(3)
            slot.inputs(4)["input"][:] = samples(4)
            slot.start()
            np.testing.assert_allclose(slot.wait()["logits"], linear(samples(4)), rtol=0, atol=1e-5)

    def test_a_fault_in_one_slot_is_its_error_and_the_other_goes_on(self, simulate):
        def faulty(data):
            if len(data) == 2:
                raise RuntimeError("an illegal memory access was encountered")
            return linear(data)

        with simulate(simulated_trt.Engine(faulty), graphs=False) as session:
            bad, good = session.slots()
            for slot, batch in ((bad, 2), (good, 3)):
                slot.inputs(batch)["input"][:] = samples(batch)
                slot.start()
            with pytest.raises(RunError, match="failed on a batch of 2: an illegal memory access"):
                bad.wait()
            np.testing.assert_allclose(good.wait()["logits"], linear(samples(3)), rtol=0, atol=1e-5)

    def test_a_run_that_is_refused_leaves_nothing_under_way(self, simulate, monkeypatch):
        with simulate(simulated_trt.Engine(linear)) as session:
            slot, _ = session.slots()
            with monkeypatch.context() as patch:
                patch.setattr(simulated_trt.Context, "execute_async_v3", lambda *_: False)
                slot.inputs(2)["input"][:] = samples(2)
                with pytest.raises(RunError, match="the engine refused to run"):
                    slot.start()
            assert not session._streams.copy_in.queue, "not even the copy of its input"
            with pytest.raises(RunError, match="nothing under way"):
                slot.wait()
            slot.inputs(2)["input"][:] = samples(2)
            slot.start()
            np.testing.assert_allclose(slot.wait()["logits"], linear(samples(2)), rtol=0, atol=1e-5)

    def test_memory_that_runs_out_leaves_a_session_that_runs_and_may_ask_again(self, simulate, monkeypatch):
        with simulate(simulated_trt.Engine(linear)) as session:
            with monkeypatch.context() as patch:
                made = []

                def scarce(self, device, nbytes, stream, first=StagedTensor.__init__):
                    made.append(nbytes)
                    if len(made) > 3:
                        raise RuntimeError("CUDA_ERROR_OUT_OF_MEMORY")
                    first(self, device, nbytes, stream)

                patch.setattr(StagedTensor, "__init__", scarce)
                with pytest.raises(RunError, match="OUT_OF_MEMORY"):
                    session.slots(3)
            assert len(session._pipeline._stages) == 1, "what was made is given back"
            np.testing.assert_allclose(
                session.run({"input": samples(1)})["logits"], linear(samples(1)), rtol=0, atol=1e-5
            )
            assert len(session.slots(2)) == 2

    def test_a_large_input_is_on_its_way_while_the_rest_of_it_is_copied(self, simulate, monkeypatch):
        monkeypatch.setattr(staging, "PIECE", 3 * 3072)
        odd = np.asfortranarray(samples(8).astype(">f4"))
        with simulate(simulated_trt.Engine(linear)) as session:
            for _ in range(3):
                before = len(simulated.bus)
                logits = session.run({"input": odd})["logits"]
                assert [size for _, size in simulated.bus[before:]] == [9216, 9216, 6144, 8 * 5 * 4]
                np.testing.assert_allclose(logits, linear(samples(8)), rtol=0, atol=1e-5)
            threads = {thread.name for thread in threading.enumerate()}
            assert any(name.startswith("staging") for name in threads)
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("staging")]

    def test_pixels_cross_the_bus_as_bytes(self, simulate):
        pixels = np.random.default_rng(0).integers(0, 256, (8, 3, 16, 16), np.uint8)

        def normalised(data):
            assert data.dtype == np.uint8
            return linear(data.astype(np.float32) / 255)

        engine = simulated_trt.Engine(normalised, input_kind=simulated_trt.DataType.UINT8)
        with simulate(engine) as session:
            assert session.inputs[0].dtype == "uint8"
            assert crossed(lambda: session.run({"input": pixels})) == (8 * 768, 8 * 5 * 4)
            logits = session.run({"input": pixels})["logits"]
            with pytest.raises(InputError, match="float32, not uint8"):
                session.run({"input": pixels.astype(np.float32)})
        np.testing.assert_allclose(logits, normalised(pixels), rtol=0, atol=1e-5)


class TestSiblings:
    def test_two_threads_run_one_engine(self, simulate):
        engine = simulated_trt.Engine(linear)
        session = simulate(engine)
        other = session.sibling()
        assert (other._engine, other.inputs, other.info) == (engine, session.inputs, session.info)
        problems = []

        def work(mine, seed):
            for number in range(30):
                data = samples(1 + number % 8, seed=seed + number)
                if np.abs(mine.run({"input": data})["logits"] - linear(data)).max() > 1e-5:
                    problems.append(number)

        threads = [threading.Thread(target=work, args=(mine, seed)) for mine, seed in ((session, 0), (other, 99))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert problems == []
        session.close()
        with pytest.raises(RunError, match="is closed"):
            session.sibling()
        np.testing.assert_allclose(other.run({"input": samples(2)})["logits"], linear(samples(2)), rtol=0, atol=1e-5)
        assert other.slots()
        other.close()

    def test_they_share_no_memory_and_no_context(self, simulate):
        engine = simulated_trt.Engine(linear)
        with simulate(engine) as session, session.sibling() as other:
            first = len(engine.contexts)
            session.run({"input": samples(8)})
            other.run({"input": samples(8)})
            one, two = (context for context in engine.contexts if context.direct_runs)
            assert one is not two
            assert set(one.addresses.values()).isdisjoint(two.addresses.values())
            assert one.scratch != two.scratch
            assert first >= 2


class TestOnTheDevice:
    def test_an_input_that_is_there_is_neither_copied_nor_waited_for_on_the_host(self, simulate):
        data = samples(4)
        with simulate(simulated_trt.Engine(linear)) as session:
            for _ in range(3):
                given = Elsewhere(data)
                results = []
                assert crossed(lambda g=given, r=results: r.append(session.run({"input": g}))) == (0, 4 * 5 * 4)
                np.testing.assert_allclose(results[0]["logits"], linear(data), rtol=0, atol=1e-5)
            used = [context for context in session._engine.contexts if context.direct_runs]
            assert [context.graph_runs for context in used] == [0], "one context, without a graph, for any address"
            assert used[0].addresses["input"] == given.ptr
            for number in range(6):  # from the third on, the host's input has a graph
                given = Elsewhere(data + number)
                for value, expected in ((data, data), (given, data + number)):
                    logits = session.run({"input": value})["logits"]
                    np.testing.assert_allclose(logits, linear(expected), rtol=0, atol=1e-3)

    def test_a_misaligned_input_is_copied_on_the_device(self, simulate):
        data = samples(4)
        with simulate(simulated_trt.Engine(linear)) as session:
            given = Elsewhere(data, offset=4)
            assert crossed(lambda: session.run({"input": given})) == (0, 4 * 5 * 4)
            np.testing.assert_allclose(session.run({"input": given})["logits"], linear(data), rtol=0, atol=1e-5)

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            (lambda: Elsewhere(samples(1), device=1), "is a Elsewhere that is not on cuda:0"),
            (lambda: Elsewhere(samples(1), strides=(768, 1, 48, 3)), "has gaps"),
            (lambda: Elsewhere(samples(1).astype(np.float16)), "float16, not float32"),
            (lambda: Elsewhere(samples(1)[0]), r"shape \[3, 16, 16\]"),
            (lambda: Elsewhere(samples(9)), "larger than the engine's largest"),
        ],
    )
    def test_arrays_that_do_not_fit_are_refused(self, simulate, given, message):
        with simulate(simulated_trt.Engine(linear)) as session, pytest.raises(InputError, match=message):
            session.run({"input": given()})

    def test_arrays_of_other_libraries_that_are_not_there_are_refused(self, simulate):
        torch = pytest.importorskip("torch")
        with simulate(simulated_trt.Engine(linear)) as session:
            with pytest.raises(InputError, match="is a Tensor that is not on cuda:0"):
                session.run({"input": torch.zeros(1, 3, 16, 16)})

            class Graded:
                def __dlpack_device__(self):
                    return 2, 0

            with pytest.raises(InputError, match="can't be read on cuda:0: can't export a tensor that requires grad"):
                session.run({"input": Graded()})
        with FakeSession() as host, pytest.raises(InputError, match="Tensor, not float32"):
            host.run({"input": torch.zeros(1, 3, 16, 16)})

    def test_outputs_can_stay_there_until_the_next_run(self, simulate):
        data = samples(4)
        with simulate(simulated_trt.Engine(linear)) as session:
            results = []
            assert crossed(lambda: results.append(session.run_on_device({"input": data}))) == (4 * 3072, 0)
            logits = results[0]["logits"]
            assert (logits.shape, logits.dtype, logits.device) == ((4, 5), np.float32, "cuda:0")
            np.testing.assert_allclose(logits.__dlpack__(stream=None), linear(data), rtol=0, atol=1e-5)
            assert logits.__dlpack_device__() == (2, 0)
            interface = logits.__cuda_array_interface__
            assert (interface["shape"], interface["typestr"], interface["stream"]) == ((4, 5), "<f4", None)
            assert interface["data"][0] in simulated._memory
            session.run({"input": data})
            for export in (logits.__dlpack__, lambda: logits.__cuda_array_interface__):
                with pytest.raises(RunError, match="'logits' is gone from cuda:0"):
                    export()
            last = session.run_on_device({"input": data})["logits"]
        with pytest.raises(RunError, match="is gone"):
            last.__dlpack__()

    def test_a_slot_takes_and_gives_arrays_there(self, simulate):
        data = samples(4)
        with simulate(simulated_trt.Engine(linear)) as session:
            slot, _ = session.slots()
            slot.take({"input": Elsewhere(data)})
            with pytest.raises(RunError, match="no outputs yet"):
                slot.on_device()
            slot.start()
            slot.wait()
            np.testing.assert_allclose(slot.on_device()["logits"].__dlpack__(), linear(data), rtol=0, atol=1e-5)
            with pytest.raises(InputError, match="input input is in host memory"):
                slot.take({"input": data})
            slot.inputs(4)["input"][:] = 2 * data
            slot.start()
            np.testing.assert_allclose(slot.wait()["logits"], linear(2 * data), rtol=0, atol=1e-4)

    def test_a_session_on_the_host_has_no_such_outputs(self):
        with FakeSession() as session, pytest.raises(UnsupportedError, match="no memory of its own on a GPU"):
            session.run_on_device({"input": samples(1)})


class TestRuntimeCache:
    @pytest.fixture(autouse=True)
    def folder(self, monkeypatch, tmp_path):
        monkeypatch.setenv("TOOLKIT_CACHE", str(tmp_path / "cache"))
        return tmp_path / "cache"

    def kept(self, folder):
        return [path for path in folder.rglob("*") if path.is_file() and path.read_bytes().startswith(b"kernels")]

    def test_kernels_compiled_in_one_session_are_there_in_the_next(self, simulate, folder):
        with simulate(simulated_trt.Engine(linear), RtxSession) as session:
            session.run({"input": samples(3)})
            assert not session._kernels._cache.loaded
        (file,) = self.kept(folder)
        assert file.read_bytes() == b"kernels 3"
        with simulate(simulated_trt.Engine(linear), RtxSession) as session:
            assert session._kernels._cache.kernels == {b"3"}
            with session.sibling() as other:
                other.run({"input": samples(5)})
        assert file.read_bytes() == b"kernels 3 5"
        written = file.stat().st_mtime_ns
        with simulate(simulated_trt.Engine(linear), RtxSession) as session:
            session.run({"input": samples(5)})
        assert file.stat().st_mtime_ns == written, "nothing new, nothing written"

    def test_a_file_that_the_library_refuses_is_replaced(self, simulate, folder):
        with simulate(simulated_trt.Engine(linear), RtxSession) as session:
            session.run({"input": samples(3)})
        (file,) = self.kept(folder)
        file.write_bytes(b"of another driver")
        with simulate(simulated_trt.Engine(linear), RtxSession) as session:
            session.run({"input": samples(2)})
        assert file.read_bytes() == b"kernels 2"

    def test_a_folder_that_cannot_be_written_is_no_reason_to_fail(self, simulate, folder):
        folder.write_text("a file where the folder should be")
        with simulate(simulated_trt.Engine(linear), RtxSession) as session:
            logits = session.run({"input": samples(3)})["logits"]
        np.testing.assert_allclose(logits, linear(samples(3)), rtol=0, atol=1e-5)
