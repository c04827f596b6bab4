"""TensorRT and TensorRT for RTX on a real GPU: conformance, parity with ONNX Runtime on the CPU, profiles, graphs."""

import threading

import numpy as np
import pytest

from engines.errors import EngineMismatchError, InputError
from engines.header import RTX_CAPABILITIES
from engines.sessions import open_session
from engines.sessions.tensorrt import TensorRTSession
from tests.conformance import Case, Conformance, samples
from tests.gpu.conftest import OnDevice, check_another_thread, check_arrays_on_the_device, need, on_host
from tests.tiny import METADATA

TOLERANCE = {"fp32": 1e-3, "fp16": 0.03}


@pytest.fixture(scope="session")
def capability() -> str:
    need("cuda.core")
    from engines.cuda import CudaDevice

    return CudaDevice(0).compute_capability


class Parity(Conformance):
    """The conformance suite against ONNX Runtime on the CPU, for one backend and precision."""

    precision = "fp32"
    profiles: tuple[str, ...] = ("1:4:8",)

    @pytest.fixture
    def backend(self) -> str:
        need("tensorrt", "cuda.core")
        return "tensorrt"

    @pytest.fixture
    def case(self, backend, plan, on_cpu):
        path = plan(backend, self.precision, *self.profiles)
        tolerance = TOLERANCE[self.precision]
        return Case(lambda: open_session(path), lambda data: on_cpu("fp32", data), tolerance, device=True)


class TestTensorRTFp32(Parity):
    pass


class TestTensorRTFp16(Parity):
    precision = "fp16"


class TestTensorRTSeveralProfiles(Parity):
    profiles = ("1", "2:4:8")


class RtxParity(Parity):
    @pytest.fixture
    def backend(self, capability) -> str:
        need("tensorrt_rtx", "cuda.core")
        if capability not in RTX_CAPABILITIES:
            pytest.skip(f"TensorRT for RTX has no target for compute capability {capability}")
        return "tensorrt-rtx"


class TestRtxFp32(RtxParity):
    pass


class TestRtxFp16(RtxParity):
    precision = "fp16"


@pytest.mark.parametrize("backend", ["tensorrt", "tensorrt-rtx"])
def test_int8_agrees_with_its_own_graph_on_the_cpu(backend, plan, on_cpu, capability):
    need(backend.replace("-", "_"), "cuda.core")
    if backend == "tensorrt-rtx" and capability not in RTX_CAPABILITIES:
        pytest.skip(f"TensorRT for RTX has no target for compute capability {capability}")
    data = samples(64, seed=5)
    expected = on_cpu("int8", data)
    with open_session(plan(backend, "int8", "1:32:64")) as session:
        logits = session.run({"input": data})["logits"]
    # Rounding of a tie may go either way, and one step of a scale is worth that much at the logits.
    assert np.abs(logits - expected).max() < 0.25 * np.abs(expected).max()
    assert (logits.argmax(1) == expected.argmax(1)).mean() > 0.9


def test_cuda_graphs_answer_as_without_them(plan):
    need("tensorrt", "cuda.core")
    path = plan("tensorrt", "fp32")
    with TensorRTSession(path) as session, TensorRTSession(path, graphs=False) as plain:
        for batch in (1, 8, 3, 8, 1, 3):
            data = samples(batch, seed=batch)
            for _ in range(3):
                a, b = session.run({"input": data})["logits"], plain.run({"input": data})["logits"]
                np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)
        assert session.graph_problem == ""


def on_rtx(capability):
    need("tensorrt_rtx", "cuda.core")
    if capability not in RTX_CAPABILITIES:
        pytest.skip(f"TensorRT for RTX has no target for compute capability {capability}")
    return "tensorrt-rtx"


def on_tensorrt(capability):
    need("tensorrt", "cuda.core")
    return "tensorrt"


BACKENDS = pytest.mark.parametrize("needed", [on_tensorrt, on_rtx], ids=["tensorrt", "tensorrt-rtx"])


