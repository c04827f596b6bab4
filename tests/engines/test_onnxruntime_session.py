"""What is particular to ONNX Runtime: damaged graphs, types, devices that are never swapped in silence."""

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
from ml_dtypes import bfloat16
from onnx import TensorProto, helper

from engines.errors import GraphError, InputError, UnsupportedError
from engines.sessions import ort_cuda
from engines.sessions.onnxruntime import OnnxRuntimeSession
from engines.sessions.ort_binding import DeviceBinding
from engines.sessions.ort_errors import one_line
from engines.tensors import TensorSpec
from tests.conformance import samples
from tests.tiny import METADATA, tiny_graph, tiny_images


def saved(model, path):
    path.write_bytes(model.SerializeToString())
    return path


def refused(path, kind=GraphError, **options):
    with pytest.raises(kind) as caught:
        OnnxRuntimeSession(path, **options)
    error = caught.value
    assert "\n" not in error.cause
    assert "onnxruntime_src" not in error.cause
    assert error.remedy
    return error.cause


class TestDamagedGraphs:
    def test_truncated_garbage_and_empty_files(self, tmp_path):
        whole = tiny_graph().SerializeToString()
        for name, content in {"cut": whole[: len(whole) // 2], "garbage": b"hello" * 100, "empty": b""}.items():
            path = tmp_path / f"{name}.onnx"
            path.write_bytes(content)
            assert f"({len(content)} bytes)" in refused(path)

    def test_an_opset_from_the_future_names_found_and_known(self, tmp_path):
        model = tiny_graph()
        model.opset_import[0].version = 99
        assert "is of opset 99; ONNX Runtime" in refused(saved(model, tmp_path / "m.onnx"))

    def test_an_ir_version_from_the_future_names_found_and_known(self, tmp_path):
        model = tiny_graph()
        model.ir_version = 99
        assert "is of IR version 99" in refused(saved(model, tmp_path / "m.onnx"))

    def test_missing_external_data_is_named_and_present_data_is_found(self, tmp_path):
        path = tmp_path / "m.onnx"
        onnx.save_model(tiny_graph(), path, save_as_external_data=True, location="weights.bin", size_threshold=10)
        with OnnxRuntimeSession(path, device="cpu") as session:
            assert session.run({"input": samples(1)})["logits"].shape == (1, 5)
        (tmp_path / "weights.bin").unlink()
        assert "'weights.bin', which is not beside it" in refused(path)

    def test_truncated_external_data_is_a_graph_error(self, tmp_path):
        path = tmp_path / "m.onnx"
        onnx.save_model(tiny_graph(), path, save_as_external_data=True, location="weights.bin", size_threshold=10)
        (tmp_path / "weights.bin").write_bytes(b"short")
        assert "m.onnx" in refused(path)

    def test_an_unknown_operator_and_a_dangling_input_are_named(self, tmp_path):
        model = tiny_graph()
        model.graph.node[0].op_type = "Konv"
        assert "Konv" in refused(saved(model, tmp_path / "op.onnx"))
        model = tiny_graph()
        model.graph.node[0].input[0] = "nowhere"
        assert "'nowhere'" in refused(saved(model, tmp_path / "dangling.onnx"))

    def test_damaged_metadata_names_the_file(self, tmp_path):
        model = tiny_graph(metadata=None)
        helper.set_model_props(model, {"toolkit.metadata": "{not json"})
        with pytest.raises(InputError, match=r"m\.onnx': the model's metadata is not JSON"):
            OnnxRuntimeSession(saved(model, tmp_path / "m.onnx"), device="cpu")

    def test_the_reason_keeps_no_source_file_or_signature(self):
        error = RuntimeError(
            "[ONNXRuntimeError] : 1 : FAIL : Load model from /tmp/x.onnx failed:/src/core/graph/model.cc:256 "
            "onnxruntime::Model::Model(onnx::ModelProto&&, const Logger&) Unsupported thing: 7\n"
        )
        assert one_line(error) == "Unsupported thing: 7"


class TestTensors:
    def test_a_foreign_graph_has_no_metadata_and_still_runs(self, tmp_path):
        with OnnxRuntimeSession(saved(tiny_graph(metadata=None), tmp_path / "m.onnx"), device="cpu") as session:
            assert session.metadata is None
            assert session.run({"input": samples(2)})["logits"].shape == (2, 5)

    def test_metadata_comes_back_as_it_was_written(self, tmp_path):
        with OnnxRuntimeSession(saved(tiny_graph(), tmp_path / "m.onnx"), device="cpu") as session:
            assert session.metadata == METADATA

    def test_a_fixed_batch_is_the_largest(self, tmp_path):
        model = tiny_graph()
        for value in (*model.graph.input, *model.graph.output):
            value.type.tensor_type.shape.dim[0].dim_value = 4
        with OnnxRuntimeSession(saved(model, tmp_path / "m.onnx"), device="cpu") as session:
            assert session.info.max_batch == 4
            assert session.run({"input": samples(4)})["logits"].shape == (4, 5)
            with pytest.raises(InputError, match="shape"):
                session.run({"input": samples(5)})

    def test_a_dimension_without_a_name_varies(self, tmp_path):
        model = tiny_graph()
        model.graph.input[0].type.tensor_type.shape.dim[0].ClearField("dim_param")
        with OnnxRuntimeSession(saved(model, tmp_path / "m.onnx"), device="cpu") as session:
            assert session.inputs[0].shape == ("batch", 3, 16, 16)
            assert session.run({"input": samples(3)})["logits"].shape == (3, 5)

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
        with OnnxRuntimeSession(saved(identity(kind), tmp_path / "m.onnx"), device="cpu") as session:
            assert session.inputs[0].dtype == values.dtype.name
            answer = session.run({"x": values})["y"]
            assert answer.dtype == values.dtype
            np.testing.assert_array_equal(answer, values)
            values[:] = 0
            assert answer.astype(np.float32).max() > 0, "the output must not be the input's memory"

    def test_a_type_that_numpy_lacks_is_refused(self, tmp_path):
        cause = refused(saved(identity(TensorProto.STRING), tmp_path / "m.onnx"), UnsupportedError)
        assert "tensor(string)" in cause

    def test_raw_pixels_are_a_type_like_any_other(self, tmp_path):
        metadata = replace(METADATA, uint8_input=True)
        images = tiny_images(3)
        with OnnxRuntimeSession(saved(pixel_graph(metadata), tmp_path / "m.onnx"), device="cpu") as session:
            assert session.inputs[0].dtype == "uint8"
            assert session.metadata.uint8_input
            logits = session.run({"input": images})["logits"]
        with OnnxRuntimeSession(saved(tiny_graph(), tmp_path / "f.onnx"), device="cpu") as session:
            expected = session.run({"input": METADATA.preprocess.normalise(images)})["logits"]
        np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5)


class TestWeightsInMemory:
    def test_arrays_stand_for_external_data_wherever_they_lie_in_memory(self, tmp_path):
        whole, light = tiny_graph(), tiny_graph()
        weights = {}
        for tensor in light.graph.initializer:
            if tensor.data_type == TensorProto.FLOAT and len(tensor.dims) > 1:
                memory = np.frombuffer(b"?" + tensor.raw_data, np.uint8)[1:]  # not aligned, as in a mapped graph
                weights[tensor.name] = memory.view(np.float32).reshape(tuple(tensor.dims))
                tensor.ClearField("raw_data")
                tensor.data_location = TensorProto.EXTERNAL
                tensor.external_data.add(key="location", value="nowhere")
        assert any(not values.flags.aligned for values in weights.values())
        feeds = {"input": samples(2)}
        with (
            OnnxRuntimeSession(saved(whole, tmp_path / "whole.onnx"), device="cpu") as one,
            OnnxRuntimeSession(saved(light, tmp_path / "light.onnx"), device="cpu", weights=weights) as other,
        ):
            del weights
            np.testing.assert_array_equal(one.run(feeds)["logits"], other.run(feeds)["logits"])
        refused(tmp_path / "light.onnx")


class TestDevices:
    @pytest.fixture
    def path(self, tmp_path):
        return saved(tiny_graph(), tmp_path / "m.onnx")

    def test_the_provider_that_runs_is_told(self, path):
        with OnnxRuntimeSession(path, device="cpu") as session:
            info = session.info
        assert (info.device, info.provider) == ("cpu", "CPUExecutionProvider")
        assert info.versions == {"onnxruntime": onnxruntime.__version__}

    def test_cuda_without_the_gpu_package_is_an_error_and_not_the_cpu(self, path, monkeypatch):
        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
        assert "a build without CUDA" in refused(path, UnsupportedError, device="cuda:0")

    def test_cuda_without_a_driver_is_an_error_and_not_the_cpu(self, path, monkeypatch):
        listed = ["CUDAExecutionProvider", "CPUExecutionProvider"]
        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: listed)
        monkeypatch.setattr(ort_cuda, "has_nvidia_driver", lambda: False)
        assert "no NVIDIA driver" in refused(path, UnsupportedError, device="cuda")
        with OnnxRuntimeSession(path, device="auto") as session:
            assert session.info.device == "cpu"

    def test_cuda_that_fails_to_load_is_an_error_when_asked_for_and_the_cpu_on_auto(self, path, monkeypatch):
        # This build has no CUDA provider, so asking for it fails inside the library as a broken one does.
        if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
            pytest.skip("this ONNX Runtime has a CUDA provider")
        listed = ["CUDAExecutionProvider", "CPUExecutionProvider"]
        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: listed)
        monkeypatch.setattr(ort_cuda, "has_nvidia_driver", lambda: True)
        assert "CUDA device 0" in refused(path, UnsupportedError, device="cuda:0")
        with OnnxRuntimeSession(path, device="auto") as session:
            assert session.info.provider == "CPUExecutionProvider"

    @pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:one", "cpu:0", ""])
    def test_a_device_that_does_not_exist_is_refused(self, path, device):
        assert "there is no device" in refused(path, InputError, device=device)

    def test_threads_must_be_positive_and_do_not_change_the_answer(self, path):
        assert "0 threads" in refused(path, InputError, threads=0)
        data = samples(2)
        with OnnxRuntimeSession(path, device="cpu", threads=1) as one, OnnxRuntimeSession(path, device="cpu") as many:
            np.testing.assert_allclose(
                one.run({"input": data})["logits"], many.run({"input": data})["logits"], rtol=0, atol=1e-5
            )

    def test_an_emptied_package_is_told_apart_from_a_missing_one(self, path, monkeypatch):
        monkeypatch.delattr(onnxruntime, "InferenceSession")
        assert "installed but empty" in refused(path, UnsupportedError)


