"""Networks that aren't classifiers of pictures, the whole way: export, calibrate, build, compare."""

import json
import re
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from PIL import Image
from torch import nn

from engines.errors import AuditError, DataError, InputError, UnsupportedError
from engines.metadata import ModelMetadata
from engines.passport import Passport, find_passport
from engines.preprocess import Preprocess
from engines.sessions import open_session
from engines.sessions.torch import TorchSession
from export.graph import load_graph, save_graph
from export.onnx_export import to_onnx
from export.signature import outputs_of
from tests.tensor_nets import SIDE, samples, segmentation, text, two_inputs
from toolkit.benchmarking.messages import Contestant
from toolkit.benchmarking.worker import Worker
from toolkit.building.ranges import table_path
from toolkit.comparison.records.reading import read_record
from toolkit.comparison.tables import tables_of
from toolkit.report import csv_rows
from toolkit.runtime.predictor import Predictor
from toolkit.steps.build import build_engine
from toolkit.steps.calibrate import calibrate
from toolkit.steps.compare import compare
from toolkit.steps.diff import diff, keep_baseline
from toolkit.steps.sensitivity import sensitivity

pytest.importorskip("tensorrt_rtx")


class Embedding(nn.Module):
    """A classifier that gives what its last layer sees as well."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        features = x.mean((2, 3))
        return {"logits": self.head(features), "features": features}


NETWORKS = {"two": two_inputs, "seg": segmentation, "text": text}
KEPT = {"two": (), "seg": ("up",), "text": ()}  # TensorRT for RTX has no transposed convolution in 8 bits


@pytest.fixture(scope="module")
def way(tmp_path_factory):
    """Each network's master graph and data; calibrated."""
    folder = tmp_path_factory.mktemp("way")
    rng = np.random.default_rng(0)
    for label in ("left", "right"):
        (folder / "pictures" / label).mkdir(parents=True)
        for number in range(10):
            pixels = rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8)
            Image.fromarray(pixels).save(folder / "pictures" / label / f"{number}.png")
    found = {}
    for name, make in NETWORKS.items():
        module, metadata = make()
        graph = folder / f"{name}.onnx"
        save_graph(to_onnx(module, metadata), graph)
        data = folder / ("pictures" if metadata.pictures else f"{name}.npz")
        if metadata.pictures is None:
            arrays = samples(metadata, 60)
            if name == "text":
                with TorchSession(module, metadata, "cpu") as session:
                    arrays["labels"] = session.run(arrays)["logits"].argmax(1)
            np.savez(data, **arrays)
        table = calibrate(graph, data, images=48, method="minmax")
        found[name] = module, metadata, graph, data, table
    return found


@pytest.mark.parametrize("name", NETWORKS)
def test_the_table_says_what_it_saw(name, way):
    _, metadata, graph, data, table = way[name]
    assert table.facts["data"] == data.stem
    assert f"from {table.images} {'images' if metadata.pictures else 'samples'} of {data.stem}" in table.summary()
    assert table.data is not None
    assert (table.preprocess is None) == (metadata.pictures is None)
    assert table_path(graph, "int8").is_file()
    if name == "two":
        first = samples(metadata, 60)["image"]
        assert table.ranges["image"].amax <= np.abs(first).max()
        assert table.facts.keys().isdisjoint({"classes"})


@pytest.mark.parametrize("precision", ["int8", "fp16"])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_real_engine_is_built_with_every_tensor_in_its_profile(name, precision, way):
    _, metadata, graph, _, _ = way[name]
    keep = KEPT[name] if precision == "int8" else ()
    report = build_engine(graph, precision=precision, backend="tensorrt-rtx", batch=("1:4:8",), keep=keep)
    heavy = {layer.label: layer.type for layer in report.layers.heavy}
    assert heavy
    assert {kind for label, kind in heavy.items() if not any(kept in label for kept in keep)} == {precision}
    passport = find_passport(report.engine)
    assert isinstance(passport, Passport)
    assert passport.metadata == metadata
    assert [spec.name for spec in passport.inputs] == [spec.name for spec in metadata.taken]
    assert {spec.name for spec in passport.outputs} == {spec.name for spec in metadata.given}
    kinds = {spec.name: spec.dtype for spec in passport.inputs}
    assert kinds == {spec.name: spec.dtype for spec in metadata.taken}


