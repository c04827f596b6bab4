"""A calibration that is interrupted, by Ctrl-C or a full disk: nothing half-written, and the same command goes on."""

import errno
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from calibration.partial import Partial
from engines import files
from export.graph import save_graph
from tests.tiny import METADATA, tiny_graph, tiny_images
from tests.toolkit.refusals import Refusal
from toolkit.cli import run

PROGRAM = "import sys; from toolkit.cli import main; main(sys.argv[1:])"
SLOW = f"""
import time
from calibration.collect import TappedGraph
run = TappedGraph.run
def slow(self, batch):
    time.sleep(0.02)
    return run(self, batch)
TappedGraph.run = slow
{PROGRAM}
"""
"""A command in which each batch takes long enough for a signal to come between the first and the last."""

CALIBRATE = ("calibrate", "model.onnx", "--data", "data.npz", "--images", "200", "--batch-size", "1")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """``model.onnx`` and ``data.npz`` in the current folder."""
    monkeypatch.chdir(tmp_path)
    images, names = tiny_images(220), np.array(METADATA.labels)
    labels = names[np.arange(220) % len(names)]
    np.savez(
        "data.npz",
        x_train=images[:200], y_train=labels[:200], x_test=images[200:], y_test=labels[200:], label_names=names,
    )  # fmt: skip
    save_graph(tiny_graph(), tmp_path / "model.onnx")
    return tmp_path


def interrupted(folder: Path, task: str) -> str:
    """Start the command, send SIGINT when ``task`` has begun; what it printed."""
    with subprocess.Popen(
        [sys.executable, "-c", SLOW, *CALIBRATE], cwd=folder, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        while task not in (line := process.stderr.readline()):
            assert line
        process.send_signal(signal.SIGINT)
        printed = process.stderr.read()
    assert process.returncode == 130, printed
    assert "Traceback" not in printed
    return printed


def test_after_ctrl_c_the_same_command_goes_on_and_gives_the_same_table(folder: Path) -> None:
    assert run([*CALIBRATE, "-o", "whole.json"]) == 0
    printed = interrupted(folder, "calibrating")
    left = {path.name for path in folder.iterdir()} - {"model.onnx", "data.npz", "whole.json"}
    if match := re.search(r"(\d+) images are counted, and the same command goes on from there", printed):
        assert 0 < int(match[1]) < 200
        assert left == {"model.calibration.json.partial"}
    else:  # the signal came before the first batch
        assert "nothing half-written" in printed
        assert left == set()
    assert run(list(CALIBRATE)) == 0
    assert (folder / "model.calibration.json").read_bytes() == (folder / "whole.json").read_bytes()
    assert not (folder / "model.calibration.json.partial").exists()


@pytest.mark.parametrize("content", [b"", b"my notes", b"sha256:00\n{}\n", b"\xff\xfe\n\x00"])
def test_a_damaged_partial_result_counts_as_none(content: bytes, folder: Path) -> None:
    assert run([*CALIBRATE, "-o", "whole.json"]) == 0
    partial = folder / "model.calibration.json.partial"
    partial.write_bytes(content)
    assert run(list(CALIBRATE)) == 0
    assert (folder / "model.calibration.json").read_bytes() == (folder / "whole.json").read_bytes()
    assert not partial.exists()


def test_a_folder_where_the_partial_result_belongs(refused: Refusal, folder: Path) -> None:
    (folder / "model.calibration.json.partial").mkdir()
    assert "model.calibration.json.partial" in refused(*CALIBRATE)


@pytest.mark.parametrize("due", [True, False])
def test_a_full_disk_is_one_error_and_leaves_nothing(
    due: bool, refused: Refusal, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        if os.fstat(descriptor).st_ino in {path.stat().st_ino for path in folder.iterdir()}:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "fsync", full)
    monkeypatch.setattr(Partial, "due", due)  # due: the partial result is what fills the disk, else the table
    printed = refused(*CALIBRATE)
    assert "No space left on device" in printed
    assert (".partial'" in printed) == due
