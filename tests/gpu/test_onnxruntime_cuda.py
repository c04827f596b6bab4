"""ONNX Runtime and PyTorch on CUDA: the conformance suite, and parity with the CPU."""

import numpy as np
import pytest

import engines.cuda
from engines.errors import MissingLibraryError, UnsupportedError
from engines.providers import probe_provider
from engines.sessions import open_session
from tests.conformance import Case, Conformance, samples
from tests.gpu.conftest import cannot, check_another_thread, check_arrays_on_the_device, need
from tests.tiny import METADATA, tiny_graph


@pytest.fixture(scope="module")
def cuda():
    need("onnxruntime")
    import onnxruntime

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("the package 'onnxruntime-gpu' is not installed")
    probe = probe_provider("CUDAExecutionProvider")
    if not probe.loads:
        cannot(f"the CUDA provider doesn't load: {probe.problem}")


@pytest.mark.usefixtures("cuda")
class TestFp32(Conformance):
    @pytest.fixture
    def case(self, graphs, on_cpu):
        def expected(data):
            return on_cpu("fp32", data)

        return Case(lambda: open_session(graphs["fp32"], device="cuda:0"), expected, 1e-4, device=True)


@pytest.mark.usefixtures("cuda")
class TestFp16(Conformance):
    @pytest.fixture
    def case(self, graphs, on_cpu):
        def expected(data):
            return on_cpu("fp32", data)

        # Half precision keeps 11 bits; logits of a few units and sums of a thousand products lose a few more.
        return Case(lambda: open_session(graphs["fp16"], device="cuda:0"), expected, 0.03, device=True)


@pytest.mark.usefixtures("cuda")
def test_the_provider_that_runs_is_cuda(graphs):
    with open_session(graphs["fp32"], device="cuda:0") as session:
        assert (session.info.device, session.info.provider) == ("cuda:0", "CUDAExecutionProvider")
    with open_session(graphs["fp32"]) as session:
        assert session.info.device == "cuda:0", "auto takes CUDA where it loads"
    with open_session(graphs["fp32"], device="cpu") as session:
        assert session.info.provider == "CPUExecutionProvider"


@pytest.mark.usefixtures("cuda")
def test_it_runs_on_our_stream_and_memory(graphs, on_cpu):
    need("cuda.core")
    with open_session(graphs["fp32"], device="cuda:0") as session:
        assert session.stream_problem == ""
        check_arrays_on_the_device(session, lambda data: on_cpu("fp32", data), 1e-4)


@pytest.mark.usefixtures("cuda")
def test_it_is_used_and_closed_in_another_thread(graphs, on_cpu):
    session = open_session(graphs["fp32"], device="cuda:0")
    check_another_thread(session, lambda data: on_cpu("fp32", data), 1e-4)


@pytest.mark.usefixtures("cuda")
def test_without_cuda_core_the_librarys_own_stream_answers_the_same(graphs, on_cpu, monkeypatch):
    def missing():
        raise MissingLibraryError("Running on a GPU", "cuda.core", "tensorrt")

    monkeypatch.setattr(engines.cuda, "cuda_core", missing)
    data = samples(5)
    with open_session(graphs["fp32"], device="cuda:0") as session:
        assert "cuda.core" in session.stream_problem
        for _ in range(3):
            logits = session.run({"input": data})["logits"]
            np.testing.assert_allclose(logits, on_cpu("fp32", data), rtol=0, atol=1e-4)


@pytest.mark.usefixtures("cuda")
def test_pictures_are_normalised_on_the_gpu(graphs, on_cpu):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), np.uint8)
    expected = on_cpu("fp32", METADATA.preprocess.normalise(pixels))
    with open_session(graphs["uint8"], device="cuda:0") as session:
        for _ in range(3):
            np.testing.assert_allclose(session.run({"input": pixels})["logits"], expected, rtol=0, atol=1e-3)


@pytest.mark.usefixtures("cuda")
def test_a_device_number_that_is_not_there_is_an_error(graphs):
    with pytest.raises(UnsupportedError, match="device 99"):
        open_session(graphs["fp32"], device="cuda:99")


class TestTorch(Conformance):
    @pytest.fixture
    def case(self):
        need("torch")
        import torch

        from engines.sessions.torch import TorchSession
        from tests.tiny_torch import tiny_module

        if not torch.cuda.is_available():
            if torch.version.cuda is None:
                pytest.skip("PyTorch with CUDA is not installed")
            cannot("PyTorch finds no GPU")

        def expected(data):
            with torch.inference_mode():
                return tiny_module(tiny_graph()).double()(torch.from_numpy(data).double()).numpy()

        # PyTorch's convolutions may use TF32, which keeps 11 bits as half precision does.
        return Case(lambda: TorchSession(tiny_module(tiny_graph()), METADATA, "cuda:0"), expected, 0.03, device=True)


@pytest.mark.usefixtures("cuda")
def test_labels_of_fp16_on_cuda_agree_with_fp32_on_the_cpu(graphs, on_cpu):
    data = samples(512, seed=11)
    reference = on_cpu("fp32", data)
    with open_session(graphs["fp16"], device="cuda:0") as session:
        logits = session.run({"input": data})["logits"]
    clear = np.sort(reference, axis=1)
    clear = clear[:, -1] - clear[:, -2] > 0.06
    assert clear.sum() > 400
    assert (logits.argmax(1) == reference.argmax(1))[clear].all()
