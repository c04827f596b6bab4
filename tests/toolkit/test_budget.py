"""The accuracy budget: the fewest layers kept, judged on what ships, and a plain no when there is none."""

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from calibration.provenance import fingerprint, pack
from calibration.qdq import quantise
from calibration.table import CalibrationTable
from engines.builders.options import BuildOptions
from engines.builders.profiles import parse_profiles
from engines.errors import BudgetError, DataError, InputError, TableError
from engines.passport import Passport
from engines.progress import QUIET
from engines.sessions import open_session
from engines.target import Gpu
from export.graph import load_graph, read_derived, save_graph
from tests.tiny import METADATA, PREPROCESS, tiny_graph
from tests.toolkit.hard import Hard
from toolkit.benchmarking.rounds import Pace
from toolkit.building import latency, make
from toolkit.building.budget import widen
from toolkit.building.judge import Judgement
from toolkit.building.pictures import search_pictures
from toolkit.building.report import BuildReport
from toolkit.building.search import behind_each
from toolkit.cli import run
from toolkit.data.dataset import Dataset, Split
from toolkit.steps.build import build_engine


@pytest.fixture(scope="module")
def shipped(original: Hard, tmp_path_factory: pytest.TempPathFactory) -> tuple[Hard, BuildReport]:
    """A build for ONNX Runtime with a budget of 2 points, its latency measured shortly."""
    hard = original.copy(tmp_path_factory.mktemp("shipped"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(latency, "PACE", Pace(0.06, 6, 0.01))
        report = build_engine(
            hard.graph, precision="int8", backend="onnxruntime", data=hard.data, table=hard.beside, max_drop=2
        )
    return hard, report


def test_without_a_budget_the_layer_ruins_the_network(hard: Hard) -> None:
    report = build_engine(hard.graph, precision="int8", backend="onnxruntime")
    assert report.budget is None
    assert accuracy(report.engine, hard.data) < 0.8
    assert accuracy(hard.graph, hard.data) == 1.0


def accuracy(path: Path, data: Dataset) -> float:
    images = data.test.images
    assert isinstance(images, np.ndarray)
    with open_session(path) as session:
        logits = session.run({"input": PREPROCESS.batch(images)})["logits"]
    return float((logits.argmax(axis=1) == data.test.labels).mean())


def test_exactly_the_layer_that_ruins_it_is_kept_for_tensorrt(hard: Hard) -> None:
    report = build_engine(
        hard.graph, precision="int8", backend="tensorrt-rtx", data=hard.data, table=hard.beside, max_drop=2
    )
    assert report.kept == ("fc2",)
    assert {layer.label: layer.type for layer in report.layers.heavy} == {
        "conv1": "int8", "conv2": "int8", "fc1": "int8", "fc2": "fp16",
    }  # fmt: skip
    assert report.budget is not None
    assert report.budget.judged.judged == "model.int8.onnx on onnxruntime cpu"
    assert any("latency not measured here: no GPU" in note for note in report.notes)
    assert not any(note.startswith("fc2") for note in report.notes)


def test_for_onnx_runtime_what_quantises_the_layers_input_is_kept_with_it(shipped: tuple[Hard, BuildReport]) -> None:
    hard, report = shipped
    assert report.kept == ("fc1", "fc2")
    assert report.budget is not None
    assert report.budget.judged.keep == ("fc1", "fc2")
    assert report.budget.judged.drop <= 2
    assert report.budget.judged.accuracy == accuracy(report.engine, hard.data)
    assert report.budget.judged.images == len(hard.data.test)


def test_the_passport_and_the_table_tell_what_was_kept_and_what_it_cost(shipped: tuple[Hard, BuildReport]) -> None:
    hard, report = shipped
    table = CalibrationTable.read(hard.beside)
    assert table == replace(hard.table, keep=("fc1", "fc2"))
    facts = Passport.read(report.passport).measurements["accuracy_budget"]
    assert facts["keep"] == ["fc1", "fc2"]
    assert (facts["max_drop"], facts["images"], facts["accuracy_fp32"]) == (2, 120, 1.0)
    assert facts["low"] < facts["drop"] < facts["high"]
    assert list(facts["p50_seconds"]) == ["FP32", "INT8 with nothing kept", "INT8 as built"]
    assert min(facts["p50_seconds"].values()) > 0
    assert Passport.read(report.passport).sources["table"] == table.digest()
    assert json.loads(json.dumps(report.to_json()))["budget"]["judged"] == "model.int8.ort.onnx on onnxruntime cpu"


def test_what_holds_only_on_the_images_searched_with_is_rejected_on_the_evaluation_split(hard: Hard) -> None:
    graph = hard.graph.with_name("quantised.onnx")
    save_graph(quantise(load_graph(hard.graph), hard.table), graph)
    images = np.concatenate([np.asarray(split.images) for split in (hard.data.train, hard.data.test)])
    labels = np.concatenate([hard.data.train.labels, hard.data.test.labels])
    with open_session(graph) as session:
        right = session.run({"input": PREPROCESS.batch(images)})["logits"].argmax(axis=1) == labels
    misleading = replace(
        hard.data, train=Split(images[right], labels[right]), test=Split(images[~right], labels[~right])
    )
    graph.unlink()
    report = build_engine(
        hard.graph, precision="int8", backend="tensorrt-rtx", data=misleading, table=hard.beside, max_drop=1
    )
    assert report.kept == ("fc2",)
    assert report.budget is not None
    assert [one.keep for one in report.budget.rejected] == [()]
    assert report.budget.rejected[0].drop == 100
    assert any(line.startswith("not enough on the evaluation split: nothing kept") for line in report.budget.lines())


def test_data_without_a_table_is_calibrated_on_and_an_overlap_is_told(hard: Hard) -> None:
    hard.beside.unlink()
    same = replace(hard.data, test=hard.data.train)
    report = build_engine(
        hard.graph, precision="int8", backend="onnxruntime", data=same, method="minmax", images=60, max_drop=100
    )
    assert CalibrationTable.read(hard.beside).images == 60
    assert report.budget is not None
    assert any("60 of the 180 evaluated images were calibrated on" in note for note in report.notes)


def test_an_engine_that_runs_here_is_what_is_judged_and_ships_as_it_is(
    hard: Hard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(make, "find_gpus", lambda: ((Gpu(0, "a GPU", "8.9", 1 << 30),), ()))
    folder = tmp_path / "candidates"
    folder.mkdir()
    options = BuildOptions(profiles=parse_profiles(()))
    candidates = make.Candidates(hard.graph, load_graph(hard.graph), "int8", "tensorrt-rtx", options, folder, QUIET)
    assert candidates.runs_engines
    monkeypatch.setattr(candidates, "_refused", lambda: False)
    engine = candidates.make(hard.table)
    assert engine == folder / "model.int8.rtx.engine"
    plan = candidates.plan(hard.table)
    assert plan is not None
    assert engine.read_bytes() == bytes(plan.data)
    assert candidates.plan(replace(hard.table, keep=("fc2",))) is None
    monkeypatch.undo()
    assert candidates.make(hard.table) == folder / "model.int8.onnx"  # the machine of this test has no such GPU
    assert not candidates.runs_engines
    assert candidates.plan(hard.table) is None


def test_the_table_can_be_edited_and_given_back(hard: Hard, tmp_path: Path) -> None:
    edited = tmp_path / "edited.json"
    replace(hard.table, keep=("classifier.fc2", "fc1")).write(edited)  # a module is as good as a node
    report = build_engine(hard.graph, precision="int8", backend="onnxruntime", table=edited)
    assert report.kept == ("fc1", "fc2")
    assert accuracy(report.engine, hard.data) > 0.98
    assert f"--table {edited}" in Passport.read(report.passport).command
    assert CalibrationTable.read(hard.beside).keep == ()


def test_layers_are_kept_by_hand_by_node_or_module_and_the_command_repeats_it(hard: Hard) -> None:
    report = build_engine(hard.graph, precision="int8", backend="onnxruntime", keep=["conv1", "classifier"])
    assert report.kept == ("conv1", "fc1", "fc2")
    assert "--keep conv1 --keep classifier" in Passport.read(report.passport).command
    derived = read_derived(load_graph(report.engine))
    assert derived is not None
    assert derived.kept == ("conv1", "fc1", "fc2")
    assert CalibrationTable.read(hard.beside).keep == ()


def test_a_budget_that_nothing_holds_exits_with_1_says_what_was_tried_and_leaves_no_engine(
    hard: Hard, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = {name: replace(found, amax=found.amax / 1e6) for name, found in hard.table.ranges.items()}
    hopeless = replace(hard.table, ranges=tiny)
    hopeless.write(hard.beside)
    before = {path.name: path.read_bytes() for path in hard.graph.parent.iterdir()}
    archive = hard.archive()
    common = ["build-engine", str(hard.graph), "--int8", "--table", str(hard.beside), "--data", str(archive)]
    for backend in ("onnxruntime", "tensorrt-rtx"):
        assert run([*common, "--backend", backend, "--max-drop", "0.5"]) == 1
        printed = capsys.readouterr().err
        assert "no choice of layers holds a drop of 0.5 points: the best that was found loses" in printed
        assert "tried keeping no layer: " in printed
        assert "--max-drop" in printed.splitlines()[-1]
        archive.rename(archive.with_suffix(".away"))
        found = {path.name: path.read_bytes() for path in hard.graph.parent.iterdir() if path.suffix != ".away"}
        archive.with_suffix(".away").rename(archive)
        assert found == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "fp16", "max_drop": 1.0}, "fp16 quantises none"),
        ({"precision": "fp32", "keep": ["fc2"]}, "fp32 quantises none"),
        ({"max_drop": -0.5}, "-0.5 points makes no budget"),
        ({"max_drop": float("nan")}, "nan points makes no budget"),
        ({"max_drop": 1.0, "data": None}, "none are given"),
        ({"max_drop": 1.0, "search_images": 0}, "no images"),
        ({"data": None, "table": None, "keep": ["fc3"]}, "no layer is called 'fc3'"),
        ({"data": None, "table": None, "keep": ["relu1"]}, "'relu1' is not a layer that is quantised"),
        ({}, "a table and data are given"),
    ],
)
def test_what_makes_no_sense_is_refused_and_nothing_is_written(
    options: dict[str, object], message: str, hard: Hard
) -> None:
    before = {path.name: path.read_bytes() for path in hard.graph.parent.iterdir()}
    given = {"precision": "int8", "data": hard.data, "table": hard.beside, **options}
    with pytest.raises(InputError, match=message) as caught:
        build_engine(hard.graph, backend="onnxruntime", **given)  # type: ignore[arg-type]
    assert caught.value.remedy
    assert caught.value.exit_code == 2
    assert {path.name: path.read_bytes() for path in hard.graph.parent.iterdir()} == before


