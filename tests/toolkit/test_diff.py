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

import toolkit
from engines.errors import DataError, InputError
from engines.sessions import open_session
from tests.tiny import METADATA, tiny_images
from tests.toolkit.gate.junits import parsed
from tests.toolkit.gate.networks import IMAGES, archive, batch, built, halved, pictures
from tests.toolkit.openers import HERE
from toolkit.benchmarking.messages import Contestant
from toolkit.cli import run
from toolkit.gate.limits import GATES
from toolkit.steps.diff import diff, keep_baseline

QUICK = {"batch_sizes": (1, 4), "seconds": 0.05, "rounds": 8, "launches": 2}
UNTIMED = {"skip": ("latency", "throughput", "memory")}
LEAVE_TIMES_OUT = [word for name in UNTIMED["skip"] for word in ("--skip", name)]


def fake(name: str, **options: float) -> Contestant:
    """A session without a library, which opens at once."""
    return Contestant(__file__, name=name, opener=f"{HERE}:fake", options=options)


def predict(path: Path) -> np.ndarray:
    with open_session(path, device="cpu") as session:
        return session.run({"input": batch(tiny_images(IMAGES, seed=5))})["logits"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The network built, the same built once more, and one with a layer's scale halved; and the pictures."""
    folder = tmp_path_factory.mktemp("diff")
    old, new = built(folder, "old"), built(folder, "new")
    onnx.save(halved(old, "relu2.scale"), folder / "halved.onnx")
    for name, path in (("old.onnx", old), ("new.onnx", new)):
        path.rename(folder / name)
    answers = predict(folder / "old.onnx").argmax(axis=1)
    wrong = np.random.default_rng(0).random(IMAGES) > 0.8
    archive(pictures(np.where(wrong, (answers + 1) % 5, answers)), folder / "pictures.npz")
    return folder


@pytest.fixture(scope="module")
def data(folder) -> Path:
    return folder / "pictures.npz"


@pytest.fixture(scope="module")
def rebuilt(folder, data):
    return diff(folder / "old.onnx", folder / "new.onnx", data, **QUICK)


@pytest.fixture(scope="module")
def broken(folder, data):
    return diff(folder / "old.onnx", folder / "halved.onnx", data, **UNTIMED)


@pytest.fixture
def ran(capsys):
    """Runs ``toolkit diff``; gives its exit code, standard output and standard error."""

    def call(*arguments: object) -> tuple[int, str, str]:
        code = run(["diff", *map(str, arguments)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def test_a_rebuild_of_the_same_graph_passes(rebuilt):
    assert (rebuilt.old.row.digest == rebuilt.new.row.digest) or rebuilt.gate("logits").value < 1
    judged = {gate.name: gate.status for gate in rebuilt.gates if gate.name not in {"latency", "throughput"}}
    assert judged == dict.fromkeys(judged, "passed")
    assert tuple(gate.name for gate in rebuilt.gates) == GATES
    assert rebuilt.gate("latency").value is not None
    assert rebuilt.data.images == IMAGES
    assert toolkit.diff is diff


def test_its_accuracy_is_what_an_independent_computation_says(rebuilt, folder):
    answers = predict(folder / "old.onnx").argmax(axis=1)
    with np.load(folder / "pictures.npz") as file:
        truth = np.array([METADATA.labels.index(name) for name in file["y_test"]])
    assert rebuilt.old.accuracy.top1.count == int((answers == truth).sum())


def test_its_json_is_one_object_with_a_version(rebuilt):
    value = json.loads(json.dumps(rebuilt.to_json(), allow_nan=False))
    assert (value["format"], value["version"]) == ("onnx-tensorrt-toolkit/diff", 1)
    assert value["passed"] is rebuilt.passed
    assert [gate["name"] for gate in value["gates"]] == list(GATES)
    assert set(value["gates"][0]) == {"name", "status", "text", "value", "limit", "interval", "unit", "details"}
    assert value["old"]["digest"].startswith("sha256:")


def test_a_halved_scale_is_stopped_by_the_logits_and_the_command_says_so(ran, folder, data, tmp_path):
    code, out, err = ran(
        folder / "old.onnx", folder / "halved.onnx", "--data", data, *LEAVE_TIMES_OUT, "--max-flips", 100,
        "--junit", tmp_path / "report.xml",
    )  # fmt: skip
    assert code == 1
    error, remedy = err.splitlines()[-2:]
    assert error.startswith("error: 'halved.onnx' is stopped by logits: ")
    assert remedy == "  try: where that is meant, raise --max-distance or leave it out with --skip logits"
    rows = dict(line.split()[:2] for line in out.splitlines()[2:] if len(line.split()) > 2)
    assert rows["logits"] == "failed"
    assert rows["tensors"] == rows["size"] == rows["precision"] == "passed"
    assert "failed: halved.onnx may not take the place of old.onnx" in out
    assert all(line == line.encode("utf-8").decode() and "\x1b" not in line for line in out.splitlines())

    moved = predict(folder / "halved.onnx").argmax(axis=1) != predict(folder / "old.onnx").argmax(axis=1)
    assert moved.sum() > 0
    assert f"{moved.sum()} of {IMAGES} images changed the top-1 class" in out

    suite = parsed((tmp_path / "report.xml").read_bytes()).find("testsuite")
    assert (suite.get("tests"), suite.get("errors")) == (str(len(GATES) - 3), "0")
    failures = {case.get("name"): case.find("failure") for case in suite.iter("testcase")}
    assert failures["logits"].get("message").startswith("moved by")
    assert failures["tensors"] is None
    assert suite.get("failures") == str(sum(failure is not None for failure in failures.values()))


def test_the_worst_flips_are_listed_with_what_both_said(broken, folder):
    found = broken
    old, new = (predict(folder / name) for name in ("old.onnx", "halved.onnx"))
    assert found.flips
    for flip in found.flips:
        assert flip.reference == METADATA.labels[old[flip.image].argmax()]
        assert flip.answer == METADATA.labels[new[flip.image].argmax()]
    assert [flip.margin for flip in found.flips] == sorted((flip.margin for flip in found.flips), reverse=True)


def test_an_engine_that_slows_down_is_stopped(data):
    found = diff(fake("fast", delay=0.001), fake("slow", delay=0.03), data, only=("latency",), **QUICK)
    assert [gate.name for gate in found.broken] == ["latency"]
    assert found.gate("latency").interval[0] > 5
    assert "more time" in found.what_broke()


def test_one_that_dies_is_a_finding(data):
    doomed = Contestant(__file__, name="doomed", opener=f"{HERE}:doomed", options={"way": "kill", "at": 3})
    found = diff(fake("old"), doomed, data, **UNTIMED)
    assert [gate.name for gate in found.broken] == ["run"]
    assert "killed by SIGKILL" in found.what_broke()
    assert json.dumps(found.to_json(), allow_nan=False)


def test_one_that_answers_nan_is_a_finding(data):
    overflowing = Contestant(__file__, name="nan", opener=f"{HERE}:overflowing")
    found = diff(fake("old"), overflowing, data, only=("non-finite", "logits"))
    assert found.gate("non-finite").value > IMAGES / 4
    assert json.dumps(found.to_json(), allow_nan=False)


def test_a_baseline_stands_for_an_engine_that_is_gone(ran, broken, folder, data, tmp_path):
    kept = tmp_path / "old.baseline.npz"
    quick = ["--batch", "1,4", "--seconds", "0.05", "--rounds", "8"]
    code, out, _ = ran(folder / "old.onnx", "--data", data, "--baseline", kept, *quick)
    assert code == 0
    assert f"toolkit diff {kept} NEW --data {data}" in out
    assert (np.load(kept, allow_pickle=False)["logits"].shape) == (IMAGES, 5)

    code, out, _ = ran(kept, folder / "new.onnx", "--data", data, *quick, "--json", "--skip", "latency")
    value = json.loads(out)
    assert (code, value["broken"]) == (0, [])
    status = {gate["name"]: gate["status"] for gate in value["gates"]}
    assert status["logits"] == status["flips"] == status["precision"] == "passed"
    assert status["throughput"] in {"passed", "undecided"}
    assert "not in turns with the baseline" in next(g["text"] for g in value["gates"] if g["name"] == "throughput")
    assert value["old"]["baseline"] == str(kept)

    later = diff(kept, folder / "halved.onnx", data, **UNTIMED)
    assert [gate.to_json() for gate in later.gates] == [gate.to_json() for gate in broken.gates]


@pytest.fixture(scope="module")
def kept(folder, data, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("kept") / "old.npz"
    keep_baseline(folder / "old.onnx", data, path, images=40, **QUICK)
    return path


def test_other_data_than_the_baselines_is_refused(kept, folder, data, tmp_path):
    with np.load(data) as file:
        arrays = dict(file)
    arrays["x_test"] = arrays["x_test"].copy()
    arrays["x_test"][:, 0, 0, 0] ^= 1
    np.savez(tmp_path / "touched.npz", **arrays)
    with pytest.raises(DataError, match=r"answered on other pictures: they differ between the 1\. and the 32"):
        diff(kept, folder / "new.onnx", tmp_path / "touched.npz", **UNTIMED)
    arrays["y_test"] = np.roll(arrays["y_test"], 1)
    np.savez(tmp_path / "relabelled.npz", **arrays)
    with pytest.raises(DataError, match="its classes or labels differ"):
        diff(kept, folder / "new.onnx", tmp_path / "relabelled.npz", **UNTIMED)


def test_a_baseline_decides_which_images(kept, folder, data):
    assert diff(kept, folder / "new.onnx", data, only=("flips",)).data.images == 40
    with pytest.raises(InputError, match="written with --images 40, not 50"):
        diff(kept, folder / "new.onnx", data, images=50)


def test_a_baseline_of_something_else_is_not_replaced(kept, folder, data):
    before = kept.read_bytes()
    with pytest.raises(InputError, match="was not made from this source"):
        keep_baseline(folder / "halved.onnx", data, kept)
    (kept.parent / "foreign.npz").write_bytes(b"somebody's")
    with pytest.raises(InputError, match="was not made from this source"):
        keep_baseline(folder / "halved.onnx", data, kept.parent / "foreign.npz")
    assert kept.read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        (["old.onnx", "--data", "pictures.npz"], "there is no new artifact"),
        (["old.onnx", "new.onnx", "--data", "pictures.npz", "--baseline", "x.npz"], "--baseline keeps"),
        (["old.onnx", "--data", "pictures.npz", "--baseline", "x.bin"], "another suffix than .npz"),
        (["old.onnx", "pictures.npz", "--data", "pictures.npz"], "is a baseline, which doesn't run"),
        (["pictures.npz", "new.onnx", "--data", "pictures.npz"], "is an archive but no baseline"),
        (["none.npz", "new.onnx", "--data", "pictures.npz"], "'none.npz' does not exist"),
        (["old.onnx", "none.onnx", "--data", "pictures.npz"], "'none.onnx' does not exist"),
        (["old.onnx", "new.onnx", "--data", "none"], "data set 'none' does not exist"),
        (["old.onnx", "new.onnx", "--data", "pictures.npz", "--only", "size", "--skip", "size"], "no gate is left"),
        (["old.onnx", "new.onnx", "--data", "pictures.npz", "--junit", "none/x.xml"], "'none' does not exist"),
        (["old.onnx", "new.onnx", "--data", "pictures.npz", "--max-drop", "nan"], "--max-drop nan makes no sense"),
        (["old.onnx", "new.onnx", "--data", "pictures.npz", "--seconds", "0"], "there is no time to measure in"),
        (["old.onnx", "--data", "pictures.npz", "--baseline", "x.npz", "--max-flips", "1"], "--max-flips would do"),
        (["old.onnx", "--data", "pictures.npz", "--baseline", "x.npz", "--junit", "x.xml"], "--junit would do"),
        (["old.onnx", "new.onnx", "--data", "pictures.npz", "--batch", "sweep"], "'sweep' is not a list of"),
        (["old.onnx", "new.onnx", "--data", "pictures.npz", "--force"], "--force would do nothing"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_of_cause_and_one_of_remedy(ran, folder, monkeypatch, arguments, cause):
    monkeypatch.chdir(folder)
    code, out, err = ran(*arguments)
    assert (code, out) == (2, "")
    assert cause in err
    assert err.splitlines()[-1].startswith("  try: ")


def test_few_images_are_warned_of(folder, data):
    old = folder / "old.onnx"
    few = toolkit.diff(old, old, data, images=16, only=["flips"])
    assert any("16 images are few: up to 19 %" in line for line in few.warnings)
    assert not any("few" in line for line in toolkit.diff(old, old, data, only=["flips"]).warnings)


def test_the_old_one_that_cannot_run_here_is_answered_with_a_baseline(folder, data):
    with pytest.raises(Exception, match="for another GPU") as caught:
        diff(Contestant(__file__, opener=f"{HERE}:refusing"), folder / "new.onnx", data)
    assert "--baseline" in caught.value.remedy


def test_an_undecided_gate_lets_pass_unless_strict(data):
    options = {"batch_sizes": (1,), "seconds": 0.02, "rounds": 1, "launches": 1, "only": ("latency",)}
    loose = diff(fake("old"), fake("new"), data, images=4, **options)
    strict = replace(loose, strict=True)
    assert [found.gate("latency").status for found in (loose, strict)] == ["undecided"] * 2
    assert (loose.passed, strict.passed) == (True, False)
    assert "more --seconds" in strict.remedy()


def test_ctrl_c_leaves_no_process_and_no_file(folder, data, tmp_path):
    command = [
        "toolkit",
        "diff",
        str(folder / "old.onnx"),
        "--data",
        str(data),
        "--baseline",
        "kept.npz",
        "--seconds",
        "60",
    ]
    boot = f"import sys; sys.argv = {command!r}; from toolkit.cli import main; main()"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    with subprocess.Popen(
        [sys.executable, "-c", boot], cwd=tmp_path, stderr=subprocess.PIPE, env=environment
    ) as process:
        next(line for line in process.stderr if line.startswith(b"Timing"))
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        assert process.wait(timeout=20) == 130
    assert b"interrupted" in rest
    assert list(tmp_path.iterdir()) == []


def test_its_command_repeats_it(rebuilt, folder, data):
    two = f"{folder / 'old.onnx'} {folder / 'new.onnx'}"
    assert rebuilt.command == f"toolkit diff {two} --data {data} --batch 1,4 --seconds 0.05 --rounds 8"
