"""What a packaged engine tells Triton: parsed with Triton's own message, held against the engine."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto
from tritonclient.grpc import model_config_pb2 as messages

from engines.errors import EngineFormatError, InputError, UnsupportedError
from engines.tensors import TensorSpec
from export.passes.uint8_input import take_uint8_input
from export.properties import Derived, write_derived, write_metadata
from tests.tiny import METADATA, tiny_graph
from tests.toolkit.packaging.engines import IMAGE, cast_graph, config_in, graph_in, plan_in, profile
from toolkit.packaging.triton import LEFT
from toolkit.steps.package import Package, package

Group = messages.ModelInstanceGroup


def quantised(folder: Path, name: str, placement: str, precision: str = "int8") -> Path:
    """A graph that says of itself that it is quantised; what it computes doesn't matter here."""
    model = tiny_graph()
    write_derived(model, Derived(precision, "sha256:w", placement=placement))
    onnx.save(model, folder / name)
    return folder / name


def noted(made: Package, text: str) -> bool:
    return any(text in note for note in made.notes)


def test_a_plan_is_described_by_its_passport(tmp_path: Path) -> None:
    made = package(plan_in(tmp_path), triton=tmp_path / "models")
    config = config_in(made.folder)
    assert (config.name, config.platform, config.backend) == ("model", "tensorrt_plan", "tensorrt")
    assert config.default_model_filename == "model.plan"
    assert config.max_batch_size == 32
    (image,), (logits,) = config.input, config.output
    assert (image.name, image.data_type, list(image.dims)) == ("input", messages.TYPE_FP32, list(IMAGE))
    assert image.format == messages.ModelInput.FORMAT_NCHW
    assert (logits.name, logits.data_type, list(logits.dims)) == ("logits", messages.TYPE_FP32, [5])
    assert logits.label_filename == "labels.txt"
    assert (made.folder / "labels.txt").read_text().splitlines() == list(METADATA.labels)
    assert config.version_policy.latest.num_versions == 1
    (group,) = config.instance_group
    assert (group.kind, group.count, list(group.gpus), list(group.profile)) == (Group.KIND_GPU, 1, [], [])
    assert config.HasField("dynamic_batching")
    assert list(config.dynamic_batching.preferred_batch_size) == []
    assert config.parameters["toolkit.made_from.graph"].string_value == "sha256:g"
    assert [(warm.batch_size, list(warm.inputs["input"].dims)) for warm in config.model_warmup] == [
        (1, list(IMAGE)),
        (32, list(IMAGE)),
    ]
    assert all(warm.inputs["input"].zero_data for warm in config.model_warmup)
    assert noted(made, "only in a release of Triton that has TensorRT 10.13.3.9")
    assert made.config["max_batch_size"] == 32


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8", "fp8"])
def test_a_plan_of_any_precision_is_taken_and_may_take_raw_pictures(tmp_path: Path, precision: str) -> None:
    engine = plan_in(
        tmp_path,
        precision=precision,
        inputs=(TensorSpec("input", "uint8", ("batch", 16, 16, 3)),),
        profiles=({"input": ((1, 16, 16, 3), (8, 16, 16, 3), (32, 16, 16, 3))},),
        metadata=replace(METADATA, uint8_input=True),
    )
    config = config_in(package(engine, triton=tmp_path / "models").folder)
    assert config.parameters["toolkit.precision"].string_value == precision
    (image,) = config.input
    assert (image.data_type, image.format) == (messages.TYPE_UINT8, messages.ModelInput.FORMAT_NHWC)
    assert list(image.dims) == [16, 16, 3]


def test_every_profile_of_a_plan_is_used(tmp_path: Path) -> None:
    engine = plan_in(tmp_path, profiles=(profile(1, 1, 4), profile(2, 8, 16), profile(16, 32, 64)))
    config = config_in(package(engine, triton=tmp_path / "models").folder)
    assert list(config.instance_group[0].profile) == ["0", "1", "2"]
    assert config.max_batch_size == 64
    assert list(config.dynamic_batching.preferred_batch_size) == [1, 8, 32, 64]
    assert [warm.batch_size for warm in config.model_warmup] == [1, 8, 32, 64]


def test_a_gap_between_profiles_bounds_the_batch(tmp_path: Path) -> None:
    engine = plan_in(tmp_path, profiles=(profile(1, 1, 4), profile(8, 16, 32)))
    config = config_in(package(engine, triton=tmp_path / "models").folder)
    assert config.max_batch_size == 4  # a batch of 5 fits none of them
    with pytest.raises(InputError, match="takes batches of 1 to 4, not 16"):
        package(engine, triton=tmp_path / "models", max_batch=16)


