import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from sklearn.metrics import accuracy_score

from engines.errors import DataError, EngineMismatchError, InputError, RunError
from engines.metadata import METADATA_KEY
from engines.passport import Passport, passport_path
from engines.sessions import open_session
from tests.tiny import METADATA, PREPROCESS, tiny_graph, tiny_images
from tests.toolkit.openers import HERE
from toolkit.benchmarking.messages import Contestant
from toolkit.data import Dataset, PreprocessHint, Split
from toolkit.steps.compare import compare

ROOT = Path(__file__).resolve().parents[2]
QUICK = {"batch_sizes": (1, 4), "seconds": 0.06, "rounds": 6}


def labelled(count: int, path: Path, *, share: float = 0.8) -> Dataset:
    """Images of which the graph at ``path`` classifies about ``share`` as the label says."""
    images = tiny_images(count, seed=5)
    answers = predict(path, images)
    wrong = np.random.default_rng(0).random(count) > share
    labels = np.where(wrong, (answers + 1) % len(METADATA.labels), answers)
    split = Split(images, labels)
    return Dataset("blobs", METADATA.labels, split, split, PreprocessHint("stretch", 3, 16, 16))


def predict(path: Path, images: np.ndarray) -> np.ndarray:
    with open_session(path, device="cpu") as session:
        return session.run({"input": PREPROCESS.normalise(images)})["logits"].argmax(axis=1).astype(np.int64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("compare")
    onnx.save(tiny_graph(seed=0), folder / "a.onnx")
    onnx.save(tiny_graph(seed=1), folder / "b.onnx")
    return folder


@pytest.fixture(scope="module")
def data(folder) -> Dataset:
    return labelled(70, folder / "a.onnx")


@pytest.fixture(scope="module")
def comparison(folder, data):
    """One run with everything in it: two graphs, an engine for another GPU, one that dies, one with a device."""
    for name in ("other.engine", "bad.engine", "gpu.engine", "fixed.engine"):
        (folder / name).write_bytes(name.encode())
    artifacts = [
        folder / "b.onnx",
        Contestant(str(folder / "other.engine"), opener=f"{HERE}:refusing"),
        Contestant(str(folder / "bad.engine"), opener=f"{HERE}:doomed", options={"way": "kill", "at": 6}),
        Contestant(str(folder / "gpu.engine"), opener=f"{HERE}:on_device"),
        Contestant(str(folder / "fixed.engine"), opener=f"{HERE}:fixed"),
    ]
    return compare(artifacts, data, reference=folder / "a.onnx", **QUICK)


def test_accuracy_and_agreement_equal_an_independent_computation(comparison, folder, data):
    truth = data.test.labels
    a, b = predict(folder / "a.onnx", data.test.images), predict(folder / "b.onnx", data.test.images)
    assert comparison.row("a.onnx").accuracy.top1.rate == pytest.approx(accuracy_score(truth, a))
    assert comparison.row("b.onnx").accuracy.top1.rate == pytest.approx(accuracy_score(truth, b))
    assert comparison.row("b.onnx").accuracy.agreement.count == int((a == b).sum())
    assert 0.7 < comparison.row("a.onnx").accuracy.top1.rate < 0.9


def test_a_reference_that_was_not_listed_comes_first(comparison):
    assert comparison.reference == "a.onnx"
    assert comparison.rows[0].name == "a.onnx"
    assert comparison.row("b.onnx").speeds[1].ratio.low is not None
    assert comparison.row("a.onnx").speeds[1].ratio is None


def test_an_engine_that_cannot_run_here_keeps_its_row_with_cause_and_remedy(comparison):
    row = comparison.row("other.engine")
    assert (row.opened, row.accuracy, dict(row.speeds)) == (None, None, {})
    assert "is for another GPU" in row.failure.cause
    assert row.failure.remedy.startswith("toolkit build-engine")


def test_a_process_that_dies_while_it_is_timed_keeps_its_accuracy_and_the_others_go_on(comparison):
    row = comparison.row("bad.engine")
    assert "SIGKILL" in row.failure.cause
    assert row.accuracy.top1.total == 70
    assert set(comparison.row("b.onnx").speeds) == {1, 4}


def test_times_on_a_device_are_apart_from_end_to_end(comparison):
    stages = comparison.row("gpu.engine").speeds[4].timing.stages
    assert (stages.copy_in, stages.device, stages.copy_out) == (0.001, 0.002, 0.003)
    assert comparison.row("b.onnx").speeds[4].timing.stages is None


def test_an_engine_of_one_batch_size_is_evaluated_whole_and_timed_at_that_size_only(comparison):
    row = comparison.row("fixed.engine")
    assert row.accuracy.top1.total == 70
    assert row.accuracy.top1.count == comparison.row("gpu.engine").accuracy.top1.count
    assert list(row.speeds) == [4]
    assert row.skipped == {1: "the engine takes batches of exactly 4"}


def test_the_record_is_json_with_a_schema_version_and_says_where_and_how(comparison):
    record = json.loads(json.dumps(comparison.to_json(), allow_nan=False))
    assert (record["schema"], record["version"]) == ("onnx-tensorrt-toolkit/comparison", 2)
    assert record["machines"][0]["cores"] > 0
    assert record["settings"]["batch_sizes"] == [1, 4]
    assert record["data"]["images"] == 70
    assert record["data"]["digest"].startswith("sha256:")
    rows = {row["name"]: row for row in record["rows"]}
    assert rows["b.onnx"]["session"]["provider"] == "CPUExecutionProvider"
    assert rows["b.onnx"]["size_bytes"] == comparison.row("b.onnx").size > 1000
    assert [len(launch) for launch in rows["b.onnx"]["speed"][0]["run_seconds"]] == [3, 3]
    assert [start["open"] > 0 < start["first"] for start in rows["b.onnx"]["cold_starts"]] == [True, True]
    assert rows["b.onnx"]["peak_device_bytes"] is None
    assert rows["b.onnx"]["peak_resident_bytes"] > 20e6
    assert rows["other.engine"]["session"] is None
    assert record["command"].startswith("toolkit compare ")


def test_the_same_images_have_the_same_digest_whatever_is_compared(folder, data, comparison):
    again = compare([folder / "b.onnx"], data, batch_sizes=())
    assert again.data.digest == comparison.data.digest
    assert again.reference is None
    fewer = compare([folder / "b.onnx"], data, batch_sizes=(), images=20)
    assert fewer.data.images == 20
    assert fewer.rows[0].accuracy.top1.total == 20
    assert fewer.data.digest != again.data.digest


def test_labels_in_another_order_are_matched_by_name(folder, data, tmp_path):
    """The same network with its outputs permuted, and its labels with them, is the same classifier."""
    order = np.array([3, 0, 4, 1, 2])
    model = tiny_graph(seed=0)
    for weight in model.graph.initializer:
        if weight.name.startswith("fc2."):
            weight.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight)[order], weight.name))
    metadata = replace(METADATA, labels=tuple(METADATA.labels[i] for i in order))
    onnx.helper.set_model_props(model, {METADATA_KEY: metadata.dumps()})
    onnx.save(model, tmp_path / "permuted.onnx")
    result = compare([folder / "a.onnx", tmp_path / "permuted.onnx"], data, batch_sizes=())
    first, second = result.rows
    assert second.accuracy.agreement.rate == 1.0
    assert second.accuracy.top1 == first.accuracy.top1


