"""``toolkit predict --ray`` on a cluster of its own and on one that runs: the rows of a run without Ray."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.toolkit.prediction.test_stream import ARGUMENTS, PROGRAM
from toolkit.cli import run

pytest.importorskip("ray")

WITHIN = """
import os, subprocess, sys
from dataclasses import replace
import ray
from engines.errors import InputError
from toolkit.cli import run
from toolkit.prediction import ray_data
from toolkit.prediction.cluster import Cluster
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
ray.init(address="local", num_cpus=3, object_store_memory=128 << 20, include_dashboard=False, log_to_driver=False)

# From another process, by its address.
address = ray.get_runtime_context().gcs_address
program = "import sys; from toolkit.cli import main; main(sys.argv[1:])"
command = [sys.executable, "-c", program, *sys.argv[1:], "--out", "address.jsonl", "--ray-address", address]
print("by address", subprocess.run(command, check=False).returncode)

# From this one, which is in it; Ray is told of the pictures in two parts.
ray_data.BLOCK, ray_data.WINDOW = 8, 32
print("joined", run([*sys.argv[1:], "--out", "joined.jsonl", "--ray"]))
print("bad model", run(["predict", "bad.onnx", "pictures", "--out", "bad.jsonl", "--ray"]))

# An actor that finds another model than the first task did.
cluster, model = Cluster(), ray_data.Model("model.onnx", 2, device="cpu", batch_size=4)
with ray_data.rows_on(cluster, model) as (identity, _):
    try:
        list(ray_data._rows(ray, cluster, model, replace(identity, model="another"), iter(["pictures/early/00.png"])))
    except InputError as error:
        print("told:", error.cause)
print("still there", ray.is_initialized())
"""


def test_a_cluster_of_its_own_gives_the_same_bytes_and_leaves_nothing(folder: Path) -> None:
    assert run([*ARGUMENTS, "--out", "plain.csv"]) == 2
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *ARGUMENTS, "--out", "ray.csv", "--ray", "--ray-actors", "2"],
        capture_output=True, text=True, check=False, env={**os.environ, "RAY_ADDRESS": ""},
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert done.stdout == "ray.csv: 60 pictures\n"
    assert re.fullmatch(
        r"Classifying \.\.\.\n(Classifying: .*left\n)*Classifying: \S+ s\n2 of 60 pictures could not be read.*\n",
        done.stderr,
    ), done.stderr
    assert Path("ray.csv").read_bytes() == Path("plain.csv").read_bytes()
    assert not list(folder.glob("*.partial"))


def test_a_cluster_that_runs_is_used_and_its_errors_are_told_as_ours(folder: Path) -> None:
    assert run([*ARGUMENTS, "--out", "plain.jsonl"]) == 2
    Path("bad.onnx").write_bytes(b"garbage")
    done = subprocess.run(
        [sys.executable, "-c", WITHIN, *ARGUMENTS], capture_output=True, text=True, check=False
    )  # fmt: skip
    assert [line for line in done.stdout.splitlines() if "pictures" not in line] == [
        "by address 2", "joined 2", "bad model 2", "told: 'model.onnx' is not the same on every node of the cluster",
        "still there True",
    ], done.stderr  # fmt: skip
    assert Path("address.jsonl").read_bytes() == Path("plain.jsonl").read_bytes()
    assert Path("joined.jsonl").read_bytes() == Path("plain.jsonl").read_bytes()
    assert "error: " in done.stderr
    assert "'bad.onnx'" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(folder.glob("bad.jsonl*"))


def test_ray_needs_an_output_and_an_address_that_answers(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*ARGUMENTS, "--ray"]) == 2
    assert "--ray and --force need --out" in capsys.readouterr().err
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *ARGUMENTS, "--out", "r.csv", "--ray-address", "nonsense"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "can't join the Ray cluster at 'nonsense'" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(folder.glob("r.csv*"))
