"""Collecting activations through ONNX Runtime."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from calibration.collect import TappedGraph, channel_maxima, collect
from calibration.ranges import Ranges
from engines.errors import DataError, GraphError, InputError, UnsupportedError
from engines.nvidia_wheels import has_nvidia_driver
from engines.preprocess import Preprocess
from export.graph import save_graph, weights_digest
from tests.calibration.graphs import IMAGES, run
from tests.tiny import PREPROCESS, tiny_graph, tiny_images

BATCHES = [PREPROCESS.normalise(tiny_images(count, seed=count)) for count in (8, 3, 5)]


def every_tensor(model: onnx.ModelProto, batch: np.ndarray) -> dict[str, np.ndarray]:
    """What each tensor holds, without optimisations that would hide it."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    named = [name for node in model.graph.node for name in node.output]
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in named if name != "logits")
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(copy.SerializeToString(), options, providers=["CPUExecutionProvider"])
    outputs = [output.name for output in session.get_outputs()]
    return dict(zip(outputs, session.run(outputs, {"input": batch}), strict=True)) | {"input": batch}


@pytest.mark.parametrize("lrn", [False, True])
def test_ranges_are_those_of_the_tensors_themselves(lrn):
    model = tiny_graph(lrn=lrn)
    found = collect(model, iter(BATCHES))
    tensors = [every_tensor(model, batch) for batch in BATCHES]
    expected = ["input", "relu1", *(["lrn"] if lrn else []), "relu2", "relu3"]
    assert list(found.histograms) == expected
    assert found.images == 16
    for name, histogram in found.histograms.items():
        values = np.concatenate([part[found.groups[name].tap].ravel() for part in tensors])
        assert histogram.total == values.size
        # ONNX Runtime fuses differently when other tensors are outputs: the last bits may differ
        assert histogram.amax == pytest.approx(np.abs(values).max(), rel=1e-5)
        assert histogram.minimum == pytest.approx(values.min(), abs=1e-6)
        whole = np.concatenate([part[name].ravel() for part in tensors])
        assert histogram.maximum == pytest.approx(whole.max(), rel=1e-5)  # pooling keeps the largest


def test_a_group_is_measured_behind_its_pooling():
    groups = Ranges(tiny_graph()).wanted()
    assert {name: (group.members, group.tap) for name, group in groups.items()} == {
        "input": (("input",), "input"),
        "relu1": (("relu1", "pool"), "pool"),
        "relu2": (("relu2", "flat"), "flat"),
        "relu3": (("relu3",), "relu3"),
    }


def test_a_tensor_that_branches_is_measured_before_the_branch():
    model = tiny_graph()
    model.graph.node.insert(4, helper.make_node("GlobalAveragePool", ["relu1"], ["mean"], "mean"))
    model.graph.output.append(helper.make_tensor_value_info("mean", TensorProto.FLOAT, None))
    assert Ranges(model).wanted()["relu1"].tap == "relu1"


def test_the_same_images_in_other_batches_give_the_same_table():
    batch = np.concatenate(BATCHES)
    model = tiny_graph()
    one = collect(model, [batch], threads=1).table("minmax")
    many = collect(model, np.split(batch, 8), threads=1).table("minmax")
    assert one.images == many.images == 16
    for name, found in one.ranges.items():
        assert found.amax == pytest.approx(many.ranges[name].amax, rel=1e-5)
        assert found.count == many.ranges[name].count


def test_the_table_carries_digests_and_every_method_comes_from_one_collection(tmp_path):
    model = tiny_graph()
    save_graph(model, tmp_path / "m.onnx")
    statistics = collect(tmp_path / "m.onnx", BATCHES)
    tables = {method: statistics.table(method) for method in ("minmax", "percentile", "entropy", "mse")}
    assert tables["entropy"].weights == weights_digest(model)
    assert tables["entropy"].preprocess == PREPROCESS.digest()
    for name, found in tables["minmax"].ranges.items():
        assert all(0 < table.ranges[name].amax <= found.amax for table in tables.values())
    with pytest.raises(InputError, match="magic"):
        statistics.table("magic")


