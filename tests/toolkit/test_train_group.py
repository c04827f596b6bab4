"""Training in several processes, over gloo on this machine's CPU."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from engines.errors import InputError
from export.checkpoint import load_checkpoint
from export.models import registry
from export.resume import load_state, resume_path
from export.training import distributed
from tests.export.tiny_net import SPEC
from tests.toolkit.trainings import QUICK, colours
from toolkit.steps.train import train

ROOT = Path(__file__).resolve().parent.parent.parent

PROGRAM = """
import json, os, sys
from export.models import registry
from tests.export.tiny_net import SPEC
from toolkit.cli import main
import toolkit.steps.train as steps
import torch

registry.ARCHITECTURES["tiny"] = SPEC
torch.set_num_threads(1)
saving = steps._Training._save

def told(self, module, *rest):
    from export.state_dicts import digest_state
    with open(f"rank{self.group.rank}.json", "w") as file:
        json.dump([digest_state(dict(module.state_dict())), self.group.world], file)
    return saving(self, module, *rest)

steps._Training._save = told
main(sys.argv[1:])
"""


def command(*arguments: str) -> list[str]:
    numbers = [
        "--architecture",
        "tiny",
        "--batch-size",
        "8",
        "--lr",
        "0.005",
        "--precision",
        "fp32",
        "--dropout",
        "0",
    ]
    options = [*numbers, "--device", "cpu", "--no-curves"]
    return [sys.executable, "-c", PROGRAM, "train", *options, *arguments]


def start(rank: int, folder: Path, port: int, *arguments: str) -> subprocess.Popen[str]:
    """One of two processes as torchrun would start it."""
    place = {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1"}
    return subprocess.Popen(
        command(*arguments), cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=os.environ | place | {"MASTER_PORT": str(port), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


@pytest.fixture
def port() -> int:
    import socket

    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        number: int = one.getsockname()[1]
    return number


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """An odd number of pictures: shares differ, and the last batch is smaller."""
    return colours(tmp_path / "colours.npz", 61, 31)


def test_two_processes_of_torchrun_train_what_one_trains(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(registry.ARCHITECTURES, "tiny", SPEC)  # type: ignore[arg-type]
    run = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
         "--no-python", *command("--data", str(data), "-o", "two.pt", "--epochs", "3", "--json")],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    report = json.loads(run.stdout)
    assert report["processes"] == 2
    assert run.stderr.count("epoch 3: loss") == 1
    ranks = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    assert ranks[0] == ranks[1]

    alone = train(data, tmp_path / "one.pt", **QUICK, dropout=0.0, device="cpu")
    one, two = (load_checkpoint(tmp_path / name).module.state_dict() for name in ("one.pt", "two.pt"))
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-5, atol=1e-6)
    ours = [facts.test_loss for facts in alone.result.history]
    np.testing.assert_allclose([facts["test_loss"] for facts in report["history"]], ours, rtol=1e-5)
    assert report["accuracy"] == alone.result.accuracy
    assert not resume_path(tmp_path / "two.pt").exists()


def test_processes_with_different_data_end_with_the_reason(data: Path, tmp_path: Path, port: int) -> None:
    other = colours(tmp_path / "other.npz", 61, 31, seed=1)
    runs = [
        start(rank, tmp_path, port, "--data", str(path), "-o", "m.pt", "--epochs", "2")
        for rank, path in enumerate((data, other))
    ]
    for rank, run in enumerate(runs):
        _, err = run.communicate(timeout=120)
        assert run.returncode == 2
        lines = err.strip().splitlines()
        who = "process 2 of 2: " if rank else ""
        assert lines[-2:] == [
            f"error: {who}process 2 of 2 has other data or options than process 1",
            "  try: give all the same files, options and version of toolkit",
        ]
    assert not (tmp_path / "m.pt").exists()


def test_when_one_process_is_killed_the_other_says_so_and_when_told_to_stop_all_keep_what_they_have(
    data: Path, tmp_path: Path, port: int
) -> None:
    leading, other = (
        start(rank, tmp_path, port, "--data", str(data), "-o", "m.pt", "--epochs", "100000") for rank in (0, 1)
    )
    _until(leading, "epoch 2:")
    other.kill()
    _, err = leading.communicate(timeout=60)
    assert leading.returncode == 2
    assert "error: another process of this training ended: " in err
    assert "Traceback" not in err
    assert "--resume" in err.splitlines()[-1]
    other.communicate()
    state, _ = load_state(resume_path(tmp_path / "m.pt"))
    assert state.epoch >= 2

    leading, other = (start(rank, tmp_path, port, "-o", "m.pt", "--resume") for rank in (0, 1))
    _until(leading, f"epoch {state.epoch + 2}:")
    for run in (other, leading):  # torchrun tells each
        run.send_signal(signal.SIGTERM)
    _, err = leading.communicate(timeout=60)
    assert leading.returncode == 130
    assert "Go on with: toolkit train --resume -o m.pt" in err
    _, err = other.communicate(timeout=60)
    assert (other.returncode, err) == (130, "")
    assert load_state(resume_path(tmp_path / "m.pt"))[0].epoch > state.epoch


def _until(run: subprocess.Popen[str], text: str) -> None:
    assert run.stderr is not None
    said = ""
    while text not in said:
        line = run.stderr.readline()
        assert line, said
        said += line


@pytest.mark.parametrize(
    ("environment", "group"),
    [
        ({}, distributed.ALONE),
        ({"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}, distributed.ALONE),
        ({"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}, distributed.Group(3, 4, 1)),
    ],
)
def test_the_place_is_read_from_torchruns_environment(
    environment: dict[str, str], group: distributed.Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1", **environment}.items():
        monkeypatch.setenv(name, value)
    assert distributed.current() == group


@pytest.mark.parametrize(("rank", "world"), [("2", "2"), ("-1", "2"), ("one", "2")])
def test_an_environment_that_contradicts_itself_is_refused(
    rank: str, world: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", world)
    with pytest.raises(InputError, match=f"RANK={rank}, WORLD_SIZE={world}") as caught:
        distributed.current()
    assert "torchrun" in caught.value.remedy


@pytest.mark.parametrize(("count", "world"), [(8, 2), (5, 2), (7, 3), (2, 3), (0, 2)])
def test_shares_are_disjoint_together_everything_and_of_equal_size_but_for_a_pair(count: int, world: int) -> None:
    parts = [list(range(count))[distributed.Group(rank, world).share(count)] for rank in range(world)]
    assert [number for part in parts for number in part] == list(range(count))
    assert max(map(len, parts)) - min(map(len, parts)) <= 2


def test_one_device_cannot_be_named_for_several_processes() -> None:
    with pytest.raises(InputError, match="can't share 'cuda:0'"):
        distributed.device_of(distributed.Group(0, 2, 0), "cuda:0")
    assert distributed.device_of(distributed.Group(0, 2, 0), "cpu") == "cpu"
    assert distributed.device_of(distributed.ALONE, "cuda:0") == "cuda:0"