def test_artifacts_of_different_input_sizes_see_the_same_images_each_in_its_own_size(folder, data, tmp_path):
    """A graph that takes raw pixels of twice the size and halves them itself agrees with the original."""
    model = tiny_graph(seed=0)
    spec = replace(PREPROCESS, height=32, width=32, interpolation="nearest")
    model.graph.input[0].CopyFrom(onnx.helper.make_tensor_value_info("big", 1, ["batch", 3, 32, 32]))
    pool = onnx.helper.make_node("AveragePool", ["big"], ["input"], "halve", kernel_shape=[2, 2], strides=[2, 2])
    model.graph.node.insert(0, pool)
    onnx.helper.set_model_props(model, {METADATA_KEY: replace(METADATA, pictures=spec).dumps()})
    onnx.save(model, tmp_path / "big.onnx")
    result = compare([folder / "a.onnx", tmp_path / "big.onnx"], data, batch_sizes=())
    assert result.rows[1].accuracy.agreement.rate == 1.0


def test_a_foreign_engine_borrows_the_references_metadata_and_says_so(folder, data):
    (folder / "foreign.engine").write_bytes(b"x")
    foreign = Contestant(str(folder / "foreign.engine"), opener=f"{HERE}:foreign", options={"max_batch": 8})
    result = compare([folder / "a.onnx", foreign], data, batch_sizes=(16,), seconds=0.05, rounds=1, launches=1)
    row = result.row("foreign.engine")
    assert row.accuracy.top1.total == 70
    assert "carries no metadata" in row.notes[0]
    assert row.skipped == {16: "the engine takes batches up to 8"}


