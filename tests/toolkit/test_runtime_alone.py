"""What an application embeds works where numpy and one backend are installed and nothing else."""

import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from tests.tiny import tiny_graph

ROOT = Path(__file__).resolve().parent.parent.parent

ALONE = """
import sys

OURS = {{"toolkit", "calibration", "export", "engines"}}
INSTALLED = {installed!r}


class Others:
    def find_spec(self, name, path=None, target=None):
        top = name.split(".")[0]
        if top not in sys.stdlib_module_names and top not in OURS | INSTALLED:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
        return None


# First in line, also for what is installed in this interpreter's environment.
sys.meta_path.insert(0, Others())
"""

BATCHER = """
import asyncio
import numpy as np
import toolkit.runtime
from engines.sessions.fake import FakeSession

sample = np.ones((2,), np.float32)
with FakeSession((2,), 3) as session, toolkit.runtime.Batcher(session) as batcher:
    print(batcher.run(sample)["logits"].shape, asyncio.run(batcher.infer(sample))["logits"].shape)
"""

WITH_A_BACKEND = """
import numpy as np
import toolkit

with toolkit.open_session({path!r}, device="cpu") as session, toolkit.Batcher(session) as batcher:
    print(batcher.run(np.ones((3, 16, 16), np.float32))["logits"].shape)
"""


def run(installed: set[str], code: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", ALONE.format(installed=installed) + code],
        capture_output=True, text=True, check=False, cwd=ROOT, timeout=60,
    )  # fmt: skip


def test_the_runtime_imports_and_answers_with_numpy_alone() -> None:
    done = run({"numpy"}, BATCHER)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "(3,) (3,)\n")


def test_a_graph_runs_with_numpy_and_onnxruntime_alone(tmp_path: Path) -> None:
    path = tmp_path / "tiny.onnx"
    onnx.save(tiny_graph(), path)
    done = run({"numpy", "onnxruntime"}, WITH_A_BACKEND.format(path=str(path)))
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "(5,)\n")


@pytest.mark.parametrize("other", ["torch", "onnx", "click", "rich", "PIL", "prometheus_client", "starlette"])
def test_the_others_are_really_out_of_reach(other: str) -> None:
    done = run({"numpy"}, f"import {other}")
    assert f"ModuleNotFoundError: No module named '{other}'" in done.stderr
