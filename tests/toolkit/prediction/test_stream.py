"""``toolkit predict --out``: any number of pictures into a file, and on from where a run stopped."""

import csv
import json
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet
import pytest

from tests.tiny import METADATA
from tests.toolkit.prediction.conftest import COUNT, DAMAGED
from toolkit.cli import run
from toolkit.loading import load
from toolkit.prediction import stream
from toolkit.prediction.journal import journal_path
from toolkit.prediction.row import COLUMNS

ARGUMENTS = ("predict", "model.onnx", "pictures", "--device", "cpu", "--batch-size", "4", "--top", "2")

PROGRAM = "import sys; from toolkit.cli import main; main(sys.argv[1:])"
SLOW = f"""
import time
from toolkit.runtime.predictor import Predictor
run = Predictor._run
def slow(self, feed):
    time.sleep(0.1)
    return run(self, feed)
Predictor._run = slow
{PROGRAM}
"""
"""A command in which each batch takes long enough for a signal to come between the first and the last."""

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(folder: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    def call(*arguments: str) -> tuple[int, str, str]:
        code = run([*ARGUMENTS, *arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def slowly(folder: Path, out: str) -> "subprocess.Popen[str]":
    """The command in a process of its own, once some batches are done."""
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, *ARGUMENTS, "--out", out], cwd=folder, stderr=subprocess.PIPE, text=True
    )
    journal = journal_path(folder / out)
    end = time.monotonic() + 30
    while not journal.exists() or journal.read_bytes().count(b"\n") < 13:
        assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < end
        time.sleep(0.01)
    return process


def test_every_format_holds_the_same_rows(folder: Path, command: Command) -> None:
    for name in ("r.csv", "r.jsonl", "r.parquet"):
        code, out, err = command("--out", name)
        assert (code, out) == (2, f"{name}: {COUNT} pictures\n")
        assert f"2 of {COUNT} pictures could not be read" in err
        assert not journal_path(Path(name)).exists()
    lines = [json.loads(line) for line in Path("r.jsonl").read_text().splitlines()]
    assert pyarrow.parquet.read_table("r.parquet").to_pylist() == lines
    with Path("r.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert tuple(table[0]) == tuple(lines[0]) == COLUMNS
    for cells, line in zip(table, lines, strict=True):
        assert cells == {
            name: "" if value in (None, []) else json.dumps(value) if name == "top" else str(value)
            for name, value in line.items()
        }
    # And they are what the predictor says, picture by picture.
    files = sorted(path for path in Path("pictures").rglob("*.png"))
    assert [line["file"] for line in lines] == [str(path) for path in files]
    assert [n for n, line in enumerate(lines) if line["error"]] == list(DAMAGED)
    assert all("as an image" in lines[n]["error"] for n in DAMAGED)
    good = [n for n in range(COUNT) if n not in DAMAGED]
    with load("model.onnx", device="cpu") as predictor:
        answers = predictor.classify([files[n] for n in good], top=2)
    for n, answer in zip(good, answers, strict=True):
        assert (lines[n]["label"], lines[n]["index"]) == (answer.label, answer.index)
        assert METADATA.labels[lines[n]["index"]] == lines[n]["label"]
        assert lines[n]["probability"] == pytest.approx(answer.probability, rel=1e-5)
        assert [one["index"] for one in lines[n]["top"]] == [candidate.index for candidate in answer.top]


@pytest.mark.parametrize("name", ["r.csv", "r.parquet"])
def test_what_kill_9_interrupted_goes_on_to_the_same_bytes(folder: Path, command: Command, name: str) -> None:
    assert command("--out", f"whole{Path(name).suffix}")[0] == 2
    process = slowly(folder, name)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not Path(name).exists()
    with journal_path(Path(name)).open("ab") as file:
        file.write(b'{"file":"torn')
    code, out, err = command("--out", name, "--json")
    value = json.loads(out)
    assert code == 2
    assert value | {"seconds": 0} == {
        "model": "model.onnx", "output": name, "pictures": COUNT, "failed": 2, "resumed": value["resumed"],
        "seconds": 0,
    }  # fmt: skip
    assert 12 <= value["resumed"] < COUNT
    assert value["resumed"] % 4 == 0
    assert f"Going on after {value['resumed']} pictures" in err
    assert Path(name).read_bytes() == Path(f"whole{Path(name).suffix}").read_bytes()
    assert not journal_path(Path(name)).exists()


def test_ctrl_c_says_how_to_go_on(folder: Path, command: Command) -> None:
    process = slowly(folder, "r.csv")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    last = err.strip().splitlines()[-1]
    found = re.fullmatch(r"interrupted: (\d+) pictures are done, and the same command goes on from there", last)
    assert found, err
    assert f"Going on after {int(found[1]) // 4 * 4} pictures" in command("--out", "r.csv")[2]


def test_another_model_or_option_is_refused_and_the_work_stays(folder: Path, command: Command) -> None:
    process = slowly(folder, "r.csv")
    process.kill()
    process.communicate()
    before = journal_path(Path("r.csv")).read_bytes()
    for arguments, said in ((("--top", "3"), "--top 2, not 3"), (("--batch-size", "8"), "--batch-size 4, not 8")):
        code, out, err = command("--out", "r.csv", *arguments)
        assert (code, out) == (2, "")
        assert [line.split()[0] for line in err.strip().splitlines()] == ["error:", "try:"]
        assert f"'r.csv.partial' was begun with {said}" in err
    Path("pictures/early/000.png").write_bytes(b"a new one")
    assert "aren't those that 'r.csv.partial' was begun with" in command("--out", "r.csv")[2]
    assert journal_path(Path("r.csv")).read_bytes() == before


def test_a_full_disk_is_told_in_two_lines_and_the_same_command_goes_on(folder: Path, command: Command) -> None:
    assert command("--out", "whole.jsonl")[0] == 2

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))

    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *ARGUMENTS, "--out", "r.jsonl"],
        cwd=folder, capture_output=True, text=True, preexec_fn=limit, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    cause, remedy = done.stderr.strip().splitlines()[-2:]
    assert cause.startswith("error: can't write 'r.jsonl.partial': File too large")
    assert "repeat the command: it goes on where it stopped" in remedy
    assert "Traceback" not in done.stderr
    assert sorted(path.name for path in folder.iterdir() if path.name.startswith(("r.", ".r"))) == ["r.jsonl.partial"]
    assert "Going on after" in command("--out", "r.jsonl")[2]
    assert Path("r.jsonl").read_bytes() == Path("whole.jsonl").read_bytes()