def test_a_plan_that_takes_no_single_sample_is_not_batched_by_triton(tmp_path: Path) -> None:
    made = package(plan_in(tmp_path, profiles=(profile(4, 4, 8),)), triton=tmp_path / "models")
    config = config_in(made.folder)
    assert config.max_batch_size == 0
    assert not config.HasField("dynamic_batching")
    assert list(config.input[0].dims) == [-1, *IMAGE]
    assert config.input[0].format == messages.ModelInput.FORMAT_NONE  # which has no place for the batch
    assert [list(warm.inputs["input"].dims) for warm in config.model_warmup] == [[4, *IMAGE], [8, *IMAGE]]
    assert {warm.batch_size for warm in config.model_warmup} == {1}
    assert noted(made, "takes no batch below 4")


def test_a_plan_of_one_batch_alone_says_so_in_its_shape(tmp_path: Path) -> None:
    made = package(plan_in(tmp_path, profiles=(profile(8, 8, 8),)), triton=tmp_path / "models")
    config = config_in(made.folder)
    assert config.max_batch_size == 0
    assert (list(config.input[0].dims), list(config.output[0].dims)) == ([8, *IMAGE], [8, 5])
    assert [list(warm.inputs["input"].dims) for warm in config.model_warmup] == [[8, *IMAGE]]
    assert noted(made, "batches of 8 alone")


@pytest.mark.parametrize("fixed", [1, 8])
def test_a_fixed_batch_stays_in_the_shape(tmp_path: Path, fixed: int) -> None:
    made = package(graph_in(tmp_path, batch=fixed), triton=tmp_path / "models")
    config = config_in(made.folder)
    assert config.max_batch_size == 0
    assert list(config.input[0].dims) == [fixed, *IMAGE]
    assert list(config.output[0].dims) == [fixed, 5]
    assert [list(warm.inputs["input"].dims) for warm in config.model_warmup] == [[fixed, *IMAGE]]
    assert noted(made, "is fixed")
    with pytest.raises(InputError, match="--max-batch 4 can't be met"):
        package(graph_in(tmp_path, batch=fixed), triton=tmp_path / "models", max_batch=4)


@pytest.mark.parametrize(
    ("dtype", "wanted"),
    [
        ("float16", "TYPE_FP16"),
        ("bfloat16", "TYPE_BF16"),
        ("uint8", "TYPE_UINT8"),
        ("int8", "TYPE_INT8"),
        ("int32", "TYPE_INT32"),
        ("int64", "TYPE_INT64"),
        ("bool", "TYPE_BOOL"),
    ],
)
def test_a_plans_types_are_tritons(tmp_path: Path, dtype: str, wanted: str) -> None:
    outputs = (TensorSpec("logits", dtype, ("batch", 5)),)
    config = config_in(package(plan_in(tmp_path, outputs=outputs), triton=tmp_path / "models").folder)
    assert messages.DataType.Name(config.output[0].data_type) == wanted


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "int4", "float64"])
def test_a_type_that_the_backend_lacks_is_refused(tmp_path: Path, dtype: str) -> None:
    engine = plan_in(tmp_path, outputs=(TensorSpec("logits", dtype, ("batch", 5)),))
    with pytest.raises(UnsupportedError, match=f"no tensor of type {dtype}, as 'logits'"):
        package(engine, triton=tmp_path / "models")
    assert not (tmp_path / "models").exists()


def test_a_graph_with_bf16_outputs_is_refused_and_other_types_are_not(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="ONNX Runtime backend hands over no tensor of type bfloat16"):
        package(cast_graph(tmp_path, TensorProto.BFLOAT16), triton=tmp_path / "models")
    config = config_in(package(cast_graph(tmp_path, TensorProto.DOUBLE), triton=tmp_path / "models").folder)
    assert config.output[0].data_type == messages.TYPE_FP64


def test_an_output_of_one_value_a_sample_is_reshaped(tmp_path: Path) -> None:
    peak = config_in(package(cast_graph(tmp_path, TensorProto.INT32), triton=tmp_path / "m").folder).output[1]
    assert list(peak.dims) == [1]  # Triton knows no shape without dimensions
    assert peak.HasField("reshape")
    assert list(peak.reshape.shape) == []