@BACKENDS
def test_siblings_run_one_engine_in_two_threads(plan, on_cpu, capability, needed):
    session = open_session(plan(needed(capability), "fp32"))
    other, worst = session.sibling(), []

    def work(mine, seed):
        for number in range(100):
            data = samples(1 + number % 8, seed=seed + number)
            answers.append((data, mine.run({"input": data})["logits"]))

    answers = []
    threads = [threading.Thread(target=work, args=(mine, seed)) for mine, seed in ((session, 0), (other, 1000))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    session.close()
    data = samples(3)
    answers.append((data, other.run({"input": data})["logits"]))
    other.close()
    assert len(answers) == 201
    for data, logits in answers:
        worst.append(np.abs(logits - on_cpu("fp32", data)).max())
    assert max(worst) < TOLERANCE["fp32"]


@BACKENDS
def test_arrays_on_the_device_are_taken_and_given(plan, on_cpu, capability, needed):
    with open_session(plan(needed(capability), "fp32")) as session:
        check_arrays_on_the_device(session, lambda data: on_cpu("fp32", data), TOLERANCE["fp32"])


@BACKENDS
def test_it_is_used_and_closed_in_another_thread(plan, on_cpu, capability, needed):
    session = open_session(plan(needed(capability), "fp32"))
    check_another_thread(session, lambda data: on_cpu("fp32", data), TOLERANCE["fp32"])


@BACKENDS
def test_a_slot_takes_and_gives_arrays_on_the_device(plan, on_cpu, capability, needed):
    data = samples(4)
    with open_session(plan(needed(capability), "fp32")) as session:
        for slot in session.slots(2):
            slot.take({"input": OnDevice(data)})
            slot.start()
            slot.wait()
            logits = on_host(slot.on_device()["logits"])
            np.testing.assert_allclose(logits, on_cpu("fp32", data), rtol=0, atol=TOLERANCE["fp32"])


@BACKENDS
def test_pictures_are_normalised_on_the_gpu(plan, on_cpu, capability, needed):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), np.uint8)
    expected = on_cpu("fp32", METADATA.preprocess.normalise(pixels))
    with open_session(plan(needed(capability), "uint8")) as session:
        assert session.inputs[0].dtype == "uint8"
        for _ in range(3):
            logits = session.run({"input": pixels})["logits"]
            np.testing.assert_allclose(logits, expected, rtol=0, atol=5 * TOLERANCE["fp32"])


def test_rtx_keeps_its_compiled_kernels_between_sessions(plan, capability, tmp_path, monkeypatch):
    path = plan(on_rtx(capability), "fp32")
    monkeypatch.setenv("TOOLKIT_CACHE", str(tmp_path))
    for taken in (False, True):
        with open_session(path) as session:
            assert bool(session._kernels._known) == taken, "the second session takes what the first has kept"
            session.run({"input": samples(4)})
        assert [file for file in tmp_path.rglob("*") if file.is_file()]


def test_a_batch_over_the_profile_is_refused(plan):
    need("tensorrt", "cuda.core")
    with open_session(plan("tensorrt", "fp32", "2:4:8")) as session:
        for batch in (1, 9):
            with pytest.raises(InputError):
                session.run({"input": samples(batch)})
        assert session.run({"input": samples(8)})["logits"].shape == (8, 5)


def test_an_rtx_engine_on_a_gpu_outside_its_targets_is_refused_before_the_library_sees_it(plan, capability):
    need("tensorrt_rtx", "cuda.core")
    if capability in RTX_CAPABILITIES:
        pytest.skip(f"compute capability {capability} is a target of TensorRT for RTX")
    with pytest.raises(EngineMismatchError, match=f"this GPU has {capability}"):
        open_session(plan("tensorrt-rtx", "fp32"))


def test_the_library_is_asked_whether_it_runs_its_default_engine_here(plan, on_cpu, record_property, capability):
    """Either it runs right or it is refused in words; scripts/gpu-check records which."""
    need("tensorrt_rtx", "cuda.core")
    from engines.sessions.tensorrt_rtx import RtxSession

    data = samples(4)
    path = plan("tensorrt-rtx", "fp32")
    try:
        session = RtxSession(path, check=False)
    except EngineMismatchError as error:
        record_property("rtx_default_engine", f"refused: {error.cause}")
        if capability in RTX_CAPABILITIES:
            pytest.fail(error.cause)
        return
    with session:
        logits = session.run({"input": data})["logits"]
    record_property("rtx_default_engine", "runs")
    np.testing.assert_allclose(logits, on_cpu("fp32", data), rtol=0, atol=1e-2)