def test_a_transposed_convolution_that_stays_in_float_is_told(way):
    with pytest.raises(AuditError, match="'up'"):
        build_engine(way["seg"][2], precision="int8", backend="tensorrt-rtx", force=True)


@pytest.fixture(scope="module")
def compared(way):
    """Each network's graph against its INT8 graph for ONNX Runtime."""
    found = {}
    for name, (_, _, graph, data, _) in way.items():
        quantised = build_engine(graph, precision="int8", backend="onnxruntime").engine
        record = graph.with_suffix(".json")
        result = compare(
            [graph, quantised], data, batch_sizes=(), record=record, report=graph.with_suffix(".html"),
            markdown=graph.with_suffix(".md"), launches=1, update_passports=True,
        )  # fmt: skip
        found[name] = result, quantised, record
    return found


@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_are_held_against_the_references(name, way, compared):
    _, metadata, graph, data, _ = way[name]
    result, quantised, record = compared[name]
    reference, other = result.rows
    assert reference.fidelity.outputs == ()
    assert [one.name for one in other.fidelity.outputs] == [spec.name for spec in metadata.given]
    assert read_record(record).rows == result.rows
    if metadata.pictures is None:
        from toolkit.data.tensors import open_tensors

        feeds = dict(open_tensors(data, metadata).test.arrays)
        assert other.fidelity.samples == 12
        answers = [ort.InferenceSession(str(path)).run(None, feeds) for path in (graph, quantised)]
        for one, *both in zip(other.fidelity.outputs, *answers, strict=True):
            first, second = (values.astype(np.float64) for values in both)
            noise = np.square(first - second).sum()
            assert one.sqnr_db == pytest.approx(10 * np.log10(np.square(first).sum() / noise), abs=0.1)
            assert one.max_error == pytest.approx(np.abs(first - second).max() / np.ptp(first), rel=0.02)
    else:
        assert other.fidelity.outputs[1].same == pytest.approx(other.fidelity.outputs[0].same)
    passport = find_passport(quantised)
    assert passport.measurements["fidelity"]["outputs"] == other.fidelity.to_json()["outputs"]


def test_only_a_classifier_has_a_top1(way, compared):
    assert all(row.accuracy is None for name in ("two", "seg") for row in compared[name][0].rows)
    reference, _ = compared["text"][0].rows
    assert reference.accuracy.top1.rate == 1  # the labels are its own answers


@pytest.mark.parametrize("name", NETWORKS)
def test_page_and_comment_tell_of_every_output(name, way, compared):
    _, metadata, graph, _, _ = way[name]
    page, comment = (graph.with_suffix(suffix).read_text() for suffix in (".html", ".md"))
    for spec in metadata.given:
        assert spec.name in page
        assert f"`{spec.name}`" in comment
    assert "Outputs against the reference" in page
    assert ("top-1" in comment) == (name == "text")


@pytest.mark.parametrize("name", NETWORKS)
def test_the_spreadsheet_has_the_worst_output_and_the_page_counts_samples(name, way, compared):
    _, _, graph, _, _ = way[name]
    result, _, _ = compared[name]
    first, second = csv_rows(result)
    outputs = result.rows[1].fidelity.outputs
    assert second["outputs_sqnr_db_least"] == min(one.sqnr_db for one in outputs if one.sqnr_db is not None)
    assert second["outputs_error_largest"] == max(one.max_error for one in outputs if one.max_error is not None)
    assert (first["outputs_samples"], first["outputs_sqnr_db_least"]) == (result.data.images, None)
    page = graph.with_suffix(".html").read_text()
    assert f"test samples of {result.data.name}" in page
    linked = re.findall('<li><a href="#([a-z]+)">', page)
    assert "outputs" in linked
    assert linked == [section for section in re.findall('<section id="([a-z]+)"', page) if section in linked]
    titles = [str(table.title) for table in tables_of(result, plain=True)]
    assert ("Accuracy on 12 test samples of text" in titles) == (name == "text")


@pytest.mark.parametrize("name", NETWORKS)
def test_the_gate_refuses_what_is_no_classifier_of_pictures(name, way, compared, tmp_path):
    _, _, graph, data, _ = way[name]
    cause = r"takes ids: int64" if name == "text" else "is no classifier"
    with pytest.raises(UnsupportedError, match=f"classifiers of pictures, and .*{cause}") as caught:
        diff(graph, compared[name][1], data)
    assert "toolkit compare" in caught.value.remedy
    with pytest.raises(UnsupportedError, match="classifiers of pictures"):
        keep_baseline(graph, data, tmp_path / "kept.npz")
    assert not list(tmp_path.iterdir())


