"""The conformance suite on every session that needs no GPU, and what is particular to the fake and to torch."""

import subprocess
import sys
import threading
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import onnx
import pytest
import torch

from engines.errors import InputError, RunError, UnsupportedError
from engines.sessions import BACKENDS, backend_of, open_session
from engines.sessions.fake import FakeSession
from engines.sessions.opening import backend_class
from engines.sessions.torch import TorchSession
from tests.conformance import Case, Conformance, samples
from tests.tiny import METADATA, tiny_graph, tiny_images
from tests.tiny_torch import tiny_module


@pytest.fixture(scope="module")
def graph_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("graph") / "tiny.onnx"
    onnx.save(tiny_graph(), path)
    return path


def in_double(data):
    """The tiny network in float64 PyTorch: what float32 implementations are compared with."""
    with torch.inference_mode():
        return tiny_module(tiny_graph()).double()(torch.from_numpy(data).double()).numpy()


class TestFake(Conformance):
    @pytest.fixture
    def case(self):
        def expected(data):
            weights = np.random.default_rng(0).standard_normal((768, 5), np.float32).astype(np.float64) / 768**0.5
            return data.reshape(len(data), -1).astype(np.float64) @ weights

        return Case(lambda: FakeSession(metadata=METADATA), expected, 1e-5)


class TestTorch(Conformance):
    @pytest.fixture
    def case(self):
        return Case(lambda: TorchSession(tiny_module(tiny_graph()), METADATA, "cpu"), in_double, 1e-5)


class TestOnnxRuntime(Conformance):
    @pytest.fixture
    def case(self, graph_path):
        return Case(lambda: open_session(graph_path, device="cpu"), in_double, 1e-5)


class TestOpenVino(Conformance):
    @pytest.fixture
    def case(self, graph_path):
        if (
            find_spec("openvino") is None
        ):  # importing it is for the session, which keeps its statistics from being sent
            pytest.skip("openvino isn't installed")
        return Case(lambda: open_session(graph_path, backend="openvino"), in_double, 1e-5)


def test_importing_sessions_imports_no_backend():
    code = (
        "import sys, engines.sessions; heavy = {'torch', 'onnx', 'onnxruntime', 'openvino', 'tensorrt', 'cuda', "
        "'tensorrt_rtx', 'PIL', 'click', 'rich'} & set(sys.modules); sys.exit(', '.join(heavy) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", BACKENDS)
def test_every_backend_in_the_table_can_be_imported_without_its_library(name):
    module, _, attribute = BACKENDS[name].partition(":")
    code = (
        "import sys; sys.modules.update(dict.fromkeys("
        "['torch', 'onnxruntime', 'openvino', 'tensorrt', 'tensorrt_rtx', 'cuda']));"
        f"from {module} import {attribute}"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_backend_of_a_file_is_told_by_content_before_suffix(tmp_path, graph_path):
    plans = {"a.engine": (b"vtrt", "tensorrt-rtx"), "b.plan": (b"ftrt", "tensorrt"), "c.onnx": (b"ftrt", "tensorrt")}
    for name, (tag, backend) in plans.items():
        (tmp_path / name).write_bytes(tag + bytes(100))
        assert backend_of(tmp_path / name) == backend
    (tmp_path / "model.pt").write_bytes(b"PK\x03\x04")
    assert backend_of(tmp_path / "model.pt") == "torch"
    assert backend_of(graph_path) == "onnxruntime"


@pytest.mark.parametrize(
    "content", [b"", b"garbage" * 20, b"\x08\x0a\x12\x04test" + bytes(80), b"PK\x03\x04" + bytes(99)]
)
def test_a_file_that_is_no_engine_is_refused(tmp_path, content):
    path = tmp_path / "model.engine"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"model\.engine") as caught:
        open_session(path)
    assert caught.value.remedy


def test_a_backend_that_does_not_fit_the_file_is_refused(graph_path):
    with pytest.raises(InputError, match="made for the backend 'onnxruntime', not for 'tensorrt'") as caught:
        open_session(graph_path, backend="tensorrt")
    assert caught.value.remedy == "use --backend onnxruntime, openvino, onnxruntime-tensorrt or auto"
    with pytest.raises(InputError, match="no backend 'openvinoo'"):
        open_session(graph_path, backend="openvinoo")
    with pytest.raises(InputError, match="no backend"):
        backend_class("nothing")
    with pytest.raises(UnsupportedError, match="'fake' doesn't open files"):
        open_session(graph_path, backend="fake")


@pytest.mark.skipif(find_spec("openvino") is None, reason="openvino isn't installed")
def test_whether_threads_spin_says_nothing_to_a_backend_without_that_choice(graph_path):
    with open_session(graph_path, backend="openvino", device="cpu", spin="never") as session:
        np.testing.assert_allclose(session.run({"input": samples(2)})["logits"], in_double(samples(2)), atol=1e-5)