def test_a_mistyped_layer_gets_the_nearest_names(hard: Hard) -> None:
    with pytest.raises(InputError) as caught:
        build_engine(hard.graph, precision="int8", backend="onnxruntime", keep=["classifier.fc3"])
    assert "'classifier.fc2'" in caught.value.remedy


def test_images_of_one_class_are_no_measure(hard: Hard) -> None:
    same = replace(hard.data, **{name: only_class(getattr(hard.data, name)) for name in ("train", "test")})
    with pytest.raises(DataError, match="all of one class"):
        build_engine(hard.graph, precision="int8", backend="onnxruntime", data=same, table=hard.beside, max_drop=1)


def only_class(split):  # type: ignore[no-untyped-def]
    return replace(split, labels=np.zeros_like(split.labels))


def test_a_table_of_another_graph_is_refused_before_the_search(hard: Hard) -> None:
    save_graph(tiny_graph(seed=1), hard.graph)
    with pytest.raises(TableError, match="weights"):
        build_engine(
            hard.graph, precision="int8", backend="onnxruntime", data=hard.data, table=hard.beside, max_drop=1
        )


def test_what_was_made_from_something_else_is_refused_before_the_search(hard: Hard) -> None:
    save_graph(tiny_graph(seed=1), hard.graph.with_name("model.int8.ort.onnx"))
    with pytest.raises(InputError, match="--force"):
        build_engine(
            hard.graph, precision="int8", backend="onnxruntime", data=hard.data, table=hard.beside, max_drop=0
        )
    assert CalibrationTable.read(hard.beside) == hard.table


