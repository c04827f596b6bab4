"""What is particular to OpenVINO: it computes in the types of the graph, sends nothing, and says what it can't do."""

import contextlib
import importlib.metadata
import os
import subprocess
import sys
import threading
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest
from ml_dtypes import bfloat16, float8_e4m3fn
from onnx import TensorProto, helper, numpy_helper

from calibration.qdq import quantise
from engines.errors import GraphError, InputError, MissingLibraryError, RunError, UnsupportedError
from engines.sessions.onnxruntime import OnnxRuntimeSession
from engines.sessions.openvino import OpenVinoSession
from tests.calibration.graphs import UNSEEN, table_of
from tests.conformance import samples
from tests.engines.graphs import BF16, fp8_graph, quantised_graph, typed_graph
from tests.engines.test_onnxruntime_session import identity, pixel_graph, saved
from tests.engines.test_ort_fp8 import ZERO, model_of, pair
from tests.tiny import METADATA, tiny_graph, tiny_images

if find_spec("openvino") is None:
    pytest.skip("openvino isn't installed", allow_module_level=True)

ROOT = Path(__file__).resolve().parents[2]


def refused(path: Path, kind: type = GraphError, **options: object) -> str:
    with pytest.raises(kind) as caught:
        OpenVinoSession(path, **options)
    error = caught.value
    assert "\n" not in error.cause
    assert "src/" not in error.cause
    assert error.remedy
    return error.cause


def answers(model: onnx.ModelProto, folder: Path, feed: np.ndarray, backend: type) -> np.ndarray:
    with backend(saved(model, folder / "model.onnx"), device="cpu") as session:
        return session.run({"input": feed})["logits"]


