"""Weights beside the graph: what is computed with arrays at hand is what is computed without them."""

import threading
from dataclasses import replace

import numpy as np
import pytest

from calibration.collect import TappedGraph, collect
from calibration.equalise import find_factors
from calibration.light import lighten
from calibration.parallel import over_cores
from calibration.qdq import quantise
from engines.errors import GraphError, ToolkitError
from export.graph import load_graph, map_weights, save_graph, weights_digest
from export.onnxlib import onnx
from export.structure import label
from tests.calibration.test_simulation import table_of
from tests.tiny import METADATA, tiny_graph, tiny_images


def batches() -> list[np.ndarray]:
    return [METADATA.preprocess.normalise(tiny_images(count)) for count in (4, 3)]


def test_a_mapped_graph_collects_what_a_loaded_one_does(tmp_path) -> None:
    path = tmp_path / "m.onnx"
    save_graph(tiny_graph(), path)
    mapped, loaded = TappedGraph(path), TappedGraph(load_graph(path))
    large = [tensor.name for tensor in load_graph(path).graph.initializer if len(tensor.raw_data) > 4096]
    assert large
    assert set(mapped.arrays) == set(loaded.arrays) == set(large)
    assert (mapped.weights, mapped.names) == (loaded.weights, loaded.names)
    assert mapped.weights == weights_digest(load_graph(path))
    assert collect(mapped, batches()).table("entropy") == collect(loaded, batches()).table("entropy")


def test_a_closed_graph_holds_no_weights() -> None:
    graph = TappedGraph(tiny_graph())
    graph.run(batches()[0])
    graph.close()
    assert not graph.arrays
    with pytest.raises(ToolkitError):
        graph.run(batches()[0])


@pytest.mark.parametrize("target", ["tensorrt", "onnxruntime"])
def test_a_graph_is_quantised_the_same_from_mapped_weights(target, tmp_path) -> None:
    path = tmp_path / "m.onnx"
    save_graph(tiny_graph(), path)
    model = load_graph(path)
    table = table_of(model)
    arrays = map_weights(path, model)
    assert arrays
    assert quantise(model, table, target, arrays=arrays, weights=table.weights) == quantise(model, table, target)


def test_weights_that_the_table_changes_are_not_taken_from_the_file(tmp_path) -> None:
    path = tmp_path / "m.onnx"
    save_graph(tiny_graph(), path)
    model = load_graph(path)
    table = table_of(model)
    wrong = {name: values * 2 for name, values in map_weights(path, model).items()}
    assert quantise(model, table, arrays=wrong) != quantise(model, table), "arrays at hand are what is quantised"
    node = next(node for node in model.graph.node if node.op_type == "Conv")
    channels = next(tensor.dims[0] for tensor in model.graph.initializer if tensor.name == node.input[1])
    shifted = replace(table, biases={label(node): (0.5,) * channels})
    assert quantise(model, shifted, arrays=wrong) == quantise(model, shifted)


def test_factors_are_the_same_with_weights_at_hand() -> None:
    model = tiny_graph()
    light, arrays = lighten(model)
    graph = TappedGraph(model)
    peaks = {name: np.geomspace(1, 4096, 64)[: _channels(graph, name)] for name in graph.groups}
    assert find_factors(light, peaks, arrays) == find_factors(model, peaks)


def _channels(graph: TappedGraph, name: str) -> int:
    return int(graph.run(batches()[0])[name].shape[1])


def test_stubs_are_what_large_weights_leave_behind() -> None:
    light, arrays = lighten(tiny_graph())
    stubs = [tensor for tensor in light.graph.initializer if tensor.data_location == onnx.TensorProto.EXTERNAL]
    assert {tensor.name: tuple(tensor.dims) for tensor in stubs} == {n: a.shape for n, a in arrays.items()}


def test_work_is_shared_out_in_order_and_its_first_error_is_raised() -> None:
    seen = set()

    def work(item: int) -> int:
        seen.add(threading.get_ident())
        if item == 9:
            raise GraphError("nine", "take another")
        return item * item

    assert over_cores(work, range(9)) == [item * item for item in range(9)]
    assert over_cores(work, []) == []
    with pytest.raises(GraphError, match="nine"):
        over_cores(work, range(12))
