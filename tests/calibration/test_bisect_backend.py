"""Where a graph in another backend parts from its master: measured is what the backend does."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from calibration.bisection.bisect import bisect
from calibration.bisection.light import LightGraph, write_light
from calibration.bisection.marking import unfused
from calibration.bisection.record import Bisection
from calibration.bisection.sides import Side, pair
from calibration.bisection.source import Backend
from calibration.light import lighten
from engines.errors import GraphError, RunError
from engines.sessions import open_session
from tests.calibration.graphs import UNSEEN, graph_of, he_weights, run
from tests.calibration.renaming import copy_of
from tests.calibration.test_bisect import BATCHES, GRAPHS, TYPINGS, many_operators, over, scaled, weights_of
from tests.tiny import tiny_graph
from toolkit.building.judged import SessionRunner

OTHERS = ["onnxruntime", *(["openvino"] if find_spec("openvino") else [])]
"""Backends that run graphs here: ONNX Runtime with its own fast kernels, and OpenVINO."""

INT8 = {"int8 for TensorRT", "int8 for ONNX Runtime"}
MISLED: dict[int, set[str]] = {0: set(), 1: set(), 2: INT8, 3: set(), 4: INT8, 5: INT8}
"""Where marks may change what OpenVINO computes, by the number of the network: where INT8 results are summed."""

Spoil = Callable[[onnx.ModelProto], None]


def backend_of(
    graph: onnx.ModelProto, folder: Path, name: str = "onnxruntime", spoil: Spoil | None = None, whole: bool = True
) -> Backend:
    """A backend; ``spoil`` is what it does wrong, to every graph that it opens, or only to those with marks."""
    path = folder / "whole.onnx"
    onnx.save(graph, path)

    @contextlib.contextmanager
    def opened(path: Path, wrong: bool = True) -> Iterator[Any]:
        if spoil is not None and wrong:
            model = onnx.load(path)
            spoil(model)
            path = folder / "spoilt.onnx"
            onnx.save(model, path)
        with open_session(path, backend=name, threads=1) as session:
            yield SessionRunner(session)

    return Backend(name, opened, lambda: opened(path, whole))


def elsewhere(
    master: onnx.ModelProto, typed: onnx.ModelProto, folder: Path, *given: Any, mend: bool = False, **named: Any
) -> Bisection:
    return bisect(master, typed, BATCHES, mend=mend, backend=backend_of(typed, folder, *given, **named))


def times(layer: str, factor: float = 1.05) -> Spoil:
    """A backend that computes a layer too large: its weight, or the scale that dequantises it, is multiplied."""

    def spoil(model: onnx.ModelProto) -> None:
        made_by = {name: node for node in model.graph.node for name in node.output}
        tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        names = set()
        for node in model.graph.node:
            if node.name.rpartition("/")[2] == layer and node.op_type in {"Conv", "Gemm"}:
                name = node.input[1]
                while name in made_by:
                    source = made_by[name]
                    name = source.input[1] if source.op_type == "DequantizeLinear" else source.input[0]
                names.add(name)
        assert names
        for name in names:
            values = numpy_helper.to_array(tensors[name])
            tensors[name].CopyFrom(numpy_helper.from_array((values * factor).astype(values.dtype), name))

    return spoil


BRANCHES = ("left", "right")


def two_branches() -> onnx.ModelProto:
    """Two convolutions of one input whose results are summed, as in a block that changes its size."""
    weight = he_weights(3)
    make = helper.make_node
    nodes = [
        make("Conv", ["input", "w1", "b1"], ["c1"], "conv1", pads=[1, 1, 1, 1]),
        make("Relu", ["c1"], ["r1"], "relu1"),
        make("Conv", ["r1", "w2"], ["l"], "left", pads=[1, 1, 1, 1]),
        make("Conv", ["r1", "w3"], ["r"], "right"),
        make("Add", ["l", "r"], ["sum"], "add"),
        make("Relu", ["sum"], ["r2"], "relu2"),
        make("GlobalAveragePool", ["r2"], ["mean"], "mean"),
        make("Flatten", ["mean"], ["flat"], "flatten"),
        make("Gemm", ["flat", "wf", "bf"], ["logits"], "fc", transB=1),
    ]
    constants = {"w1": weight(8, 3, 3, 3), "b1": weight(8), "w2": weight(8, 8, 3, 3), "w3": weight(8, 8, 1, 1)}
    return graph_of(nodes, constants | {"wf": weight(5, 8), "bf": weight(5)})


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("typing", TYPINGS)
def test_an_honest_graph_in_another_backend_has_no_layer_over_the_floor(
    name: str, typing: str, tmp_path: Path
) -> None:
    for number, master in enumerate((*GRAPHS.values(), many_operators(), two_branches())):
        typed = TYPINGS[typing](master)
        found, written = elsewhere(master, typed, tmp_path, name), bisect(master, typed, BATCHES, mend=False)
        assert found.first is None, found.verdict()
        assert found.elsewhere is not None
        assert found.elsewhere.backend == name
        if (name, found.misled) == ("openvino", True):
            # OpenVINO 2026.4 computes noise behind some INT8 results that are marked and read in float.
            assert typing in MISLED[number]
            continue
        assert not found.misled
        # All errors before it included, a layer is no worse than as written: other kernels round other values.
        as_written = {layer.tensor: layer.cumulative_db for layer in written.layers}
        for layer in found.layers:
            assert layer.cumulative_db > min(as_written[layer.tensor] - 6, 90)


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("typing", ["fp32", "fp16", "int8 for TensorRT", "int8 for ONNX Runtime", "fp8"])
def test_a_layer_that_only_the_backend_computes_too_large_is_named(name: str, typing: str, tmp_path: Path) -> None:
    master = GRAPHS["lrn"]
    typed = TYPINGS[typing](master)
    for layer in ("conv1", "conv2", "fc1"):
        found = elsewhere(master, typed, tmp_path, name, times(layer))
        assert over(found) == [layer]
        assert found.first is not None
        assert found.first.gain == pytest.approx(1.05, abs=0.03)
        assert "its result is multiplied by 1.0" in found.first.reason


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("typing", ["fp32", "int8 for TensorRT"])
def test_a_layer_scaled_in_the_graph_is_named_in_another_backend_too(name: str, typing: str, tmp_path: Path) -> None:
    master = tiny_graph()
    for layer in weights_of(master):
        found = elsewhere(master, TYPINGS[typing](scaled(master, layer)), tmp_path, name, mend=True)
        assert over(found) == [layer]
        assert found.mending is not None
        assert found.mending.keep == (layer,)
        assert found.mending.reached.sqnr_db > max(found.reach_db, found.logits.sqnr_db)


def test_another_fault_of_the_backend_is_named_and_the_layer_as_in_the_master_mends_it(tmp_path: Path) -> None:
    master = tiny_graph(lrn=True)

    def spoil(model: onnx.ModelProto) -> None:
        for node in model.graph.node:
            for item in node.attribute:
                if node.op_type == "LRN" and item.name == "alpha" and not node.name.startswith("wide/"):
                    item.f = 1e-2

    for typing in ("fp32", "int8 for TensorRT"):
        found = elsewhere(master, TYPINGS[typing](master), tmp_path, "onnxruntime", spoil, mend=True)
        assert over(found) == ["lrn"]
        assert found.first is not None
        assert found.first.own_db < 40 < found.first.floor_db
        assert found.mending is not None
        assert found.mending.keep == ("lrn",)


def test_branches_that_are_summed_are_one_layer_and_the_one_with_wrong_weights_is_named(tmp_path: Path) -> None:
    master = two_branches()
    cases = [(typing, *sides) for typing in ("fp32", "int8 for TensorRT") for sides in (BRANCHES, BRANCHES[::-1])]
    for typing, layer, other in cases:
        found = elsewhere(master, TYPINGS[typing](scaled(master, layer)), tmp_path, mend=True)
        assert over(found) == [layer]
        assert found.first is not None
        assert f"one layer with {other} here" in found.first.reason
        assert found.mending is not None
        assert set(found.mending.keep) == set(BRANCHES)
    side = Side(copy_of(master), "the graph")
    pairs = pair(side, side)
    assert {"l", "r", "sum"} <= set(pairs.tensors)
    assert {"l", "r", "sum"}.isdisjoint(unfused(side, pairs).tensors)


def test_marks_that_change_what_is_computed_are_told(tmp_path: Path) -> None:
    master = tiny_graph()
    found = elsewhere(master, master, tmp_path, "onnxruntime", times("conv2"), whole=False)
    assert over(found) == ["conv2"]
    assert found.misled
    assert found.elsewhere is not None
    assert found.elsewhere.marked.sqnr_db < 40 < found.logits.sqnr_db
    record = found.to_json()["elsewhere"]
    assert record["backend"] == "onnxruntime"
    assert record["misled"] is True
    right = elsewhere(master, master, tmp_path)
    assert right.to_json()["elsewhere"]["marked"]["sqnr_db"] == "inf"
    assert bisect(master, master, BATCHES).to_json()["elsewhere"] is None


def test_cumulative_errors_and_logits_are_those_of_the_backend(tmp_path: Path) -> None:
    master = tiny_graph()
    typed = TYPINGS["int8 for TensorRT"](master)
    found = elsewhere(master, typed, tmp_path)
    tapped = copy_of(master)
    wrong = copy_of(typed)
    for model in (tapped, wrong):
        del model.graph.output[:]
        model.graph.output.add(name="relu2")
    first, second = (run(model, UNSEEN).astype(np.float64) for model in (tapped, wrong))
    expected = 10 * np.log10((first**2).sum() / ((first - second) ** 2).sum())
    layer = next(layer for layer in found.layers if layer.tensor == "relu2")
    assert layer.cumulative_db == pytest.approx(expected, abs=0.3)
    assert layer.node == "conv2"
    assert [item.tensor for item in found.layers] == ["relu1", "pool", "relu2", "flat", "relu3", "logits"]


def test_tf32_is_no_fault_where_it_is_allowed_and_one_where_it_is_not(tmp_path: Path) -> None:
    """A backend that rounds float32 to 10 bits of mantissa; here it does so with its weights."""
    master = tiny_graph()

    def spoil(model: onnx.ModelProto) -> None:
        for tensor in model.graph.initializer:
            values = numpy_helper.to_array(tensor)
            if values.dtype == np.float32 and values.ndim > 1:
                tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16).astype(np.float32), tensor.name))

    backend = backend_of(master, tmp_path, "onnxruntime", spoil)
    assert over(bisect(master, master, BATCHES, mend=False, backend=backend)) == ["conv1", "conv2", "fc1", "fc2"]
    assert bisect(master, master, BATCHES, mend=False, backend=replace(backend, tf32=True)).first is None


def test_a_backend_that_fails_or_gives_other_logits_says_so_and_leaves_nothing_behind(tmp_path: Path) -> None:
    master = tiny_graph()
    opened: list[Path] = []

    @contextlib.contextmanager
    def broken(path: Path) -> Iterator[Any]:
        opened.append(path)
        assert path.with_name(f"{path.name}.data").is_file()
        raise RunError("it failed", "mend it")
        yield

    honest = backend_of(master, tmp_path)
    with pytest.raises(RunError, match="it failed"):
        bisect(master, master, BATCHES, backend=replace(honest, open=broken))
    assert len(opened) == 1
    assert not opened[0].parent.exists()

    class Short:
        def run(self, outputs: Any, feeds: Any) -> list[np.ndarray]:
            return [np.zeros((len(next(iter(feeds.values()))), 3), np.float32)]

    with pytest.raises(GraphError, match="logits of shape"):
        bisect(master, master, BATCHES, backend=replace(honest, whole=lambda: contextlib.nullcontext(Short())))


def test_large_weights_are_taken_out_of_a_graph_and_come_back_in_a_file_beside_it(tmp_path: Path) -> None:
    for master in (tiny_graph(), TYPINGS["int8 for TensorRT"](tiny_graph()), TYPINGS["fp16"](tiny_graph())):
        before = master.SerializeToString()
        light, arrays = lighten(master)
        assert set(arrays) & set(weights_of(tiny_graph()).values()) or len(arrays) > 0
        assert len(light.SerializeToString()) < len(before) / 2
        assert master.SerializeToString() == before
        write_light(LightGraph(light, arrays), tmp_path / "light.onnx")
        onnx.checker.check_model(str(tmp_path / "light.onnx"), full_check=True)
        np.testing.assert_array_equal(run(onnx.load(tmp_path / "light.onnx"), UNSEEN), run(master, UNSEEN))