class TestBinding:
    """The code that binds tensors on a device, with host memory as the device."""

    @pytest.fixture
    def session(self, tmp_path):
        with OnnxRuntimeSession(saved(tiny_graph(), tmp_path / "m.onnx"), device="cpu") as session:
            session._binding = DeviceBinding(onnxruntime, session._session, session.inputs, session.outputs, "cpu:0")
            yield session

    def test_bound_runs_answer_as_plain_ones_when_batches_alternate(self, session, tmp_path):
        with OnnxRuntimeSession(tmp_path / "m.onnx", device="cpu") as plain:
            for batch in (4, 4, 1, 4, 7, 1):
                data = samples(batch, seed=batch)
                np.testing.assert_allclose(
                    session.run({"input": data})["logits"], plain.run({"input": data})["logits"], rtol=0, atol=1e-5
                )

    def test_bound_outputs_belong_to_the_caller(self, session):
        first = session.run({"input": samples(2, seed=1)})["logits"]
        kept = first.copy()
        session.run({"input": samples(2, seed=2)})
        np.testing.assert_array_equal(first, kept)

    def test_the_stages_of_a_bound_run_are_timed(self, session):
        assert session.stage_times() is None
        session.run({"input": samples(2)})
        times = session.stage_times()
        assert min(times.copy_in, times.device, times.copy_out) > 0

    def test_bf16_tensors_are_refused_by_name(self, session):
        spec = TensorSpec("half", "bfloat16", ("batch", 3))
        with pytest.raises(UnsupportedError, match="'half' of the graph is BF16"):
            DeviceBinding(onnxruntime, session._session, (spec,), session.outputs, "cuda:0")


def identity(kind):
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "identity",
        [helper.make_tensor_value_info("x", kind, ["batch", 3])],
        [helper.make_tensor_value_info("y", kind, ["batch", 3])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def pixel_graph(metadata):
    """The tiny graph behind Cast, Transpose, Mul and Add on raw NHWC pixels."""
    model = tiny_graph(metadata=metadata)
    scale, shift = metadata.preprocess.affine()
    graph = model.graph
    graph.initializer.append(onnx.numpy_helper.from_array(scale.reshape(1, 3, 1, 1), "scale"))
    graph.initializer.append(onnx.numpy_helper.from_array(shift.reshape(1, 3, 1, 1), "shift"))
    graph.node[0].input[0] = "normal"
    head = [
        helper.make_node("Cast", ["input"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["real"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Mul", ["planes", "scale"], ["scaled"]),
        helper.make_node("Add", ["scaled", "shift"], ["normal"]),
    ]
    nodes = [*head, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    graph.input[0].CopyFrom(helper.make_tensor_value_info("input", TensorProto.UINT8, ["batch", 16, 16, 3]))
    return model