def test_an_output_that_cannot_be_made_is_refused_before_any_work(folder: Path, command: Command) -> None:
    Path("there.csv").write_text("mine")
    Path("folder.csv").mkdir()
    for name, said in (
        ("there.csv", "'there.csv' exists"), ("folder.csv", "is a folder"), ("none/r.csv", "does not exist"),
        ("r.txt", "*.csv, *.jsonl, *.parquet"), ("r", "doesn't say in which format"),
    ):  # fmt: skip
        code, out, err = command("--out", name)
        assert (code, out) == (2, "")
        assert said in err
        assert len(err.strip().splitlines()) == 2
    assert Path("there.csv").read_text() == "mine"
    assert command("--out", "there.csv", "--force")[0] == 2
    assert Path("there.csv").read_text().startswith("file,label,")
    assert not list(folder.glob("*.partial"))


def test_a_run_that_does_nothing_leaves_nothing(folder: Path, command: Command) -> None:
    Path("model.onnx").write_bytes(b"garbage")
    assert command("--out", "r.csv")[0] == 2
    assert not list(folder.glob("r.csv*"))


def test_names_of_any_bytes_come_through(folder: Path, command: Command) -> None:
    picture = Path("pictures/early/00.png").read_bytes()
    for path in Path("pictures").rglob("*.png"):
        path.unlink()
    odd = [b'pictures/a,"b".png', b"pictures/c\nd.png", b"pictures/\xff\xfe.png", "pictures/ü.png".encode()]
    for name in odd:
        Path(name.decode("utf-8", "surrogateescape")).write_bytes(picture)
    assert command("--out", "r.csv")[0] == command("--out", "r.parquet")[0] == command("--out", "r.jsonl")[0] == 0
    shown = sorted(name.decode("utf-8", "backslashreplace") for name in odd)
    with Path("r.csv").open(newline="") as file:
        assert sorted(cells["file"] for cells in csv.DictReader(file)) == shown
    assert sorted(json.loads(line)["file"] for line in Path("r.jsonl").read_bytes().split(b"\n")[:-1]) == shown
    assert sorted(pyarrow.parquet.read_table("r.parquet")["file"].to_pylist()) == shown


def test_pictures_come_from_a_list_and_from_stdin(folder: Path, command: Command) -> None:
    wanted = ["pictures/late/50.png", "pictures/early/03.png", "pictures/none.png"]
    Path("list.txt").write_text("\n".join(wanted) + "\n\n")
    assert run(["predict", "model.onnx", "--files", "list.txt", "--device", "cpu", "--out", "r.jsonl"]) == 2
    lines = [json.loads(line) for line in Path("r.jsonl").read_text().splitlines()]
    assert [line["file"] for line in lines] == wanted
    assert "no such file" in lines[2]["error"]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *ARGUMENTS[:2], "--files", "-", *ARGUMENTS[3:], "--out", "s.jsonl"],
        input="\n".join(wanted[:2]), cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["file"] for line in Path("s.jsonl").read_text().splitlines()] == wanted[:2]
    for arguments in (["--files", "none.txt"], []):
        assert run(["predict", "model.onnx", *arguments]) == 2


def test_it_holds_no_more_than_a_few_batches_of_any_number_of_pictures(folder: Path) -> None:
    taken = 0

    def files() -> "object":
        nonlocal taken
        for _ in range(5000):
            taken += 1
            yield "pictures/early/00.png"

    with load("model.onnx", device="cpu", batch_size=8) as predictor:
        most, done = 0, 0
        for rows in stream.rows_of_predictor(predictor, 1)(files()):  # type: ignore[arg-type]
            done += len(rows)
            most = max(most, taken - done)
            if done >= 2000:
                break
    assert most <= 4 * 8 + 2 * 4