def test_a_missing_file_a_folder_and_a_checkpoint_are_told_apart(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        open_session(tmp_path / "none.onnx")
    with pytest.raises(InputError, match="is a folder"):
        open_session(tmp_path)
    (tmp_path / "model.pt").write_bytes(b"PK\x03\x04")
    with pytest.raises(UnsupportedError, match="'torch' doesn't open files") as caught:
        open_session(tmp_path / "model.pt")
    assert "toolkit.load" in caught.value.remedy


class TestTheFake:
    def test_equal_seeds_answer_equally_and_others_do_not(self):
        data = samples(4)
        one, same, other = (FakeSession(seed=seed).run({"input": data})["logits"] for seed in (3, 3, 4))
        np.testing.assert_array_equal(one, same)
        assert np.abs(one - other).min() > 0

    def test_an_answer_does_not_depend_on_the_company_in_the_batch(self):
        data, session = samples(9), FakeSession()
        whole = session.run({"input": data})["logits"]
        alone = np.concatenate([session.run({"input": data[i : i + 1]})["logits"] for i in range(9)])
        np.testing.assert_array_equal(whole, alone)
        np.testing.assert_array_equal(whole, session.expected(data))
        assert session.batches == [9] + [1] * 9

    def test_it_fails_on_the_runs_that_it_is_told_to(self):
        session = FakeSession(fail_on={1})
        session.run({"input": samples(1)})
        with pytest.raises(RunError, match="told to fail on run 1"):
            session.run({"input": samples(1)})
        session.run({"input": samples(1)})
        assert session.runs == 3

    def test_a_batch_over_its_limit_is_refused(self):
        session = FakeSession(max_batch=4)
        assert session.run({"input": samples(4)})["logits"].shape == (4, 5)
        with pytest.raises(InputError, match="batch 5 is larger than the engine's largest, 4"):
            session.run({"input": samples(5)})

    def test_pixels_are_taken_where_the_metadata_says_so(self):
        session = FakeSession(metadata=replace(METADATA, uint8_input=True))
        assert session.inputs[0].shape == ("batch", 16, 16, 3)
        assert session.run({"input": tiny_images(2)})["logits"].shape == (2, 5)

    def test_closing_waits_for_the_run_in_progress(self):
        started, finished = threading.Event(), []

        class Slow(FakeSession):
            def _run(self, feeds, batch):
                started.set()
                result = super()._run(feeds, batch)
                finished.append("run")
                return result

        session = Slow(delay=0.2)
        thread = threading.Thread(target=session.run, args=({"input": samples(1)},))
        thread.start()
        started.wait()
        with pytest.raises(RunError, match="already running"):
            session.run({"input": samples(1)})
        session.close()
        finished.append("close")
        thread.join()
        assert finished == ["run", "close"]


class TestTorchSession:
    def test_pixels_are_normalised_as_the_preprocessing_says(self):
        images = tiny_images(4)
        module = tiny_module(tiny_graph())
        with TorchSession(module, replace(METADATA, uint8_input=True), "cpu") as session:
            assert session.inputs[0].dtype == "uint8"
            answer = session.run({"input": images})["logits"]
        np.testing.assert_allclose(answer, in_double(METADATA.preprocess.normalise(images)), rtol=0, atol=1e-5)

    def test_a_module_in_training_mode_is_evaluated(self):
        module = torch.nn.Sequential(tiny_module(tiny_graph()), torch.nn.Dropout(0.5)).train()
        data = samples(2)
        with TorchSession(module, METADATA, "cpu") as session:
            np.testing.assert_allclose(session.run({"input": data})["logits"], in_double(data), rtol=0, atol=1e-5)

    @pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-6), (torch.bfloat16, 0.05)])
    def test_a_module_of_another_float_type_runs_in_it(self, dtype, tolerance):
        data = samples(2)
        with TorchSession(tiny_module(tiny_graph()).to(dtype), METADATA, "cpu") as session:
            answer = session.run({"input": data})["logits"]
        assert answer.dtype == np.float32
        np.testing.assert_allclose(answer, in_double(data), rtol=0, atol=tolerance)

    def test_a_module_that_answers_with_its_own_state_gives_a_copy(self):
        class Constant(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.register_buffer("answer", torch.zeros(2, 5))

            def forward(self, x):
                return self.answer

        module = Constant()
        with TorchSession(module, METADATA, "cpu") as session:
            session.run({"input": samples(2)})["logits"][:] = 7
        assert module.answer.abs().max() == 0

    def test_a_wrong_number_of_classes_is_named(self):
        with (
            TorchSession(
                torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(768, 4)), METADATA, "cpu"
            ) as session,
            pytest.raises(RunError, match=r"answers \[2, 4\], its metadata promises \[2, 5\]"),
        ):
            session.run({"input": samples(2)})

    def test_a_forward_that_fails_is_one_line(self):
        with (
            TorchSession(torch.nn.Linear(7, 5), METADATA, "cpu") as session,
            pytest.raises(RunError, match="PyTorch failed on a batch of 2") as caught,
        ):
            session.run({"input": samples(2)})
        assert "\n" not in caught.value.cause

    def test_a_device_that_is_not_there_is_refused(self, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        with pytest.raises(UnsupportedError, match="device 'cuda:0' was asked for"):
            TorchSession(torch.nn.Linear(1, 1), METADATA, "cuda:0")
        for name in ("cuda:", "cuda:x", "gpu", "cuda:-1"):
            with pytest.raises(InputError, match="there is no device"):
                TorchSession(torch.nn.Linear(1, 1), METADATA, name)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
        with pytest.raises(UnsupportedError, match="there are 2 CUDA devices"):
            TorchSession(torch.nn.Linear(1, 1), METADATA, "cuda:2")

    def test_threads_are_set_for_the_process(self):
        before = torch.get_num_threads()
        try:
            with TorchSession(torch.nn.Linear(1, 1), METADATA, "cpu", threads=1):
                assert torch.get_num_threads() == 1
            with pytest.raises(InputError, match="0 threads"):
                TorchSession(torch.nn.Linear(1, 1), METADATA, "cpu", threads=0)
        finally:
            torch.set_num_threads(before)
