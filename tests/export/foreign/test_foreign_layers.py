"""Layers, layouts and types of foreign graphs become those that calibration and placement know."""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from calibration.ranges import Ranges
from engines.errors import GraphError, InputError
from export.foreign.importing import Imported, import_foreign
from export.foreign.judging import judge
from export.graph import inputs, outputs
from export.sources.description import Description
from tests.export.foreign.graphs import answers, convolution, graph, node, same, saved, weight

PICTURES = weight(7, 3, 8, 8, seed=5) * 8


def operators(imported: Imported) -> Counter[str]:
    return Counter(item.op_type for item in imported.model.graph.node)


def normalisation(name: str, channels: int, seed: int) -> dict[str, NDArray[np.float32]]:
    rng = np.random.default_rng(seed)
    return {
        f"{name}.gamma": rng.uniform(0.5, 2, channels).astype(np.float32),
        f"{name}.beta": rng.standard_normal(channels).astype(np.float32),
        f"{name}.mean": rng.standard_normal(channels).astype(np.float32),
        f"{name}.var": rng.uniform(0.5, 2, channels).astype(np.float32),
    }


@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize("kind", ["Conv", "ConvTranspose"])
@pytest.mark.parametrize("bias", [True, False])
def test_batch_normalisation_and_scales_behind_a_convolution_are_folded(
    kind: str, group: int, bias: bool, tmp_path: Path
) -> None:
    first, second = (4, 6 // group) if kind == "ConvTranspose" else (6, 4 // group)
    constants = {
        "in": weight(4, 3, 1, 1),
        "w": weight(first, second, 3, 3),
        "b": weight(6, seed=1),
        "factor": weight(6, 1, 1, seed=3),
        "offset": weight(1, 6, 1, 1, seed=4),
        **normalisation("n", 6, 2),
    }
    nodes = [
        node("Conv", ["x", "in"], ["i"]),
        node("Relu", ["i"], ["ir"]),
        node(kind, ["ir", "w", *(["b"] if bias else [])], ["c"], group=group),
        node("BatchNormalization", ["c", "n.gamma", "n.beta", "n.mean", "n.var"], ["n"]),
        node("Mul", ["n", "factor"], ["m"]),
        node("Sub", ["m", "offset"], ["s"]),
        node("Relu", ["s"], ["y"]),
    ]
    size = 10 if kind == "ConvTranspose" else 6
    path = saved(graph(nodes, [("x", ["N", 3, 8, 8])], [("y", ["N", 6, size, size])], constants), tmp_path)
    imported = import_foreign(path)
    assert operators(imported) == {"Conv": 2 if kind == "Conv" else 1, "Relu": 2} | (
        {} if kind == "Conv" else {"ConvTranspose": 1}
    )
    same(imported.model, path, {"x": PICTURES})


def test_a_normalisation_whose_convolution_others_read_too_stays(tmp_path: Path) -> None:
    nodes = [
        node("Conv", ["x", "w"], ["c"]),
        node("BatchNormalization", ["c", "n.gamma", "n.beta", "n.mean", "n.var"], ["n"]),
        node("Add", ["n", "c"], ["y"]),
    ]
    constants = {"w": weight(4, 3, 3, 3), **normalisation("n", 4, 2)}
    path = saved(graph(nodes, [("x", ["N", 3, 8, 8])], [("y", ["N", 4, 6, 6])], constants), tmp_path)
    imported = import_foreign(path)
    assert operators(imported) == {"Conv": 1, "BatchNormalization": 1, "Add": 1}
    same(imported.model, path, {"x": PICTURES})


def test_weights_behind_casts_and_transposes_make_layers_that_calibration_knows(tmp_path: Path) -> None:
    constants = {
        "half": weight(4, 3, 3, 3).astype(np.float16),
        "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64),
        "fc": weight(5, 4, seed=2),
        "fb": weight(5, seed=3),
        "axes": np.array([2, 3], np.int64),
    }
    nodes = [
        node("Cast", ["half"], ["w"], to=TensorProto.FLOAT),
        node("Identity", ["w"], ["same"]),
        node("Pad", ["x", "pads"], ["wide"]),
        node("Conv", ["wide", "same"], ["c"]),
        node("Relu", ["c"], ["r"]),
        node("ReduceMean", ["r", "axes"], ["m"], keepdims=0),
        node("Transpose", ["fc"], ["turned"], perm=[1, 0]),
        node("MatMul", ["m", "turned"], ["p"]),
        node("Add", ["fb", "p"], ["y"]),
    ]
    path = saved(graph(nodes, [("x", ["N", 3, 8, 8])], [("y", ["N", 5])], constants, opset=18), tmp_path)
    imported = import_foreign(path)
    assert operators(imported) == {"Conv": 1, "Relu": 1, "GlobalAveragePool": 1, "Flatten": 1, "Gemm": 1}
    ranges = Ranges(imported.model)
    assert [ranges.is_weighted(item) for item in ranges.nodes] == [True, False, False, False, True]
    assert ranges.is_averaging(ranges.nodes[2])
    same(imported.model, path, {"x": PICTURES})


def test_channels_last_between_convolutions_cancels(tmp_path: Path) -> None:
    """As tf2onnx writes a residual network: NHWC outside, a Transpose before and after each convolution."""
    first, last = [0, 3, 1, 2], [0, 2, 3, 1]
    constants = {
        "w1": weight(4, 3, 3, 3),
        "w2": weight(4, 4, 3, 3, seed=1),
        "bias": weight(4, seed=2),
        "axes": np.array([1, 2], np.int64),
        "fc": weight(8, 5, seed=3),
        **normalisation("n", 4, 4),
    }
    nodes = [
        node("Transpose", ["x"], ["x.t"], perm=first),
        node("Conv", ["x.t", "w1"], ["c1"], pads=[1, 1, 1, 1]),
        node("Transpose", ["c1"], ["c1.t"], perm=last),
        node("Add", ["c1.t", "bias"], ["a1"]),
        node("Relu", ["a1"], ["r1"]),
        node("Transpose", ["r1"], ["r1.t"], perm=first),
        node("Conv", ["r1.t", "w2"], ["c2"], pads=[1, 1, 1, 1]),
        node("BatchNormalization", ["c2", "n.gamma", "n.beta", "n.mean", "n.var"], ["n2"]),
        node("Transpose", ["n2"], ["n2.t"], perm=last),
        node("Add", ["n2.t", "r1"], ["sum"]),
        node("Concat", ["sum", "r1"], ["both"], axis=3),
        node("Relu", ["both"], ["r2"]),
        node("ReduceMean", ["r2", "axes"], ["mean"], keepdims=0),
        node("MatMul", ["mean", "fc"], ["y"]),
    ]
    path = saved(graph(nodes, [("x", [-1, 8, 8, 3])], [("y", [-1, 5])], constants, opset=18), tmp_path)
    with pytest.raises(GraphError, match="looks like pictures with their channels last") as caught:
        import_foreign(path)
    assert "--layout nhwc" in caught.value.remedy
    imported = import_foreign(path, layout="nhwc")
    assert inputs(imported.model)[0].shape == ("batch", 3, 8, 8)
    assert operators(imported) == {
        "Conv": 2,
        "Relu": 2,
        "Add": 1,
        "Concat": 1,
        "GlobalAveragePool": 1,
        "Flatten": 1,
        "MatMul": 1,
    }
    expected = answers(path, {"x": np.ascontiguousarray(PICTURES.transpose(0, 2, 3, 1))}, 1)[0]
    np.testing.assert_allclose(answers(imported.model, {"x": PICTURES})[0], expected, atol=2e-5)
    assert judge(imported.trial, imported.model, {"random": imported.feeds(7)}, (1, 2, 7)).passed


def test_a_transposition_that_nothing_undoes_stays_where_it_is(tmp_path: Path) -> None:
    nodes = [
        node("Conv", ["x", "w"], ["c"]),
        node("Transpose", ["c"], ["t"], perm=[0, 2, 3, 1]),
        node("Relu", ["t"], ["y"]),
    ]
    path = saved(graph(nodes, [("x", ["N", 3, 8, 8])], [("y", ["N", 6, 6, 4])], {"w": weight(4, 3, 3, 3)}), tmp_path)
    imported = import_foreign(path)
    assert [item.op_type for item in imported.model.graph.node] == ["Conv", "Transpose", "Relu"]
    same(imported.model, path, {"x": PICTURES})


def halved(model: onnx.ModelProto, kind: int) -> onnx.ModelProto:
    """The model with all float weights, inputs and outputs in another float type."""
    dtype = onnx.helper.tensor_dtype_to_np_dtype(kind)
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype == np.float32:
            tensor.CopyFrom(numpy_helper.from_array(values.astype(dtype), tensor.name))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = kind
    return model


def test_a_graph_in_fp16_becomes_fp32_with_the_same_weights(tmp_path: Path) -> None:
    path = saved(halved(convolution(17), TensorProto.FLOAT16), tmp_path)
    imported = import_foreign(path)
    assert inputs(imported.model)[0].dtype == "float32"
    kept = {item.name: numpy_helper.to_array(item) for item in imported.model.graph.initializer}
    for tensor in onnx.load(path).graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype == np.float16:
            assert kept[tensor.name].dtype == np.float32
            assert (kept[tensor.name] == values).all()
    result = judge(imported.trial, imported.model, {"random": imported.feeds(7)}, (1, 2, 7))
    assert result.passed
    assert result.measurements[0].noise > 1e-5  # FP16's own rounding, as measured


def test_double_precision_is_lowered_and_what_fp32_cannot_hold_refused(tmp_path: Path) -> None:
    constants = {"w": weight(6, 4).astype(np.float64), "b": weight(4).astype(np.float64)}
    nodes = [node("MatMul", ["x", "w"], ["m"]), node("Add", ["m", "b"], ["y"])]
    ends = {"inputs": [("x", ["N", 6])], "outputs": [("y", ["N", 4])]}
    path = saved(graph(nodes, **ends, constants=constants, dtype=TensorProto.DOUBLE), tmp_path)  # type: ignore[arg-type]
    imported = import_foreign(path, Description(scores="logits"))
    assert operators(imported) == {"Gemm": 1}
    assert imported.metadata.inputs[0].dtype == "float32"
    assert judge(imported.trial, imported.model, {"random": imported.feeds(7)}, (1, 2, 7)).passed
    constants["w"][0, 0] = 1e300
    path = saved(graph(nodes, **ends, constants=constants, dtype=TensorProto.DOUBLE), tmp_path)  # type: ignore[arg-type]
    with pytest.raises(GraphError, match="'w' holds 1e\\+300"):
        import_foreign(path)


def test_the_judge_tells_a_changed_weight_and_half_a_unit_apart(tmp_path: Path) -> None:
    imported = import_foreign(saved(convolution(), tmp_path))
    kinds = {"random": imported.feeds(7)}
    (bias,) = [item for item in imported.model.graph.initializer if item.name == "fb"]
    values = numpy_helper.to_array(bias)
    bias.CopyFrom(numpy_helper.from_array(np.nextafter(values, np.float32(9)), "fb"))
    assert judge(imported.trial, imported.model, kinds, (1, 2, 7)).passed
    bias.CopyFrom(numpy_helper.from_array(values + np.float32(1e-4), "fb"))
    result = judge(imported.trial, imported.model, kinds, (1,))
    assert not result.passed
    assert "noise floors" in result.problems[0]


def test_what_a_sigmoid_makes_is_no_classifiers_unless_that_is_said(tmp_path: Path) -> None:
    model = convolution()
    last = model.graph.node[-1].output[0]
    model.graph.node[-1].output[0] = "raw"
    model.graph.node.append(node("Sigmoid", ["raw"], [last]))
    path = saved(model, tmp_path)
    imported = import_foreign(path)
    assert imported.metadata.scores == "none"
    assert imported.metadata.labels == ()
    assert any("each class by itself" in note for note in imported.notes)
    assert import_foreign(path, Description(scores="logits")).metadata.scores == "logits"


def test_a_dropout_that_a_constant_turns_off_goes_though_its_mask_has_a_name(tmp_path: Path) -> None:
    constants = {"w": weight(4, 3, 3, 3), "half": np.float32(0.5), "no": np.bool_(False)}
    nodes = [
        node("Conv", ["x", "w"], ["c"]),
        node("Dropout", ["c", "half", "no"], ["d", "mask"]),
        node("Relu", ["d"], ["y"]),
    ]
    path = saved(graph(nodes, [("x", ["N", 3, 8, 8])], [("y", ["N", 4, 6, 6])], constants), tmp_path)
    assert operators(import_foreign(path)) == {"Conv": 1, "Relu": 1}


def test_labels_scores_and_sizes_come_from_the_graph_and_the_user_comes_first(tmp_path: Path) -> None:
    model = convolution()
    model.metadata_props.add(key="names", value="{0: 'ant', 1: 'bee', 2: 'cat', 3: 'dog', 4: 'eel'}")
    path = saved(model, tmp_path)
    imported = import_foreign(path)
    metadata = imported.metadata
    assert metadata.labels == ("ant", "bee", "cat", "dog", "eel")
    assert (metadata.preprocess.height, metadata.preprocess.width, metadata.preprocess.channels) == (8, 8, 3)
    assert [spec.name for spec in (*metadata.taken, *metadata.given)] == ["x", "y"]
    assert metadata.scored == "y"
    assert any("ImageNet" in note for note in imported.notes)
    said = Description(labels=tuple("abcde"), mean=(0.5,), std=(0.25,), resize="stretch")
    mine = import_foreign(path, said)
    assert mine.metadata.labels == tuple("abcde")
    assert mine.metadata.preprocess.mean == (0.5, 0.5, 0.5)
    assert not any("ImageNet" in note for note in mine.notes)
    for wrong, reason in (
        (Description(input_size=9), "not a size of 9 where it has 8"),
        (Description(labels=("a", "b")), "2 labels for a network of 5"),
        (Description(outputs=("z",)), "no output 'z'"),
    ):
        with pytest.raises(InputError, match=reason):
            import_foreign(path, wrong)


def test_free_height_and_width_need_a_size(tmp_path: Path) -> None:
    constants = {"w": weight(4, 3, 3, 3), "fc": weight(5, 4, seed=2)}
    nodes = [
        node("Conv", ["x", "w"], ["c"]),
        node("GlobalAveragePool", ["c"], ["p"]),
        node("Conv", ["p", "k"], ["y"]),
    ]
    constants["k"] = weight(5, 4, 1, 1, seed=3)
    path = saved(graph(nodes, [("x", ["N", 3, "h", "w_"])], [("y", ["N", 5, 1, 1])], constants), tmp_path)
    with pytest.raises(GraphError, match=r"size 'h' of .* varies") as caught:
        import_foreign(path)
    assert "--input-size" in caught.value.remedy
    imported = import_foreign(path, Description(input_size=(8, 10)))
    assert inputs(imported.model)[0].shape == ("batch", 3, 8, 10)
    assert outputs(imported.model)[0].shape == ("batch", 5)
    assert imported.metadata.scores == "logits"


def test_several_inputs_and_outputs_are_told_and_can_be_chosen(tmp_path: Path) -> None:
    constants = {"table": weight(11, 6), "w": weight(3, 4, seed=1), "axes": np.array([1])}
    nodes = [
        node("Gather", ["table", "ids"], ["rows"]),
        node("ReduceMean", ["rows", "axes"], ["words"], keepdims=0),
        node("MatMul", ["extra", "w"], ["moved"]),
        node("Concat", ["words", "moved"], ["joined"], axis=1),
        node("Relu", ["joined"], ["y"]),
    ]
    model = graph(
        nodes, [("ids", ["N", 5]), ("extra", ["N", 3])], [("y", ["N", 10]), ("moved", ["N", 4])], constants, opset=18
    )
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.INT64
    path = saved(model, tmp_path)
    imported = import_foreign(path)
    assert [str(spec) for spec in imported.metadata.inputs] == ["ids: int64[batch, 5]", "extra: float32[batch, 3]"]
    assert [str(spec) for spec in imported.metadata.outputs] == ["y: float32[batch, 10]", "moved: float32[batch, 4]"]
    feeds = imported.feeds(7)
    assert feeds["ids"].max() > 1
    assert judge(imported.trial, imported.model, {"random": feeds}, (1, 2, 7)).passed
    chosen = import_foreign(path, Description(outputs=("moved",), scores="logits"))
    assert [spec.name for spec in inputs(chosen.model)] == ["extra"]
    assert operators(chosen) == {"MatMul": 1}
    assert chosen.metadata.scored == "moved"


def test_uint8_pictures_come_channels_last_whatever_the_file_takes(tmp_path: Path) -> None:
    nodes = [node("Cast", ["x"], ["f"], to=TensorProto.FLOAT), node("Conv", ["f", "w"], ["c"]),
             node("GlobalMaxPool", ["c"], ["m"]), node("Flatten", ["m"], ["y"])]  # fmt: skip
    model = graph(nodes, [("x", ["N", 3, 8, 8])], [("y", ["N", 4])], {"w": weight(4, 3, 3, 3)})
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8
    path = saved(model, tmp_path)
    imported = import_foreign(path)
    assert imported.metadata.uint8_input
    assert inputs(imported.model)[0].shape == ("batch", 8, 8, 3)
    pixels = np.random.default_rng(0).integers(0, 256, (7, 8, 8, 3), np.uint8)
    expected = answers(path, {"x": np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))})[0]
    np.testing.assert_allclose(answers(imported.model, {"x": pixels})[0], expected, rtol=1e-5)