def test_of_a_classifier_with_more_outputs_it_is_said_which_is_judged(way, tmp_path):
    module, data = Embedding().eval(), way["seg"][3]
    metadata = ModelMetadata("embedding", ("left", "right"), Preprocess(SIDE, SIDE))
    metadata = replace(metadata, outputs=outputs_of(module, metadata.taken))
    save_graph(to_onnx(module, metadata), tmp_path / "net.onnx")
    (row,) = compare([tmp_path / "net.onnx"], data, batch_sizes=(), launches=1).rows
    assert row.accuracy is not None
    assert any("judged by 'logits'; features are not compared" in note for note in row.notes)


def test_data_of_the_other_kind_is_named(way):
    with pytest.raises(DataError, match="takes tensors, and 'pictures' holds pictures"):
        compare([way["two"][2]], way["seg"][3], batch_sizes=(), launches=1)


def test_a_reference_that_is_never_finite_compares_nothing(way, tmp_path):
    _, _, graph, data, _ = way["two"]
    broken = load_graph(graph)
    for tensor in broken.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            values = onnx.numpy_helper.to_array(tensor)
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.full_like(values, np.nan), tensor.name))
    save_graph(broken, tmp_path / "broken.onnx")
    with pytest.raises(InputError, match="for every sample"):
        compare([tmp_path / "broken.onnx", graph], data, batch_sizes=(), reference=tmp_path / "broken.onnx")


def test_a_process_answers_in_parts_and_times_on_the_datas_own_samples(way):
    _, metadata, graph, _, _ = way["two"]
    worker, feeds = Worker(), samples(metadata, 5)
    try:
        worker.open(Contestant(str(graph), "two"))
        whole = worker.answers(feeds, None)
        worker._cuts = lambda count: [2, 4]
        for name, values in worker.answers(feeds, None).items():
            np.testing.assert_allclose(values, whole[name], rtol=1e-4, atol=1e-6)
        worker.feed(feeds, None)
        timed = worker._feeds_of(7)
        assert np.array_equal(timed["vector"][:5], feeds["vector"])
        assert np.array_equal(timed["vector"][5:], feeds["vector"][:2])
    finally:
        worker.close()


def test_without_data_tokens_are_timed_that_any_table_has(way):
    worker = Worker()
    try:
        worker.open(Contestant(str(way["text"][2]), "text"))
        assert set(np.unique(worker._feeds_of(50)["ids"])) == {0, 1}
        assert worker._feeds_of(50)["mask"].dtype == bool
    finally:
        worker.close()


def test_layers_are_ranked_on_samples_that_were_not_calibrated_on(way):
    _, _, graph, data, _ = way["two"]
    notes = []
    found = sensitivity(graph, data, images=12, on_note=notes.append, output=graph.parent / "s.json")
    assert {layer.node for layer in found.layers} == {"conv", "down", "mix", "position", "embedding"}
    assert found.accuracy_fp32 is None
    assert notes  # all 48 of the train split were calibrated on
    assert json.loads((graph.parent / "s.json").read_text())["data"] == "two"


def test_a_session_of_pytorch_takes_and_gives_what_the_graph_does(way):
    for module, metadata, graph, _, _ in way.values():
        feeds = samples(metadata, 3)
        with TorchSession(module, metadata, "cpu") as torch_session, open_session(graph) as session:
            assert torch_session.inputs == session.inputs
            assert torch_session.outputs == session.outputs
            found, wanted = session.run(feeds), torch_session.run(feeds)
            for name, values in wanted.items():
                np.testing.assert_allclose(found[name], values, atol=1e-4)


def test_what_needs_labelled_pictures_says_so(way):
    _, metadata, graph, data, _ = way["two"]
    with pytest.raises(UnsupportedError, match="accuracy budget"):
        build_engine(graph, precision="int8", backend="onnxruntime", data=data, max_drop=1.0, force=True)
    with pytest.raises(DataError, match="holds ids"):
        calibrate(graph, way["text"][3], force=True)
    with open_session(graph) as session, pytest.raises(Exception, match=r"no classifier|no pictures"):
        Predictor(session)
    assert replace(metadata, architecture="x").scored is None
