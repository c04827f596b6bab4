"""From a master graph to an audited engine with a passport, with real builds of TensorRT for RTX."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from engines.errors import AuditError, GraphError, InputError, TableError, UnsupportedError
from engines.passport import Passport
from engines.sessions import open_session
from export.graph import load_graph, read_derived, save_graph
from tests.calibration.renaming import renamed
from tests.tiny import METADATA, PREPROCESS, SIZE, tiny_graph, tiny_images
from toolkit.cli import run
from toolkit.cli.build_engine import parse_bytes
from toolkit.steps.build import build_engine

CLASSES = 5


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An .npz of 60 pictures in 5 classes."""
    path = tmp_path_factory.mktemp("data") / "pictures.npz"
    images, labels = tiny_images(60), np.arange(60) % CLASSES
    np.savez(path, x_train=images[:40], y_train=labels[:40], x_test=images[40:], y_test=labels[40:])
    return path


@pytest.fixture
def master(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    save_graph(tiny_graph(metadata=replace(METADATA, labels=tuple("01234"))), path)
    return path


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_an_engine_has_the_type_asked_for_in_every_convolution_and_product(precision: str, master: Path) -> None:
    report = build_engine(master, precision=precision, backend="tensorrt-rtx")
    assert report.layers.shares() == {precision: 1.0}
    assert len(report.layers.heavy) == 4
    assert report.engine == master.with_name(f"model.{precision}.rtx.engine")


def test_an_int8_engine_is_calibrated_on_the_data_and_says_so_in_its_passport(master: Path, data: Path) -> None:
    report = build_engine(master, precision="int8", backend="tensorrt-rtx", data=data)
    passport = Passport.read(report.passport)
    table = json.loads(master.with_name("model.calibration.json").read_text())
    assert report.layers.shares() == {"int8": 1.0}
    assert table["images"] == 40
    assert passport.sources["data"] == table["digests"]["data"]
    assert passport.metadata is not None
    assert passport.metadata.preprocess == PREPROCESS
    assert passport.command == f"toolkit build-engine {master} --int8 --backend tensorrt-rtx"


def test_one_table_serves_both_targets_and_the_ort_graph_runs(master: Path, data: Path) -> None:
    build_engine(master, precision="int8", backend="tensorrt-rtx", data=data)
    report = build_engine(master, precision="int8", backend="onnxruntime")
    assert report.engine == master.with_name("model.int8.ort.onnx")
    tables = [read_derived(load_graph(master.with_name(name))) for name in ("model.int8.onnx", "model.int8.ort.onnx")]
    assert tables[0] is not None
    assert tables[1] is not None
    assert tables[0].table == tables[1].table
    assert (tables[0].placement, tables[1].placement) == ("tensorrt", "onnxruntime")
    batch = PREPROCESS.batch(tiny_images(6))
    with open_session(report.engine) as quantised, open_session(master) as exact:
        got, want = (session.run({"input": batch})["logits"] for session in (quantised, exact))
    assert np.abs(got - want).max() < 0.1 * np.abs(want).max()


def test_int8_without_data_or_table_is_refused(master: Path) -> None:
    with pytest.raises(InputError, match=r"no 'model.calibration.json'"):
        build_engine(master, precision="int8", backend="tensorrt-rtx")
    assert list(master.parent.iterdir()) == [master]


def test_a_table_of_other_weights_is_refused(master: Path, data: Path) -> None:
    build_engine(master, precision="int8", backend="onnxruntime", data=data)
    save_graph(tiny_graph(seed=1, metadata=METADATA), master)
    with pytest.raises(TableError, match="weights"):
        build_engine(master, precision="int8", backend="onnxruntime")


def test_a_table_of_an_earlier_export_with_other_names_is_used(master: Path, data: Path) -> None:
    before = build_engine(master, precision="int8", backend="onnxruntime", data=data)
    with open_session(before.engine) as session:
        want = session.run({"input": PREPROCESS.batch(tiny_images(6))})["logits"]
    save_graph(renamed(tiny_graph(metadata=METADATA)), master)
    after = build_engine(master, precision="int8", backend="onnxruntime", force=True)
    with open_session(after.engine) as session:
        got = session.run({"input": PREPROCESS.batch(tiny_images(6))})["logits"]
    assert np.array_equal(got, want)


def test_data_with_another_precision_is_refused_rather_than_ignored(master: Path, data: Path) -> None:
    with pytest.raises(InputError, match="fp16 needs no calibration"):
        build_engine(master, precision="fp16", data=data)


def test_an_fp32_convolution_in_a_graph_that_claims_fp16_fails_the_audit_and_leaves_no_engine(master: Path) -> None:
    report = build_engine(master, precision="fp16", backend="onnxruntime")
    typed = load_graph(report.typed_graph)
    honest = build_engine(report.typed_graph, precision="fp16", backend="tensorrt-rtx")
    assert honest.layers.shares() == {"fp16": 1.0}
    honest.engine.unlink()
    honest.passport.unlink()
    graph = load_graph(master)
    claim = next(item for item in typed.metadata_props if item.key == "toolkit.derived")
    graph.metadata_props.append(claim)
    save_graph(graph, report.typed_graph)
    with pytest.raises(AuditError, match="fp32"):
        build_engine(report.typed_graph, precision="fp16", backend="tensorrt-rtx")
    assert not honest.engine.exists()
    assert not honest.passport.exists()


def test_weights_quantised_along_the_wrong_axis_are_refused_before_the_build(master: Path, data: Path) -> None:
    report = build_engine(master, precision="int8", backend="tensorrt-rtx", data=data)
    model = load_graph(report.typed_graph)
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name == "axis" and node.op_type in {"QuantizeLinear", "DequantizeLinear"}:
                attribute.i = 1
    for tensor in model.graph.initializer:  # scales for eight input channels instead of sixteen output channels
        if tensor.dims == [16] and "scale" in tensor.name:
            tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor)[:8], tensor.name))
    foreign = master.with_name("foreign.onnx")
    del model.metadata_props[:]
    onnx.save(model, foreign)
    with pytest.raises(GraphError):
        build_engine(foreign, precision="int8", backend="tensorrt-rtx")
    assert not master.with_name("foreign.int8.rtx.engine").exists()


