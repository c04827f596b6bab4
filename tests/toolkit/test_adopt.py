"""``adopt``: a table beside the graph from another tool's ranges, a cache, or the table of an earlier export."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from calibration.cache import to_tensorrt_cache
from calibration.lint import lint
from calibration.qdq import quantise
from calibration.ranges import Ranges
from calibration.rename import sign
from calibration.table import CalibrationTable
from engines.errors import GraphError, InputError, TableError
from export.graph import load_graph, save_graph, weights_digest
from tests.calibration.foreign_graphs import I8, options, placed, stock
from tests.calibration.graphs import UNSEEN, run, sqnr, table_of
from tests.calibration.renaming import otherwise_exported, renamed
from tests.tiny import PREPROCESS, tiny_graph
from toolkit.steps.adopt import adopt


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    save_graph(tiny_graph(), tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


def test_a_foreign_graphs_ranges_become_the_table_beside_the_master(graph: Path, tmp_path: Path) -> None:
    foreign = stock(tiny_graph(), tmp_path, **options("uint8"))
    onnx.save(foreign, tmp_path / "theirs.onnx")
    table = adopt(graph, tmp_path / "theirs.onnx")
    assert CalibrationTable.read(graph.with_name("model.calibration.json")) == table
    assert (table.method, table.weights, table.preprocess) == (
        "foreign", weights_digest(tiny_graph()), PREPROCESS.digest()
    )  # fmt: skip
    assert table.facts["source"].startswith("theirs.onnx: Q/DQ graph written by onnx.quantize")
    master = load_graph(graph)
    ours = quantise(master, table, "tensorrt", remainder="fp32")
    assert lint(foreign)
    assert lint(ours) == []
    assert sqnr(run(master, UNSEEN), run(ours, UNSEEN)) > 20


def test_layers_that_the_source_leaves_in_float_are_kept_in_the_table(graph: Path, tmp_path: Path) -> None:
    onnx.save(placed({"input": I8, "pool": I8}), tmp_path / "theirs.onnx")
    assert adopt(graph, tmp_path / "theirs.onnx").keep == ("fc1", "fc2")


def test_a_cache_becomes_a_table(graph: Path, tmp_path: Path) -> None:
    own = table_of(tiny_graph(), "entropy")
    cache = to_tensorrt_cache(own, groups=Ranges(tiny_graph()).wanted())
    (tmp_path / "calib.cache").write_text(cache)
    table = adopt(graph, tmp_path / "calib.cache")
    assert table.method == "entropy"
    assert table.facts["source"] == "calib.cache: TensorRT calibration cache TRT-101300-EntropyCalibration2"
    for name, found in own.ranges.items():
        assert table.ranges[name].amax == pytest.approx(found.amax, rel=1e-6)
    quantised = [quantise(tiny_graph(), item, "tensorrt", remainder="fp32") for item in (own, table)]
    np.testing.assert_array_equal(*(run(model, UNSEEN) for model in quantised))
    (tmp_path / "other.cache").write_text("TRT-101300-EntropyCalibration2\nimage: 3c010204\n")
    with pytest.raises(TableError, match=r"other.cache' has no range for tensor 'input' \(and 3 more\)"):
        adopt(graph, tmp_path / "other.cache", force=True)


@pytest.mark.parametrize("export", [renamed, otherwise_exported])
def test_the_table_of_an_earlier_export_follows_its_network(graph: Path, tmp_path: Path, export) -> None:
    first = tiny_graph()
    before = sign(table_of(first), first)
    before.write(tmp_path / "old.calibration.json")
    save_graph(export(first), graph)
    table = adopt(graph, tmp_path / "old.calibration.json")
    assert table.weights == weights_digest(load_graph(graph)) != before.weights
    assert [item.amax for item in table.ranges.values()] == [item.amax for item in before.ranges.values()]
    assert table.images == before.images
    assert table.facts["source"] == "old.calibration.json"
    assert lint(quantise(load_graph(graph), table, "tensorrt")) == []


def test_the_table_of_a_retrained_network_is_refused_as_stale(graph: Path, tmp_path: Path) -> None:
    sign(table_of(tiny_graph(seed=3)), tiny_graph(seed=3)).write(tmp_path / "old.calibration.json")
    with pytest.raises(TableError, match="stale: the weights changed"):
        adopt(graph, tmp_path / "old.calibration.json")
    assert not graph.with_name("model.calibration.json").exists()


def test_a_table_made_from_other_weights_is_not_replaced_without_force(graph: Path, tmp_path: Path) -> None:
    onnx.save(placed({"input": I8, "pool": I8}), tmp_path / "theirs.onnx")
    target = graph.with_name("model.calibration.json")
    adopt(graph, tmp_path / "theirs.onnx")
    adopt(graph, tmp_path / "theirs.onnx")  # from the same graph: replaced
    table_of(tiny_graph(seed=1)).write(target)
    with pytest.raises(InputError, match="--force"):
        adopt(graph, tmp_path / "theirs.onnx")
    adopt(graph, tmp_path / "theirs.onnx", force=True)
    assert CalibrationTable.read(target).method == "foreign"
    adopt(graph, tmp_path / "theirs.onnx", output=tmp_path / "elsewhere.json")
    assert (tmp_path / "elsewhere.json").is_file()


def test_ranges_of_fp8_go_where_fp8_builds_look(graph: Path, tmp_path: Path) -> None:
    model = placed({"input": I8, "pool": I8})
    zero = onnx.helper.make_tensor("z8", onnx.TensorProto.FLOAT8E4M3FN, [], [0.0])
    model.graph.initializer.append(zero)
    for node in model.graph.node:
        if node.name in {"input.Q", "input.DQ", "pool.Q", "pool.DQ"}:
            node.input[2] = "z8"
    onnx.save(model, tmp_path / "theirs.onnx")
    assert adopt(graph, tmp_path / "theirs.onnx").precision == "fp8"
    assert graph.with_name("model.fp8.calibration.json").is_file()


def test_what_holds_no_ranges_is_refused_with_a_remedy(graph: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "empty.onnx").write_bytes(b"")
    (tmp_path / "other.json").write_text("{}")
    (tmp_path / "damaged.cache").write_text("TRT-101300-EntropyCalibration2\ninput: zz\n")
    save_graph(quantise(tiny_graph(), table_of(tiny_graph()), "tensorrt"), tmp_path / "ours.int8.onnx")
    for name, error, cause in (
        ("notes.txt", InputError, "holds no ranges"),
        ("missing.onnx", InputError, "does not exist"),
        ("empty.onnx", GraphError, "is empty"),
        ("other.json", TableError, "not a calibration table"),
        ("damaged.cache", TableError, "line 2 of"),
        ("ours.int8.onnx", GraphError, "was made by this toolkit"),
        ("model.onnx", InputError, "both the master graph and the source"),
    ):
        with pytest.raises(error, match=cause) as caught:
            adopt(graph, tmp_path / name)
        assert caught.value.remedy
    onnx.save(placed({"input": I8}), tmp_path / "theirs.onnx")
    with pytest.raises(GraphError, match="not a master graph"):
        adopt(tmp_path / "ours.int8.onnx", tmp_path / "theirs.onnx")
    assert not graph.with_name("model.calibration.json").exists()