def test_a_graph_that_takes_pixels_is_fed_pixels():
    model = tiny_graph()
    scale, shift = Preprocess(16, 16).affine()
    graph = model.graph
    graph.input[0].CopyFrom(helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["batch", 16, 16, 3]))
    graph.initializer.append(onnx.numpy_helper.from_array(scale[:, None, None], "a"))
    graph.initializer.append(onnx.numpy_helper.from_array(shift[:, None, None], "b"))
    nodes = [
        helper.make_node("Cast", ["pixels"], ["cast"], "cast", to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["cast"], ["planes"], "planes", perm=[0, 3, 1, 2]),
        helper.make_node("Mul", ["planes", "a"], ["scaled"], "scaled"),
        helper.make_node("Add", ["scaled", "b"], ["input"], "shifted"),
    ]
    for index, node in enumerate(nodes):
        graph.node.insert(index, node)
    found = collect(model, [tiny_images(8, seed=8)]).table("minmax")
    expected = collect(tiny_graph(), [Preprocess(16, 16).normalise(tiny_images(8, seed=8))]).table("minmax")
    for name, item in expected.ranges.items():
        assert found.ranges[name].amax == pytest.approx(item.amax, rel=1e-5)


def test_no_images_are_an_error():
    with pytest.raises(DataError, match="no images"):
        collect(tiny_graph(), [])


def test_a_batch_that_does_not_fit_names_the_input():
    with pytest.raises(InputError, match="input input"):
        collect(tiny_graph(), [np.zeros((2, 3, 8, 8), np.float32)])


def test_activations_that_overflow_are_an_error_that_names_the_tensor():
    model = tiny_graph()
    weight = next(item for item in model.graph.initializer if item.name == "fc1.weight")
    values = onnx.numpy_helper.to_array(weight) * np.float32(1e38)
    weight.CopyFrom(onnx.numpy_helper.from_array(values, "fc1.weight"))
    with pytest.raises(GraphError, match="'relu3' becomes"):
        collect(model, BATCHES[:1])


def test_a_graph_without_anything_to_quantise_is_refused():
    node = helper.make_node("Relu", ["input"], ["logits"], "relu")
    value = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3])
    output = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])
    model = helper.make_model(
        helper.make_graph([node], "g", [value], [output]), opset_imports=[helper.make_opsetid("", 20)], ir_version=10
    )
    with pytest.raises(GraphError, match="no convolution"):
        TappedGraph(model)