def test_a_fixed_set_of_profiles_is_in_engine_and_passport(master: Path) -> None:
    report = build_engine(master, backend="tensorrt-rtx", batch=["1:1:1", "4:8:16"])
    passport = Passport.read(report.passport)
    shapes = [[list(shape) for shape in profile["input"]] for profile in passport.profiles]
    assert shapes == [[[n, 3, SIZE, SIZE] for n in (1, 1, 1)], [[n, 3, SIZE, SIZE] for n in (4, 8, 16)]]


def test_an_engine_made_from_something_else_is_not_replaced_without_force(master: Path) -> None:
    engine = build_engine(master, backend="tensorrt-rtx").engine
    before = engine.read_bytes()
    build_engine(master, backend="tensorrt-rtx")  # the same source: replaced without a word
    save_graph(tiny_graph(seed=1), master)
    with pytest.raises(InputError, match="exists and was not made from this source"):
        build_engine(master, backend="tensorrt-rtx")
    assert len(engine.read_bytes()) == len(before)
    build_engine(master, backend="tensorrt-rtx", force=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"compute_capabilities": ["9.0"]}, r"9\.0"),
        ({"timing_cache": "cache"}, "timing"),
        ({"backend": "onnxruntime", "batch": ["1:8:32"]}, "--batch"),
        ({"backend": "openvino"}, "no backend 'openvino'"),
    ],
)
def test_what_a_backend_cannot_honour_is_an_error(options: dict[str, object], message: str, master: Path) -> None:
    with pytest.raises(UnsupportedError, match=message):
        build_engine(master, **{"backend": "tensorrt-rtx", **options})  # type: ignore[arg-type]
    assert list(master.parent.iterdir()) == [master]


def test_without_a_file_the_one_master_graph_here_is_built(
    master: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(master.parent)
    assert run(["build-engine", "--fp16", "--backend", "tensorrt-rtx"]) == 0
    assert "4 of 4 fp16" in capsys.readouterr().out
    save_graph(tiny_graph(), Path("other.onnx"))
    assert run(["build-engine", "--fp16"]) == 2
    assert "2 graphs are here: model.onnx, other.onnx" in capsys.readouterr().err


def test_the_command_prints_one_json_object(master: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["build-engine", str(master), "--bf16", "--backend", "tensorrt-rtx", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["precision"] == "bf16"
    assert printed["layers"]["shares"] == {"bf16": 1.0}
    assert printed["budget"] is None
    assert printed["table"] is None


def test_one_precision_is_built_and_fp8_is_one_of_them(master: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["build-engine", str(master), "--fp8", "--backend", "onnxruntime"]) == 2
    assert "FP8" in capsys.readouterr().err
    assert run(["build-engine", str(master), "--fp8", "--backend", "tensorrt-rtx"]) == 2
    assert "no 'model.fp8.calibration.json'" in capsys.readouterr().err
    assert list(master.parent.iterdir()) == [master]


def test_an_fp8_engine_is_calibrated_for_fp8_and_kept_within_its_budget(master: Path, data: Path) -> None:
    report = build_engine(
        master, precision="fp8", backend="tensorrt-rtx", data=data, method="minmax", keep=["fc1"], max_drop=100
    )
    passport = Passport.read(report.passport)
    assert {layer.label: layer.type for layer in report.layers.heavy} == {
        "conv1": "fp8", "conv2": "fp8", "fc1": "fp16", "fc2": "fp8",
    }  # fmt: skip
    assert "8.9" in passport.compute_capabilities
    assert passport.measurements["accuracy_budget"]["judged"] == "model.fp8.onnx on onnxruntime cpu"
    assert report.table == master.with_name("model.fp8.calibration.json")
    assert json.loads(report.table.read_text())["keep"] == ["fc1"]


@pytest.mark.parametrize(
    ("text", "size"),
    [("512MiB", 512 << 20), ("2GB", 2 * 10**9), ("1.5gib", 3 << 29), ("1048576", 1 << 20), ("4k", 4000)],
)
def test_sizes_are_read_in_the_usual_units(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "many", "12XB", "-3MB"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="not a size"):
        parse_bytes(text)


def test_a_layer_whose_weights_fp16_cannot_hold_stays_fp32_in_the_engine_and_is_named(tmp_path: Path) -> None:
    model = tiny_graph()
    for tensor in model.graph.initializer:
        if tensor.name == "conv2.weight":
            values = onnx.numpy_helper.to_array(tensor).copy()
            values[0, 0, 0, 0] = 1e6
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    save_graph(model, tmp_path / "model.onnx")
    report = build_engine(tmp_path / "model.onnx", precision="fp16", backend="tensorrt-rtx")
    types = {layer.label: layer.type for layer in report.layers.heavy}
    assert types == {"conv1": "fp16", "conv2": "fp32", "fc1": "fp16", "fc2": "fp16"}
    assert report.kept == ("conv2",)
    again = build_engine(report.typed_graph, precision="fp16", backend="tensorrt-rtx")
    assert again.kept == ("conv2",)