def both(model: onnx.ModelProto, folder: Path, feed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return answers(model, folder, feed, OpenVinoSession), answers(model, folder, feed, OnnxRuntimeSession)


def types_of(model: onnx.ModelProto, folder: Path) -> list[str]:
    with OpenVinoSession(saved(model, folder / "model.onnx")) as session:
        found = list(session.layer_types().values())
        assert session.info.provider == f"CPU: {', '.join(sorted(set(found)))}"
    return found


class TestTypes:
    def test_fp16_layers_run_in_fp32(self, tmp_path):
        model, data = typed_graph(tiny_graph(lrn=True)), samples(8)
        assert types_of(model, tmp_path) == ["float32"] * 4
        found, expected = both(model, tmp_path, data)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)

    def test_bf16_layers_run_in_bf16_or_wider(self, tmp_path):
        model, data = typed_graph(tiny_graph(), BF16), samples(8)
        assert len(set(types_of(model, tmp_path))) == 1
        assert set(types_of(model, tmp_path)) <= {"bfloat16", "float32"}
        found = answers(model, tmp_path, data, OpenVinoSession)
        exact = answers(tiny_graph(), tmp_path, data, OnnxRuntimeSession)
        assert 1e-4 < np.abs(found - exact).max() < 0.02 * np.abs(exact).max()

    @pytest.mark.parametrize(
        ("target", "remainder"), [("tensorrt", "fp16"), ("tensorrt", "fp32"), ("onnxruntime", "fp32")]
    )
    def test_int8_layers_run_in_int8_whatever_they_were_placed_for(self, tmp_path, target, remainder):
        master = tiny_graph(lrn=True)
        model = quantise(master, table_of(master), target, remainder=remainder)
        assert types_of(model, tmp_path) == ["int8"] * 4
        found, expected = both(model, tmp_path, UNSEEN)
        exact = answers(master, tmp_path, UNSEEN, OnnxRuntimeSession)
        assert (found.argmax(axis=1) == expected.argmax(axis=1)).mean() > 0.95
        assert np.abs(found - expected).max() < 0.02 * np.abs(exact).max()
        assert np.abs(found - exact).mean() < 1.2 * np.abs(expected - exact).mean()

    def test_fp8_answers_are_as_good_as_those_that_onnx_runtime_gives(self, tmp_path):
        for model in (fp8_graph(), quantised_graph(tiny_graph(lrn=True), fp8=True)):
            assert types_of(model, tmp_path) == ["float32"] * 4
            found, expected = both(model, tmp_path, UNSEEN)
            exact = answers(tiny_graph(lrn=True), tmp_path, UNSEEN, OnnxRuntimeSession)
            assert np.abs(found - exact).mean() < 1.2 * np.abs(expected - exact).mean()
            assert np.abs(found - exact).mean() > 1e-3, "it must be FP8"

    def test_fp8_values_are_one_of_the_nearest_and_saturate(self, tmp_path):
        count = 2048
        model = model_of(pair(), [ZERO])
        for value in (*model.graph.input, *model.graph.output):
            value.type.tensor_type.shape.dim[0].dim_value = count
        rng = np.random.default_rng(0)
        feed = (np.exp(rng.uniform(-6, 6, count)) * rng.choice([-1, 1], count)).astype(np.float32)
        feed[:3] = 1000, -1e9, 0
        with OpenVinoSession(saved(model, tmp_path / "m.onnx")) as session:
            found = session.run({"input": feed})["output"]
        nearest = np.clip(feed, -448, 448).astype(float8_e4m3fn).astype(np.float32)
        assert found[:3].tolist() == [448, -448, 0]
        assert (found == nearest).mean() > 0.98
        inside = np.abs(feed) <= 448
        further = np.abs(found - feed)[inside] - np.abs(nearest - feed)[inside]
        assert (further <= 2**-10 * np.abs(feed[inside])).all(), "ties in FP16's precision may go either way"

    def test_int8_weights_alone_leave_what_the_layer_reads_as_it_is(self, tmp_path):
        """OpenVINO rounds it to INT8 unless it is told not to: 1 in 200 of the largest output."""
        rng = np.random.default_rng(0)
        weights, scales = rng.integers(-127, 128, (256, 512)).astype(np.int8), np.full(256, 0.01, np.float32)
        value = helper.make_tensor_value_info
        dequantise = helper.make_node("DequantizeLinear", ["w", "s", "z"], ["wide"], axis=0)
        graph = helper.make_graph(
            [dequantise, helper.make_node("Gemm", ["x", "wide"], ["y"], transB=1)],
            "g",
            [value("x", TensorProto.FLOAT, ["n", 512])],
            [value("y", TensorProto.FLOAT, ["n", 256])],
            [
                numpy_helper.from_array(array, name)
                for name, array in {"w": weights, "s": scales, "z": np.zeros(256, np.int8)}.items()
            ],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        feed = rng.standard_normal((4, 512)).astype(np.float32)
        expected = feed.astype(np.float64) @ (weights * 0.01).T
        with OpenVinoSession(saved(model, tmp_path / "m.onnx")) as session:
            assert list(session.layer_types().values()) == ["float32"]
            np.testing.assert_allclose(session.run({"x": feed})["y"], expected, rtol=0, atol=1e-3)


class TestTensors:
    def test_metadata_comes_back_and_a_foreign_graph_has_none(self, tmp_path):
        with OpenVinoSession(saved(tiny_graph(), tmp_path / "m.onnx")) as session:
            assert session.metadata == METADATA
        with OpenVinoSession(saved(tiny_graph(metadata=None), tmp_path / "f.onnx")) as session:
            assert session.metadata is None
            assert session.run({"input": samples(2)})["logits"].shape == (2, 5)

    def test_damaged_metadata_names_the_file(self, tmp_path):
        model = tiny_graph(metadata=None)
        helper.set_model_props(model, {"toolkit.metadata": "{not json"})
        assert "m.onnx': the model's metadata is not JSON" in refused(saved(model, tmp_path / "m.onnx"), InputError)

    def test_a_fixed_batch_is_the_largest(self, tmp_path):
        model = tiny_graph()
        for value in (*model.graph.input, *model.graph.output):
            value.type.tensor_type.shape.dim[0].dim_value = 4
        with OpenVinoSession(saved(model, tmp_path / "m.onnx")) as session:
            assert session.info.max_batch == 4
            assert session.run({"input": samples(4)})["logits"].shape == (4, 5)
            with pytest.raises(InputError, match="shape"):
                session.run({"input": samples(5)})

    def test_outputs_keep_their_names_where_layers_are_folded_away(self, tmp_path):
        value = helper.make_tensor_value_info
        nodes = [helper.make_node("Relu", ["x"], ["a"])]
        nodes += [helper.make_node("Identity", ["a"], [name]) for name in ("y", "b")]
        outputs = [value(name, TensorProto.FLOAT, ["n", 4]) for name in ("y", "b", "a")]
        graph = helper.make_graph(nodes, "g", [value("x", TensorProto.FLOAT, ["n", 4])], outputs)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        with OpenVinoSession(saved(model, tmp_path / "m.onnx")) as session:
            assert [spec.name for spec in session.outputs] == ["y", "b", "a"]
            found = session.run({"x": np.float32([[-1, 2, -3, 4]])})
        assert [array.tolist() for array in found.values()] == [[[0, 2, 0, 4]]] * 3

    @pytest.mark.parametrize(
        ("kind", "dtype"),
        [
            (TensorProto.FLOAT16, np.float16), (TensorProto.BFLOAT16, bfloat16), (TensorProto.DOUBLE, np.float64),
            (TensorProto.UINT8, np.uint8), (TensorProto.INT8, np.int8), (TensorProto.INT64, np.int64),
            (TensorProto.BOOL, np.bool_),
        ],
    )  # fmt: skip
    def test_every_numeric_type_goes_in_and_comes_out(self, tmp_path, kind, dtype):
        values = np.array([[0, 1, 2], [100, 5, 1]]).astype(dtype)
        with OpenVinoSession(saved(identity(kind), tmp_path / "m.onnx")) as session:
            assert session.inputs[0].dtype == values.dtype.name
            answer = session.run({"x": values})["y"]
        assert answer.dtype == values.dtype
        np.testing.assert_array_equal(answer, values)
        values[:] = 0
        assert answer.astype(np.float32).max() > 0, "the output must not be the input's memory"

    @pytest.mark.parametrize("kind", [TensorProto.STRING, TensorProto.UINT4, TensorProto.FLOAT8E4M3FN])
    def test_a_type_that_numpy_lacks_is_refused(self, tmp_path, kind):
        assert "which numpy can't hold" in refused(saved(identity(kind), tmp_path / "m.onnx"), UnsupportedError)

    def test_raw_pixels_are_a_type_like_any_other(self, tmp_path):
        images = tiny_images(3)
        with OpenVinoSession(saved(pixel_graph(replace(METADATA, uint8_input=True)), tmp_path / "m.onnx")) as session:
            assert session.inputs[0].dtype == "uint8"
            logits = session.run({"input": images})["logits"]
        expected = answers(tiny_graph(), tmp_path, METADATA.preprocess.normalise(images), OnnxRuntimeSession)
        np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5)

    def test_the_input_is_read_where_it_lies(self, tmp_path):
        data = samples(2)
        with OpenVinoSession(saved(tiny_graph(), tmp_path / "m.onnx")) as session:
            session.run({"input": data})
            assert session._request.get_input_tensor(0).data.ctypes.data == data.ctypes.data

    def test_batches_are_staged_in_slots(self, tmp_path):
        data = samples(5)
        with OpenVinoSession(saved(tiny_graph(), tmp_path / "m.onnx")) as session:
            expected = session.run({"input": data})["logits"]
            one, other = session.slots(2, max_batch=4)
            for slot, part in ((one, data[:4]), (other, data[4:])):
                slot.inputs(len(part))["input"][:] = part
                slot.start()
            found = np.concatenate([one.wait()["logits"], other.wait()["logits"]])
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