def test_a_foreign_engine_alone_cannot_be_evaluated(folder, data):
    (folder / "foreign.engine").write_bytes(b"x")
    with pytest.raises(InputError, match="no labels and no preprocessing"):
        compare([Contestant(str(folder / "foreign.engine"), opener=f"{HERE}:foreign")], data)


def test_an_engine_whose_profile_starts_above_one_is_padded_and_timed_where_it_runs(folder, data):
    (folder / "four.engine").write_bytes(b"x")
    four = Contestant(str(folder / "four.engine"), opener=f"{HERE}:from_four")
    plain = Contestant(str(folder / "four.engine"), "plain", opener=f"{HERE}:fake")
    result = compare([plain, four], data, images=65, batch_sizes=(1, 4), seconds=0.05, rounds=1, launches=1)
    row = result.row("four.engine")
    assert row.failure is None
    assert row.accuracy.agreement.rate == 1.0
    assert row.accuracy.top1.total == 65  # the last batch is of one image
    assert list(row.speeds) == [4]
    assert row.skipped == {1: "the engine takes no batch of 1"}


def test_logits_that_are_not_finite_are_counted_and_noted(folder, data):
    (folder / "nan.engine").write_bytes(b"x")
    bad = Contestant(str(folder / "nan.engine"), opener=f"{HERE}:overflowing")
    row = compare([folder / "a.onnx", bad], data, batch_sizes=()).row("nan.engine")
    assert row.accuracy.non_finite == 11 + 11 + 2  # every third of batches of 32, 32 and 6
    assert row.notes == ("logits of 24 images hold NaN or infinity",)


def test_a_missing_file_is_an_error_before_anything_starts(folder, data):
    with pytest.raises(InputError, match=r"missing\.onnx' does not exist"):
        compare([folder / "a.onnx", folder / "missing.onnx"], data)


def test_when_nothing_runs_the_first_reason_is_the_error(folder, data):
    (folder / "other.engine").write_bytes(b"x")
    refused = Contestant(str(folder / "other.engine"), opener=f"{HERE}:refusing")
    with pytest.raises(EngineMismatchError, match="another GPU"):
        compare([refused, refused], data)


def test_a_reference_that_was_asked_for_and_cannot_run_is_an_error(folder, data):
    (folder / "bad.engine").write_bytes(b"x")
    bad = Contestant(str(folder / "bad.engine"), "bad", opener=f"{HERE}:doomed", options={"way": "exit", "at": 1})
    with pytest.raises(RunError, match="ended with status 3"):
        compare([bad, folder / "a.onnx"], data, reference="bad", batch_sizes=())


def test_when_a_default_reference_dies_the_next_takes_its_place_without_agreement(folder, data):
    (folder / "first.onnx").write_bytes(b"x")
    bad = Contestant(str(folder / "first.onnx"), opener=f"{HERE}:doomed", options={"way": "exit", "at": 2})
    result = compare(
        [bad, folder / "a.onnx", folder / "b.onnx"], data, batch_sizes=(1,), launches=1, seconds=0.05, rounds=6
    )
    assert result.reference == "a.onnx"
    assert result.row("b.onnx").accuracy.agreement is None
    assert result.row("b.onnx").accuracy.top1.total == 70
    assert result.row("b.onnx").speeds[1].ratio is not None


def test_another_seed_evaluates_the_same_test_split(folder, tmp_path):
    """A split drawn from the comparison's own seed would be another than training's."""
    images = tiny_images(300, seed=9)
    answers = predict(folder / "a.onnx", images)
    labels = np.where(np.arange(300) % 3 == 0, (answers + 1) % 5, answers)
    np.savez(tmp_path / "one.npz", images=images, labels=labels)
    first, second = (
        compare([folder / "a.onnx"], tmp_path / "one.npz", batch_sizes=(), seed=seed).rows[0].accuracy
        for seed in (0, 1)
    )
    assert first == second