def test_a_uint8_input_is_nhwc(tmp_path: Path) -> None:
    model = tiny_graph()
    assert take_uint8_input(model.graph, METADATA.preprocess)
    write_metadata(model, replace(METADATA, uint8_input=True))
    onnx.save(model, tmp_path / "model.onnx")
    made = package(tmp_path / "model.onnx", triton=tmp_path / "models")
    (image,) = config_in(made.folder).input
    assert (image.data_type, list(image.dims)) == (messages.TYPE_UINT8, [16, 16, 3])
    assert image.format == messages.ModelInput.FORMAT_NHWC
    assert not noted(made, "Triton doesn't preprocess")


def test_what_is_asked_for_is_written(tmp_path: Path) -> None:
    made = package(
        plan_in(tmp_path),
        triton=tmp_path / "models",
        name="digits-2",
        max_batch=16,
        max_delay=0.0005,
        queue=64,
        instances=2,
        gpus=(0, 3),
    )
    config = config_in(made.folder)
    assert made.folder.name == config.name == "digits-2"
    assert config.max_batch_size == 16
    assert config.dynamic_batching.max_queue_delay_microseconds == 500
    assert config.dynamic_batching.default_queue_policy.max_queue_size == 64
    assert config.dynamic_batching.default_queue_policy.allow_timeout_override
    (group,) = config.instance_group
    assert (group.count, list(group.gpus), group.kind) == (2, [0, 3], Group.KIND_GPU)


def test_a_graph_runs_where_it_is_placed_for(tmp_path: Path) -> None:
    anywhere = package(graph_in(tmp_path), triton=tmp_path / "models")
    assert config_in(anywhere.folder).instance_group[0].kind == Group.KIND_AUTO
    assert noted(anywhere, "on the CPU where it sees none")
    ours = quantised(tmp_path, "model.int8.ort.onnx", "onnxruntime")
    config = config_in(package(ours, triton=tmp_path / "models", name="int8", threads=2).folder)
    assert config.instance_group[0].kind == Group.KIND_CPU
    assert config.parameters["intra_op_thread_count"].string_value == "2"
    with pytest.raises(UnsupportedError, match="ONNX Runtime's CPU kernels"):
        package(ours, triton=tmp_path / "models", name="int8", gpus=(0,))


def test_a_graph_placed_for_tensorrt_needs_what_fuses_it(tmp_path: Path) -> None:
    theirs = quantised(tmp_path, "model.int8.onnx", "tensorrt")
    with pytest.raises(UnsupportedError, match="placed for TensorRT") as refusal:
        package(theirs, triton=tmp_path / "models")
    assert "toolkit build-engine GRAPH.onnx --int8 --backend onnxruntime" in refusal.value.remedy
    quantised(tmp_path, "model.int8.ort.onnx", "onnxruntime")
    with pytest.raises(UnsupportedError) as refusal:
        package(theirs, triton=tmp_path / "models")
    assert "model.int8.ort.onnx'" in refusal.value.remedy

    made = package(theirs, triton=tmp_path / "models", accelerator="tensorrt", max_batch=16)
    config = config_in(made.folder)
    assert config.instance_group[0].kind == Group.KIND_GPU
    (accelerator,) = config.optimization.execution_accelerators.gpu_execution_accelerator
    assert accelerator.name == "tensorrt"
    assert dict(accelerator.parameters) == {
        "precision_mode": "INT8",
        "trt_profile_min_shapes": "input:1x3x16x16",
        "trt_profile_opt_shapes": "input:16x3x16x16",
        "trt_profile_max_shapes": "input:16x3x16x16",
    }
    assert noted(made, "each time the model is loaded")
    made = package(theirs, triton=tmp_path / "models", accelerator="openvino", name="cpu")
    config = config_in(made.folder)
    assert config.instance_group[0].kind == Group.KIND_CPU
    assert [one.name for one in config.optimization.execution_accelerators.cpu_execution_accelerator] == ["openvino"]


def test_an_fp8_graph_is_refused_because_triton_would_change_its_answers(tmp_path: Path) -> None:
    theirs = quantised(tmp_path, "model.fp8.onnx", "tensorrt", "fp8")
    with pytest.raises(UnsupportedError, match="change what such a graph computes"):
        package(theirs, triton=tmp_path / "models", accelerator="openvino")


def test_another_tools_qdq_is_noted(tmp_path: Path) -> None:
    x = onnx.helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])
    y = onnx.helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])
    scale = onnx.numpy_helper.from_array(np.float32(0.1), "s")
    zero = onnx.numpy_helper.from_array(np.int8(0), "z")
    nodes = [
        onnx.helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        onnx.helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    graph = onnx.helper.make_graph(nodes, "qdq", [x], [y], [scale, zero])
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)]), tmp_path / "q.onnx")
    made = package(tmp_path / "q.onnx", triton=tmp_path / "models")
    assert noted(made, "another tool's")
    assert noted(made, "no labels")
    assert not (made.folder / "labels.txt").exists()


