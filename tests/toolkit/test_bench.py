import json
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from engines.errors import InputError
from tests.tiny import METADATA, tiny_graph, tiny_images
from tests.toolkit.openers import HERE
from toolkit.benchmarking.messages import Contestant
from toolkit.cli import run
from toolkit.steps.bench import bench


@pytest.fixture(scope="module")
def graph(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("bench") / "tiny.onnx"
    onnx.save(tiny_graph(), path)
    return path


def test_bench_times_one_artifact_at_the_default_batch_sizes_without_data(graph):
    record = bench(graph, seconds=0.06, rounds=3)
    assert (record.data, record.reference) == (None, None)
    row = record.rows[0]
    assert list(row.speeds) == [1, 8, 32]
    assert row.speeds[8].timing.images_per_second > 8
    assert row.accuracy is None
    assert record.command == f"toolkit bench {graph} --seconds 0.06 --rounds 3"


def test_a_batch_size_that_was_asked_for_and_does_not_fit_is_an_error(graph):
    small = Contestant(str(graph), opener=f"{HERE}:fake", options={"max_batch": 4})
    with pytest.raises(InputError, match="batch 8 can't be measured: the engine takes batches up to 4"):
        bench(small, batch_sizes=(4, 8), seconds=0.01, rounds=1)
    defaults = bench(small, seconds=0.01, rounds=1).rows[0]
    assert list(defaults.speeds) == [1]
    assert list(defaults.skipped) == [8, 32]


def test_the_bench_command_prints_one_json_object(graph, capsys):
    assert run(["bench", str(graph), "--batch", "2,3", "--seconds", "0.02", "--rounds", "2", "--json"]) == 0
    shown = capsys.readouterr()
    record = json.loads(shown.out)
    assert [speed["batch"] for speed in record["rows"][0]["speed"]] == [2, 3]
    assert "Timing" in shown.err


def test_the_bench_command_prints_a_table(graph, capsys):
    assert run(["bench", str(graph), "--batch", "2", "--seconds", "0.02", "--rounds", "2", "--threads", "1"]) == 0
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("tiny.onnx", "p50 ms", "p99 ms", "images/s", "Measured on"))


def test_the_compare_command_prints_accuracy_and_speed(graph, tmp_path, capsys):
    import numpy as np

    data = tmp_path / "blobs.npz"
    images, labels = tiny_images(40), np.arange(40) % 5
    names = np.array(METADATA.labels)
    np.savez(data, x_train=images, y_train=labels, x_test=images, y_test=labels, labels=names)
    arguments = ["compare", str(graph), str(graph), "--data", str(data), "--batch", "4", "--seconds", "0.05"]
    arguments += ["--launches", "1"]
    assert run(arguments) == 0
    shown = capsys.readouterr().out
    assert "Accuracy on 40 test images of blobs" in shown
    assert "100.00 %" in shown
    assert run([*arguments, "--json", "--images", "10"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["data"]["images"] == 10
    assert record["rows"][1]["accuracy"]["agreement"]["rate"] == 1.0


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        (["bench", "missing.onnx"], "does not exist"),
        (["bench", "GRAPH", "--batch", "1,x"], "not a list of batch sizes"),
        (["bench", "GRAPH", "--batch", "0"], "not a list of batch sizes"),
        (["bench", "GRAPH", "--seconds", "-1"], "no time to measure"),
        (["bench", "GARBAGE"], "garbage"),
        (["compare", "GRAPH", "--data", "nowhere"], "nowhere"),
        (["compare", "GRAPH"], "--data"),
    ],
)
def test_bad_input_is_one_line_of_cause_and_one_of_remedy(graph, tmp_path, capsys, arguments, cause):
    garbage = tmp_path / "garbage.engine"
    garbage.write_bytes(b"\0" * 100)
    paths = {"GRAPH": str(graph), "GARBAGE": str(garbage)}
    assert run([paths.get(argument, argument) for argument in arguments]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith(("error: ", "  try: "))]
    assert len(lines) == 2
    assert cause in lines[0]


def test_the_commands_help_needs_no_heavy_import():
    script = (
        "import sys; from toolkit.cli import run; code = run(['compare', '--help']) or run(['bench', '--help'])\n"
        "heavy = {'numpy', 'torch', 'onnx', 'onnxruntime', 'PIL', 'rich', 'sklearn'} & set(sys.modules)\n"
        "sys.exit(f'{heavy}' if heavy or code else 0)"
    )
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    assert "--reference" in answer.stdout