class TestDamagedGraphs:
    def test_truncated_garbage_and_empty_files_are_told_without_a_word_on_the_terminal(self, tmp_path, capfd):
        whole = tiny_graph().SerializeToString()
        contents = {"cut": whole[: len(whole) // 2], "garbage": b"hello" * 100, "empty": b"", "text": b"\n" + whole}
        for name, content in contents.items():
            path = tmp_path / f"{name}.onnx"
            path.write_bytes(content)
            assert f"({len(content)} bytes)" in refused(path)
        broken = bytearray(whole)
        broken[len(whole) // 3] ^= 0xFF  # inside: the outermost fields are whole
        (tmp_path / "broken.onnx").write_bytes(broken)
        with contextlib.suppress(GraphError):  # whatever the byte was: a weight, or the structure
            OpenVinoSession(tmp_path / "broken.onnx").close()
        assert capfd.readouterr() == ("", "")

    def test_an_opset_from_the_future_is_refused_and_not_read_by_the_rules_of_today(self, tmp_path):
        model = tiny_graph()
        model.opset_import[0].version = 99
        assert "is of opset 99; OpenVINO 20" in refused(saved(model, tmp_path / "m.onnx"))
        model.opset_import[0].version = 20
        model.opset_import.append(helper.make_opsetid("ai.onnx.ml", 99))  # not ONNX's own, and not used
        with OpenVinoSession(saved(model, tmp_path / "m.onnx")) as session:
            assert session.metadata == METADATA

    def test_missing_external_data_is_named_and_present_data_is_found(self, tmp_path):
        path = tmp_path / "m.onnx"
        onnx.save_model(tiny_graph(), path, save_as_external_data=True, location="weights.bin", size_threshold=10)
        with OpenVinoSession(path) as session:
            assert session.run({"input": samples(1)})["logits"].shape == (1, 5)
        (tmp_path / "weights.bin").write_bytes(b"short")
        assert "is cut short" in refused(path)
        (tmp_path / "weights.bin").unlink()
        assert "'weights.bin', which is not beside it" in refused(path)

    def test_an_unknown_operator_and_a_dangling_input_are_named(self, tmp_path):
        model = tiny_graph()
        model.graph.node[0].op_type = "Konv"
        assert "Konv-20" in refused(saved(model, tmp_path / "op.onnx"))
        model = tiny_graph()
        model.graph.node[0].input[0] = "nowhere"
        assert '"nowhere"' in refused(saved(model, tmp_path / "dangling.onnx"))

    def test_of_many_operators_that_fail_the_first_is_named_with_its_reason(self, tmp_path):
        model = tiny_graph()
        next(node for node in model.graph.node if node.name == "fc1").op_type = "MatMul"
        weight = next(tensor for tensor in model.graph.initializer if tensor.name == "conv2.weight")
        weight.CopyFrom(numpy_helper.from_array(np.zeros((16, 5, 3, 3), np.float32), weight.name))
        cause = refused(saved(model, tmp_path / "m.onnx"))
        assert "<Node(Conv): conv2>" in cause
        assert "MatMul" not in cause
        assert "Check '" not in cause
        assert len(cause) < 500

    def test_names_that_are_not_text_are_told(self, tmp_path):
        whole = tiny_graph().SerializeToString()
        for name in (b"logits", b"input", b"conv1"):
            (tmp_path / "m.onnx").write_bytes(whole.replace(name, b"\xe3" + name[1:]))
            assert "a name that isn't text" in refused(tmp_path / "m.onnx")

    def test_a_missing_file_and_a_folder_are_told_apart(self, tmp_path):
        assert "does not exist" in refused(tmp_path / "none.onnx", InputError)
        assert "is a folder" in refused(tmp_path, InputError)


class TestDevices:
    @pytest.fixture
    def path(self, tmp_path):
        return saved(tiny_graph(), tmp_path / "m.onnx")

    def test_what_runs_is_told(self, path):
        with OpenVinoSession(path) as session:
            assert (session.info.backend, session.info.device) == ("openvino", "cpu")
            assert session.info.provider == "CPU: float32"
            version = session.info.versions["openvino"]
        assert importlib.metadata.version("openvino") == version

    @pytest.mark.parametrize("device", ["gpu", "openvino:", "openvino", "cpu:0", ""])
    def test_a_device_that_does_not_exist_is_refused(self, path, device):
        assert "there is no device" in refused(path, InputError, device=device)

    @pytest.mark.parametrize("device", ["openvino:GPU.9", "openvino:AUTO", "openvino:HETERO:CPU", "cuda:0"])
    def test_a_device_that_is_not_here_is_never_the_cpu_instead(self, path, device):
        assert device.removeprefix("openvino:") in refused(path, UnsupportedError, device=device)

    def test_threads_must_be_positive_and_are_taken(self, path):
        assert "0 threads" in refused(path, InputError, threads=0)
        with OpenVinoSession(path, threads=1) as session:
            assert session._compiled.get_property("INFERENCE_NUM_THREADS") == 1
            assert session.run({"input": samples(1)})["logits"].shape == (1, 5)

    @pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the system doesn't tell a thread's cores")
    def test_threads_are_not_bound_to_cores(self, path):
        """OpenVINO binds the calling thread during a run unless told not to: two sessions then share a core."""
        allowed, seen, stop = os.sched_getaffinity(0), set(), threading.Event()
        tasks = Path("/proc/self/task")

        def look():
            while not stop.is_set():
                for task in tasks.iterdir():
                    try:
                        seen.add(frozenset(os.sched_getaffinity(int(task.name))))
                    except OSError:
                        continue

        watcher = threading.Thread(target=look)
        with OpenVinoSession(path, threads=1) as session:
            watcher.start()
            try:
                for _ in range(20):
                    session.run({"input": samples(512)})
            finally:
                stop.set()
                watcher.join()
        assert seen == {frozenset(allowed)}

    def test_a_failed_run_is_one_line_and_the_session_lives(self, path):
        with OpenVinoSession(path) as session:
            wrong = session._library.Tensor(np.zeros((1, 3, 9, 9), np.float32))
            make, session._tensor = session._tensor, lambda array, spec: wrong
            with pytest.raises(RunError, match="OpenVINO failed on a batch of 2: Can't set the input") as caught:
                session.run({"input": samples(2)})
            assert "src/" not in caught.value.cause
            session._tensor = make
            assert session.run({"input": samples(2)})["logits"].shape == (2, 5)

    def test_a_missing_library_is_named_with_its_pip_line(self, path, monkeypatch):
        monkeypatch.setitem(sys.modules, "openvino", None)
        with pytest.raises(MissingLibraryError) as caught:
            OpenVinoSession(path)
        assert "[openvino]" in caught.value.remedy


def test_nothing_is_sent_or_written_about_its_use(tmp_path):
    """The import of openvino alone makes an identity in the home folder and sends it with an event."""
    path = saved(tiny_graph(), tmp_path / "m.onnx")
    home = tmp_path / "home"
    home.mkdir()
    code = (
        "import sys\nfrom engines.sessions import open_session\n"
        f"open_session({str(path)!r}, backend='openvino').close()\n"
        "sys.exit(any(name.startswith('openvino_telemetry') for name in sys.modules))"
    )
    known_to_ci = {"CI", "TF_BUILD", "JENKINS_URL", "GITHUB_ACTIONS"}
    environment = {name: value for name, value in os.environ.items() if name not in known_to_ci}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environment | {"HOME": str(home)},
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert list(home.iterdir()) == []