def test_a_plan_for_rtx_is_refused_with_what_to_do(tmp_path: Path) -> None:
    from tests.engines.test_portability import rtx_engine

    with pytest.raises(UnsupportedError, match="Triton has no backend for those") as refusal:
        package(rtx_engine(tmp_path), triton=tmp_path / "models")
    assert "--backend tensorrt" in refusal.value.remedy


@pytest.mark.parametrize(
    ("wishes", "cause"),
    [
        ({"device": "cpu"}, "no CPU runs it"),
        ({"device": "cpu", "gpus": (0,)}, "contradict each other"),
        ({"accelerator": "tensorrt"}, "is for graphs"),
        ({"threads": 2}, "--threads is for graphs"),
        ({"gpus": (0, 0)}, "make no sense"),
        ({"instances": 0}, "make no sense"),
        ({"max_delay": float("nan")}, "make no sense"),
        ({"max_batch": 64}, "takes batches of 1 to 32"),
        ({"name": "../x"}, "can't be the name"),
        ({"name": ""}, "can't be the name"),
    ],
)
def test_wishes_that_contradict_the_plan_are_refused(tmp_path: Path, wishes: dict[str, object], cause: str) -> None:
    with pytest.raises(InputError, match=cause):
        package(plan_in(tmp_path), triton=tmp_path / "models", **wishes)  # type: ignore[arg-type]
    assert not (tmp_path / "models").exists()


def test_an_accelerator_on_the_wrong_device_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--accelerator openvino works on the CPU, not on the GPU"):
        package(graph_in(tmp_path), triton=tmp_path / "models", accelerator="openvino", gpus=(0,))


def test_a_plan_without_its_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="without its weights"):
        package(plan_in(tmp_path, options={"weights_stripped": True}), triton=tmp_path / "models")


def test_a_version_compatible_plan_says_how_triton_is_started(tmp_path: Path) -> None:
    made = package(plan_in(tmp_path, options={"version_compatible": True}), triton=tmp_path / "models")
    assert noted(made, "--backend-config=tensorrt,version-compatible=true")


def test_a_plan_that_is_not_its_passports_is_refused(tmp_path: Path) -> None:
    engine = plan_in(tmp_path)
    engine.write_bytes(engine.read_bytes()[:-1] + b"x")
    with pytest.raises(EngineFormatError, match="isn't the file that its passport describes"):
        package(engine, triton=tmp_path / "models")


def test_a_plan_without_a_passport_is_refused(tmp_path: Path) -> None:
    engine = plan_in(tmp_path)
    engine.with_name(engine.name + ".json").unlink()
    with pytest.raises(InputError, match="aren't known without its passport"):
        package(engine, triton=tmp_path / "models", max_batch=8)


def test_labels_are_a_line_each_whatever_is_in_them(tmp_path: Path) -> None:
    metadata = replace(METADATA, labels=("a\nb", " c ", "d:e", "größe", "f"))
    made = package(plan_in(tmp_path, metadata=metadata), triton=tmp_path / "models")
    assert (made.folder / "labels.txt").read_text(encoding="utf-8").split("\n") == [
        "a b",
        "c",
        "d:e",
        "größe",
        "f",
        "",
    ]


def test_a_packaged_graph_runs_and_has_the_tensors_that_the_configuration_says(tmp_path: Path) -> None:
    made = package(graph_in(tmp_path), triton=tmp_path / "models")
    config = config_in(made.folder)
    session = onnxruntime.InferenceSession(made.folder / "1" / config.default_model_filename)
    for warm in config.model_warmup:
        feeds = {name: np.zeros((warm.batch_size, *entry.dims), np.float32) for name, entry in warm.inputs.items()}
        (logits,) = session.run([config.output[0].name], feeds)
        assert list(logits.shape) == [warm.batch_size, *config.output[0].dims]


def test_every_field_of_tritons_configuration_is_written_or_left_for_a_reason(tmp_path: Path) -> None:
    made = [
        package(plan_in(tmp_path), triton=tmp_path / "models"),
        package(graph_in(tmp_path), triton=tmp_path / "models", name="graph", accelerator="tensorrt"),
    ]
    written = {field.name for one in made for field, _ in config_in(one.folder).ListFields()}
    assert written | set(LEFT) == {field.name for field in messages.ModelConfig.DESCRIPTOR.fields}
    assert not written & set(LEFT)