def test_a_graph_whose_input_is_all_there_is_to_measure_needs_no_run():
    weight = onnx.numpy_helper.from_array(np.ones((3, 2), np.float32), "w")
    value = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3])
    output = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 2])
    node = helper.make_node("Gemm", ["input", "w"], ["logits"], "fc")
    graph = helper.make_graph([node], "g", [value], [output], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    found = collect(model, [np.array([[1, -2, 3]], np.float32)])
    assert {name: item.maximum for name, item in found.histograms.items()} == {"input": 3.0}
    with pytest.raises(InputError, match="input input"):
        TappedGraph(model).run(np.zeros((1, 4), np.float32))


def test_outputs_are_not_copied():
    graph = TappedGraph(tiny_graph())
    found = graph.run(BATCHES[0])
    assert found["input"] is BATCHES[0]
    assert not any(values.flags.owndata for name, values in found.items() if name != "input")  # ONNX Runtime's memory


def test_the_number_of_threads_changes_no_count():
    batch = np.concatenate([BATCHES[0]] * 200)  # several pieces a tensor
    graph = TappedGraph(tiny_graph())
    one, many = (collect(graph, [batch, batch[:7]], threads=threads) for threads in (1, 5))
    for name, histogram in one.histograms.items():
        np.testing.assert_array_equal(histogram.counts, many.histograms[name].counts)
        assert (histogram.minimum, histogram.maximum) == (
            many.histograms[name].minimum,
            many.histograms[name].maximum,
        )


def test_a_source_may_use_one_buffer_for_all_its_batches():
    def source():
        buffer = np.empty_like(BATCHES[0])
        for factor in (1, 2, 3):
            buffer[:] = BATCHES[0] * np.float32(factor)
            yield buffer
            buffer[:] = np.nan

    graph = TappedGraph(tiny_graph())
    expected = collect(graph, [BATCHES[0] * np.float32(factor) for factor in (1, 2, 3)])
    found = collect(graph, source())
    for name, histogram in expected.histograms.items():
        np.testing.assert_array_equal(histogram.counts, found.histograms[name].counts)


def test_the_device_is_what_was_asked_for():
    assert TappedGraph(tiny_graph(), device="cpu").info.provider == "CPUExecutionProvider"
    found = TappedGraph(tiny_graph(), device="auto").info
    assert (found.device == "cpu") == (found.provider == "CPUExecutionProvider")
    with pytest.raises(InputError, match="no device 'gpu'"):
        TappedGraph(tiny_graph(), device="gpu")


@pytest.mark.skipif(
    "CUDAExecutionProvider" in onnxruntime.get_available_providers() and has_nvidia_driver(), reason="CUDA may load"
)
def test_cuda_that_cannot_load_is_an_error_and_not_the_cpu():
    with pytest.raises(UnsupportedError, match="'cuda:0' was asked for") as caught:
        TappedGraph(tiny_graph(), device="cuda")
    assert caught.value.remedy


def test_a_graph_that_cannot_run_is_called_by_its_name(tmp_path):
    model = tiny_graph()
    model.graph.node[1].attribute.append(helper.make_attribute("speed", 2))
    with pytest.raises(GraphError, match=r"the graph.*speed") as caught:
        TappedGraph(model)
    assert "tapped.onnx" not in str(caught.value)
    save_graph(model, tmp_path / "m.onnx")
    with pytest.raises(GraphError, match=r"m\.onnx.*speed"):
        TappedGraph(tmp_path / "m.onnx")


def test_channel_maxima_are_those_of_the_tensors():
    model = tiny_graph()
    graph = TappedGraph(model)
    tensors = every_tensor(model, BATCHES[0])
    found = channel_maxima(graph, BATCHES[0], graph.groups)
    assert {name: values.shape for name, values in found.items()} == {
        "input": (3,), "relu1": (8,), "relu2": (1024,), "relu3": (32,)
    }  # fmt: skip
    for name, values in found.items():
        tensor = np.abs(tensors[graph.groups[name].tap])
        np.testing.assert_allclose(values, tensor.max(axis=(0, *range(2, tensor.ndim))), rtol=1e-5, atol=1e-6)
        assert values.dtype == np.float32
    assert list(channel_maxima(graph, BATCHES[0], ["relu3"])) == ["relu3"]
    with pytest.raises(InputError, match="'logits' isn't measured"):
        channel_maxima(graph, BATCHES[0], ["logits"])
    for value, word in ((np.nan, "NaN"), (np.inf, "infinite"), (-np.inf, "infinite")):
        broken = BATCHES[0].copy()
        broken[0, 1, 2, 3] = value
        with pytest.raises(GraphError, match=f"'input' becomes {word}"):
            channel_maxima(graph, broken, ["input"])


def test_a_table_of_fp8_takes_methods_of_fp8():
    found = collect(tiny_graph(), BATCHES)
    assert found.table(precision="fp8").precision == "fp8"
    assert (found.table().precision, found.table().method) == ("int8", "entropy")
    with pytest.raises(InputError, match="entropy"):
        found.table("entropy", precision="fp8")


def test_progress_counts_images():
    class Listener:
        def __init__(self):
            self.done, self.total, self.ended = 0, None, 0

        def begin(self, task, total=None, unit=""):
            self.total = total

        def advance(self, steps=1, **facts):
            self.done += steps

        def end(self):
            self.ended += 1

    listener = Listener()
    collect(tiny_graph(), BATCHES, progress=listener, total=16)
    assert (listener.done, listener.total, listener.ended) == (16, 16, 1)


def test_a_tapped_graph_answers_as_the_graph_does() -> None:
    model = tiny_graph()
    before = model.SerializeToString()
    batch = IMAGES[:3]
    assert np.allclose(TappedGraph(model).answers(batch), run(model, batch), atol=1e-5)
    assert model.SerializeToString() == before