@pytest.mark.parametrize("first", range(5))
def test_a_set_is_widened_to_the_shortest_that_holds_and_each_is_asked_once(first: int) -> None:
    asked: list[tuple[str, ...]] = []

    def holds(keep: tuple[str, ...]) -> bool:
        asked.append(keep)
        return len(keep) > first

    assert widen(("a",), lambda: "bacdefgh", holds) == tuple("abcdefgh"[: first + 1])
    assert len(asked) == len(set(asked))


def test_one_layer_stays_quantised_whatever_the_cost() -> None:
    asked: list[tuple[str, ...]] = []
    assert widen((), lambda: "abc", lambda keep: bool(asked.append(keep))) is None
    assert asked == [(), ("a",), ("a", "b")]
    assert widen(("a",), lambda: "a", lambda _: False) is None


def test_each_layer_is_followed_by_what_it_reads_from() -> None:
    model = tiny_graph()
    assert behind_each(model, ("fc2", "conv1", "fc1", "conv2")) == ("fc2", "fc1", "conv1", "conv2")
    assert behind_each(model, ("conv2", "fc2", "fc1", "conv1")) == ("conv2", "conv1", "fc2", "fc1")


def test_the_interval_of_a_drop_is_walds_with_half_an_image_added_to_each_count() -> None:
    judged = Judgement((), 86, right_fp32=50, lost=25, gained=12, judged="")
    p, q, n = 25.5 / 88, 12.5 / 88, 88
    spread = 1.959963985 * np.sqrt((p + q - (p - q) ** 2) / n)
    assert judged.interval == pytest.approx((100 * (p - q - spread), 100 * (p - q + spread)))
    assert judged.drop == pytest.approx(100 * 13 / 86)
    assert judged.accuracy == pytest.approx(37 / 86)