def test_the_reference_is_the_first_checkpoint_then_the_first_graph_then_the_first_artifact(folder, data):
    def named(*names):
        for name in names:
            (folder / name).write_bytes(b"x")
        listed = [Contestant(str(folder / name), opener=f"{HERE}:fake") for name in names]
        return compare(listed, data, batch_sizes=(), images=5).reference

    assert named("x.engine", "x.onnx", "x.pt") == "x.pt"
    assert named("x.engine", "y.engine", "x.onnx") == "x.onnx"
    assert named("x.engine", "y.engine") == "x.engine"


def test_data_of_other_classes_is_refused(folder, data):
    strange = replace(data, labels=("cat", "dog", "cow", "hen", "pig", "bee"))
    with pytest.raises(DataError, match="no class 'cat'"):
        compare([folder / "a.onnx"], strange)


@pytest.mark.parametrize(
    "options",
    [{"batch_sizes": (0,)}, {"seconds": 0.0}, {"seconds": float("nan")}, {"rounds": 0}, {"images": 0}],
)
def test_options_that_make_no_sense_are_refused(folder, data, options):
    with pytest.raises(InputError):
        compare([folder / "a.onnx"], data, **options)


def test_two_files_of_one_name_and_one_file_twice_get_names_that_differ(folder, data, tmp_path):
    (tmp_path / "a.onnx").write_bytes((folder / "a.onnx").read_bytes())
    paths = [folder / "a.onnx", tmp_path / "a.onnx", tmp_path / "a.onnx"]
    result = compare(paths, data, batch_sizes=())
    assert [row.name for row in result.rows] == [str(paths[0]), str(paths[1]), f"{paths[1]} #2"]
    assert all(row.accuracy.agreement.rate == 1 for row in result.rows[1:])


def test_what_was_measured_is_written_into_the_passport_of_the_very_file(folder, data, tmp_path):
    engine = tmp_path / "a.fp32.onnx"
    engine.write_bytes((folder / "a.onnx").read_bytes())
    made = Passport.of(engine, backend="onnxruntime", precision="fp32", command="toolkit build-engine")
    made.with_measurements(other=1).write(passport_path(engine))
    result = compare([folder / "a.onnx", engine], data, **QUICK, launches=1)
    written = Passport.read(passport_path(engine)).measurements
    row = result.row("a.fp32.onnx")
    assert written["other"] == 1
    assert written["accuracy"]["top1"]["rate"] == row.accuracy.top1.rate
    assert written["accuracy"]["data"]["digest"] == result.data.digest
    assert written["speed"]["batches"][1]["images_per_second"] == row.speeds[4].timing.images_per_second
    assert "run_seconds" not in written["speed"]["batches"][0]
    for name in ("accuracy", "speed"):
        assert written[name]["device"] == "cpu"
        assert written[name]["provider"] == "CPUExecutionProvider"
        assert written[name]["machine"] == str(result.machine)
        assert written[name]["measured"] == result.created

    before = passport_path(engine).read_bytes()
    compare([engine], data, batch_sizes=(), update_passports=False)
    assert passport_path(engine).read_bytes() == before
    onnx.save(tiny_graph(seed=2), engine)
    again = compare([engine], data, batch_sizes=())
    assert any("of another file" in warning for warning in again.warnings)
    assert passport_path(engine).read_bytes() == before


def test_ctrl_c_ends_every_process_and_answers_130(folder, tmp_path):
    """A real SIGINT to a real command line while it measures."""
    script = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "import threading, toolkit.benchmarking.process as process\n"
        "from toolkit.cli import main\n"
        "pids = []\n"
        "made = process.WorkerProcess.__init__\n"
        "def note(self, *args, **kwargs):\n"
        "    made(self, *args, **kwargs); print(self.pid, flush=True)\n"
        "process.WorkerProcess.__init__ = note\n"
        f"main(['bench', {str(folder / 'a.onnx')!r}, {str(folder / 'b.onnx')!r}, '--seconds', '60'])\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    pids = [int(process.stdout.readline()) for _ in range(2)]
    while "Timing" not in (line := process.stderr.readline()):
        assert line, "ended before it began to measure"
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