def test_normalisation_behind_a_gemm_is_folded_and_a_division_of_a_constant_stays(tmp_path: Path) -> None:
    constants = {"w": weight(6, 4), "b": weight(4), "one": np.float32(1), **normalisation("n", 4, 2)}
    nodes = [
        node("MatMul", ["x", "w"], ["m"]),
        node("Add", ["m", "b"], ["a"]),
        node("BatchNormalization", ["a", "n.gamma", "n.beta", "n.mean", "n.var"], ["n"]),
        node("Exp", ["n"], ["e"]),
        node("Div", ["one", "e"], ["y"]),
    ]
    path = saved(graph(nodes, [("x", ["N", 6])], [("y", ["N", 4])], constants), tmp_path)
    imported = import_foreign(path)
    assert operators(imported) == {"Gemm": 1, "Exp": 1, "Div": 1}
    same(imported.model, path, {"x": weight(7, 6, seed=5)})


def test_a_weight_that_layers_share_through_identities_is_kept_once(tmp_path: Path) -> None:
    constants = {"w": weight(3, 3, 3, 3), "n.one": np.ones(3, np.float32), **normalisation("n", 3, 2)}
    nodes = [
        node("Identity", ["w"], ["again"]),
        node("Conv", ["x", "w"], ["a"]),
        node("Conv", ["a", "again"], ["b"]),
        node("Conv", ["b", "again"], ["c"]),
        node("BatchNormalization", ["c", "n.gamma", "n.beta", "n.mean", "n.var"], ["y"]),
    ]
    path = saved(graph(nodes, [("x", ["N", 3, 8, 8])], [("y", ["N", 3, 2, 2])], constants), tmp_path)
    imported = import_foreign(path)
    assert operators(imported) == {"Conv": 3}
    assert [item.input[1] for item in imported.model.graph.node] == ["w", "w", "w.folded"]
    same(imported.model, path, {"x": PICTURES})
