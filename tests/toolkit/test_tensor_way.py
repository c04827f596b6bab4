"""Networks that aren't classifiers of pictures, the whole way: export, calibrate, build, compare."""

import json
from dataclasses import replace

import numpy as np
import onnxruntime as ort
import pytest
from PIL import Image

from engines.errors import AuditError, DataError, UnsupportedError
from engines.passport import Passport, find_passport
from engines.sessions import open_session
from engines.sessions.torch import TorchSession
from export.graph import save_graph
from export.onnx_export import to_onnx
from tests.tensor_nets import SIDE, samples, segmentation, text, two_inputs
from toolkit.benchmarking.messages import Contestant
from toolkit.benchmarking.worker import Worker
from toolkit.building.ranges import table_path
from toolkit.comparison.records.reading import read_record
from toolkit.runtime.predictor import Predictor
from toolkit.steps.build import build_engine
from toolkit.steps.calibrate import calibrate
from toolkit.steps.compare import compare
from toolkit.steps.sensitivity import sensitivity

pytest.importorskip("tensorrt_rtx")

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
