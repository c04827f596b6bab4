"""FP8 from a table to an audited engine, with real builds of TensorRT for RTX; and every way to be refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from calibration.collect import collect
from calibration.table import CalibrationTable
from engines.errors import AuditError, EngineMismatchError, GraphError, InputError, TableError, UnsupportedError
from engines.header import read_header
from engines.passport import Passport
from engines.portability import reasons_not_to_run
from engines.sessions import open_session
from engines.target import Gpu
from export.graph import load_graph, save_graph
from tests.engines.graphs import fp8_graph, int8_graph
from tests.tiny import METADATA, PREPROCESS, tiny_graph, tiny_images
from toolkit.building.choose import engine_path, targets, typed_path
from toolkit.building.ranges import table_for, table_path
from toolkit.building.typed import derive, given_graph, is_typed
from toolkit.steps.build import build_engine

ADA, AMPERE, HOPPER = (Gpu(0, "a GPU", capability, None) for capability in ("8.9", "8.6", "9.0"))


def table_of(model: onnx.ModelProto, precision: str = "fp8") -> CalibrationTable:
    images = PREPROCESS.normalise(tiny_images(64, seed=1))
    return replace(collect(model, [images]).table("minmax"), precision=precision)


@pytest.fixture
def master(tmp_path: Path) -> Path:
    """The tiny graph with a table for each precision beside it."""
    path, model = tmp_path / "model.onnx", tiny_graph(metadata=replace(METADATA, labels=tuple("01234")))
    save_graph(model, path)
    for precision in ("int8", "fp8"):
        table_of(model, precision).write(table_path(path, precision))
    return path


def test_an_fp8_engine_is_fp8_in_every_layer_and_says_where_it_runs(master: Path) -> None:
    report = build_engine(master, precision="fp8", backend="tensorrt-rtx")
    assert (report.engine.name, report.typed_graph.name) == ("model.fp8.rtx.engine", "model.fp8.onnx")
    assert report.layers.shares() == {"fp8": 1.0}
    assert (len(report.layers.heavy), report.kept) == (4, ())
    passport = Passport.read(report.passport)
    assert passport.precision == "fp8"
    assert passport.compute_capabilities == ("8.9", "12.0", "12.1")
    assert read_header(report.engine).compute_capabilities == passport.compute_capabilities
    assert "--fp8" in passport.command
    installed = passport.versions["tensorrt_rtx"]
    assert reasons_not_to_run(report.engine, compute_capability="12.0", installed=installed) == []
    (reason,) = reasons_not_to_run(report.engine, compute_capability="8.6", installed=installed)
    assert isinstance(reason, EngineMismatchError)
    assert "FP8, which needs compute capability 8.9" in reason.cause


def test_the_fp8_graph_runs_in_onnx_runtime_and_is_close_to_the_master(master: Path) -> None:
    report = build_engine(master, precision="fp8", backend="tensorrt-rtx")
    batch = PREPROCESS.batch(tiny_images(32))
    with open_session(report.typed_graph, device="cpu") as quantised, open_session(master, device="cpu") as exact:
        got, want = (session.run({"input": batch})["logits"] for session in (quantised, exact))
    assert 0 < ((got - want) ** 2).sum() < 0.02 * (want**2).sum()


def test_a_layer_without_an_fp8_kernel_stays_fp16_and_is_named(tmp_path: Path) -> None:
    model = tiny_graph()
    for tensor in model.graph.initializer:
        if tensor.name == "conv2.weight":
            values = np.random.default_rng(0).normal(0, 0.05, (16, 8, 7, 7)).astype(np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    conv2 = next(node for node in model.graph.node if node.name == "conv2")
    conv2.attribute[0].ints[:] = [3, 3, 3, 3]
    save_graph(model, tmp_path / "model.onnx")
    table_of(model).write(tmp_path / "model.fp8.calibration.json")
    report = build_engine(tmp_path / "model.onnx", precision="fp8", backend="tensorrt-rtx")
    types = {layer.label: layer.type for layer in report.layers.heavy}
    assert types == {"conv1": "fp8", "conv2": "fp16", "fc1": "fp8", "fc2": "fp8"}
    assert report.kept == ("conv2",)
    assert "kept in a wider type: conv2" in report.summary()
    again = build_engine(report.typed_graph, precision="fp8", backend="tensorrt-rtx")
    assert again.kept == ("conv2",)


def test_a_foreign_fp8_graph_builds_and_is_not_taken_for_int8(tmp_path: Path) -> None:
    path = tmp_path / "foreign.onnx"
    onnx.save(fp8_graph(), path)
    report = build_engine(path, precision="fp8", backend="tensorrt-rtx")
    assert report.layers.shares() == {"fp8": 1.0}
    assert Passport.read(report.passport).compute_capabilities == ("8.9", "12.0", "12.1")
    with pytest.raises(GraphError, match="is fp8 already, not int8"):
        build_engine(path, precision="int8", backend="tensorrt-rtx")
    onnx.save(int8_graph(), path)
    with pytest.raises(GraphError, match="is int8 already, not fp8"):
        build_engine(path, precision="fp8", backend="tensorrt-rtx")


def test_a_foreign_fp8_graph_with_a_layer_left_out_fails_the_audit_and_leaves_no_engine(tmp_path: Path) -> None:
    path = tmp_path / "foreign.onnx"
    onnx.save(fp8_graph(skip={"conv2"}), path)
    with pytest.raises(AuditError, match="'conv2'"):
        build_engine(path, precision="fp8", backend="tensorrt-rtx")
    assert {item.name for item in tmp_path.iterdir()} == {path.name, "foreign.fp8.rtx.engine.failed.log"}


@pytest.mark.parametrize("asked", [["8.6"], ["8.9", "8.0"], ["7.5"]])
def test_targets_without_fp8_are_refused_before_anything_is_made(master: Path, asked: list[str]) -> None:
    before = set(master.parent.iterdir())
    with pytest.raises(UnsupportedError, match=r"FP8 needs compute capability 8\.9 or newer") as caught:
        build_engine(master, precision="fp8", backend="tensorrt-rtx", compute_capabilities=asked)
    assert "--int8 or --fp16" in caught.value.remedy
    assert set(master.parent.iterdir()) == before


def test_onnx_runtime_has_no_fp8(master: Path) -> None:
    with pytest.raises(UnsupportedError, match="don't compute in FP8"):
        build_engine(master, precision="fp8", backend="onnxruntime")
    with pytest.raises(UnsupportedError, match="don't compute in FP8"):
        derive(
            master, load_graph(master), "fp8", "onnxruntime", table=CalibrationTable.read(table_path(master, "fp8"))
        )


def test_fp8_is_built_for_gpus_that_have_it() -> None:
    assert targets("fp8", "tensorrt-rtx", ()) == ("8.9", "12.0", "12.1")
    assert targets("fp8", "tensorrt-rtx", ["12.0"], [AMPERE]) == ("12.0",)  # built here for elsewhere
    assert targets("int8", "tensorrt-rtx", ["8.6"]) == ("8.6",)
    assert targets("int8", "tensorrt-rtx", ()) == ()
    assert targets("fp8", "tensorrt", (), [HOPPER, AMPERE]) == targets("fp8", "tensorrt", (), [ADA]) == ()
    with pytest.raises(UnsupportedError, match=r"not 8\.6"):
        targets("fp8", "tensorrt", (), [AMPERE, HOPPER])


def test_each_precision_has_its_own_files(master: Path) -> None:
    names = {table_path(master, precision).name for precision in ("int8", "fp8")}
    assert names == {"model.calibration.json", "model.fp8.calibration.json"}
    assert typed_path(master, "fp8", "tensorrt").name == "model.fp8.onnx"
    assert engine_path(master, "fp8", "tensorrt").name == "model.fp8.engine"
    assert engine_path(Path("model.fp8.onnx"), "fp8", "tensorrt-rtx").name == "model.fp8.rtx.engine"


@pytest.mark.parametrize(("asked", "other"), [("fp8", "int8"), ("int8", "fp8")])
def test_a_table_of_the_other_precision_is_refused(master: Path, asked: str, other: str) -> None:
    message = f"ranges chosen for {other.upper()}, not for {asked.upper()}"
    with pytest.raises(TableError, match=message) as caught:
        table_for(master, table_path(master, other), asked)
    assert caught.value.remedy.endswith(f"or build with --{other}")
    with pytest.raises(TableError, match=message.replace("ranges chosen", "ranges were chosen")):
        derive(
            master,
            load_graph(master),
            asked,
            "tensorrt-rtx",
            table=CalibrationTable.read(table_path(master, other)),
        )


def test_fp8_without_a_table_of_its_own_is_refused_though_int8s_is_there(master: Path) -> None:
    table_path(master, "fp8").unlink()
    with pytest.raises(
        InputError, match=r"FP8 needs calibration, and there is no 'model\.fp8\.calibration\.json'"
    ) as it:
        build_engine(master, precision="fp8", backend="tensorrt-rtx")
    assert it.value.remedy.endswith("--data DATA --fp8")


def test_a_typed_graph_of_ours_is_given_as_it_is(master: Path) -> None:
    model = load_graph(master)
    table = CalibrationTable.read(table_path(master, "fp8"))
    typed = derive(master, model, "fp8", "tensorrt-rtx", table=table)
    loaded = load_graph(typed.path)
    assert is_typed(loaded)
    given = given_graph(typed.path, loaded, "fp8", "tensorrt")
    assert (given.precision, given.weights, given.sources["table"]) == ("fp8", typed.weights, table.digest())
    with pytest.raises(GraphError, match="placed for tensorrt, not for onnxruntime"):
        given_graph(typed.path, loaded, "fp8", "onnxruntime")