def test_the_interval_covers_the_true_drop_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    counts = rng.multinomial(400, [0.02, 0.01, 0.97], 4000)
    inside = [
        low <= 1.0 <= high
        for low, high in (Judgement((), 400, 390, int(lost), int(gained), "").interval for lost, gained, _ in counts)
    ]
    assert 0.93 < np.mean(inside) < 0.99


def test_the_search_takes_no_image_that_was_calibrated_on(hard: Hard) -> None:
    train = hard.data.train
    pixels = np.asarray(train.images)[:100]
    seen = pack(fingerprint(PREPROCESS.pixels(image)) for image in pixels)
    pictures, notes = search_pictures(hard.data, METADATA, replace(hard.table, seen=seen, images=100), 70)
    assert len(pictures) == 70
    assert set(pictures.indices) & set(range(100)) == set()
    assert notes == ()
    assert np.array_equal(pictures.held().labels, pictures.labels)
    for one, other in itertools.zip_longest(pictures, pictures.held()):
        assert np.array_equal(one, other)


def test_where_too_few_are_left_those_calibrated_on_are_taken_too_and_it_is_said(hard: Hard) -> None:
    seen = pack(fingerprint(PREPROCESS.pixels(image)) for image in np.asarray(hard.data.train.images)[:170])
    pictures, notes = search_pictures(hard.data, METADATA, replace(hard.table, seen=seen, images=170), 100)
    assert len(pictures) == 100 == len(set(pictures.indices))
    assert "only 10 training images are left" in notes[0]


def test_an_older_table_tells_its_images_by_seed_and_number(hard: Hard) -> None:
    from toolkit.data import choose

    facts = {"data": "sure", "split": "train", "seed": 3}
    pictures, notes = search_pictures(hard.data, METADATA, replace(hard.table, facts=facts, images=90), 90)
    assert set(pictures.indices) & set(choose(hard.data.train, 90, 3)) == set()
    assert notes == ()


def test_a_budget_error_is_a_failed_check() -> None:
    assert BudgetError.exit_code == 1
