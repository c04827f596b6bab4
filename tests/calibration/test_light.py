"""Weights beside the graph: what is computed with arrays at hand is what is computed without them."""

import threading
from dataclasses import replace

import numpy as np
import pytest

from calibration.collect import TappedGraph, collect
from calibration.equalise import equalise, find_factors
from calibration.light import lighten
from calibration.parallel import over_cores
from calibration.qdq import quantise
from calibration.regions import regions
from calibration.simulation import Simulation
from engines.errors import GraphError, ToolkitError
from export.graph import initializers, load_graph, save_graph, weights_digest
from export.light import SplitGraph, load_light
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
@pytest.mark.parametrize("changed", ["nothing", "biases", "channels", "kept"])
def test_a_light_graph_is_quantised_as_a_whole_one(target, changed, tmp_path) -> None:
    path = tmp_path / "m.onnx"
    save_graph(tiny_graph(), path)
    model, light = load_graph(path), load_light(path)
    table = table_of(model)
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    if changed == "biases":
        channels = initializers(model.graph)[convolutions[0].input[1]].dims[0]
        table = replace(table, biases={label(convolutions[0]): (0.5,) * channels})
    elif changed == "channels":
        name, region = next(iter(regions(model).items()))
        table = replace(table, equalisation={name: tuple(2.0 ** (i % 3) for i in range(region.channels))})
    elif changed == "kept":
        table = replace(table, keep=tuple(map(label, convolutions)))
    assert light.arrays
    made = quantise(light.model, table, target, arrays=light.arrays)
    assert made == quantise(model, table, target)
    assert made.SerializeToString() == quantise(model, table, target).SerializeToString()


def test_a_light_graph_answers_as_a_whole_one(tmp_path) -> None:
    path = tmp_path / "m.onnx"
    save_graph(tiny_graph(), path)
    model, light = load_graph(path), load_light(path)
    name, region = next(iter(regions(model).items()))
    table = replace(table_of(model), equalisation={name: (2.0,) * region.channels})
    with Simulation(model, table) as whole, Simulation(light.model, table, arrays=light.arrays) as other:
        for batch in batches():
            np.testing.assert_array_equal(whole.run(batch), other.run(batch))
            np.testing.assert_array_equal(whole.reference(batch), other.reference(batch))


def test_what_was_changed_is_not_taken_from_the_arrays() -> None:
    model = tiny_graph()
    name, region = next(iter(regions(model).items()))
    factors = {name: (4.0,) * region.channels}
    light, arrays = lighten(model)
    mixed = SplitGraph(equalise(light, factors, arrays), arrays)
    assert mixed.whole() == equalise(model, factors)
    assert TappedGraph(mixed).weights == weights_digest(equalise(model, factors)) != weights_digest(model)


def test_factors_are_the_same_of_a_light_graph() -> None:
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
