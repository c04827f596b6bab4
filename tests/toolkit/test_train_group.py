"""Training in several processes, over gloo on this machine's CPU."""

import json
import signal
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
from tests.toolkit.ranks import Process
from tests.toolkit.trainings import QUICK, colours
from toolkit.steps.train import train


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
    run = Process(tmp_path, "--data", str(data), "-o", "two.pt", "--epochs", "3", "--json")
    assert run.wait() == 0, run.err
    report = json.loads(run.out)
    assert report["processes"] == 2
    assert run.err.count("epoch 3: loss") == 1
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
        Process(tmp_path, "--data", str(path), "-o", "m.pt", "--epochs", "2", rank=rank, port=port)
        for rank, path in enumerate((data, other))
    ]
    for rank, run in enumerate(runs):
        assert run.wait() == 2
        lines = run.err.strip().splitlines()
        who = "process 2 of 2: " if rank else ""
        assert lines[-2:] == [
            f"error: {who}process 2 of 2 has other data or options than process 1",
            "  try: give all the same files, options and version of toolkit",
        ]
    assert not (tmp_path / "m.pt").exists()


def test_when_one_process_is_killed_the_other_says_so_and_when_told_to_stop_all_keep_what_they_have(
    data: Path, tmp_path: Path, port: int
) -> None:
    options = ("--data", str(data), "-o", "m.pt", "--epochs", "100000")
    leading, other = (Process(tmp_path, *options, rank=rank, port=port) for rank in (0, 1))
    leading.until("epoch 2:")
    other.send(signal.SIGKILL)
    assert (leading.wait(), other.wait()) == (2, -signal.SIGKILL)
    assert "error: another process of this training ended: " in leading.err
    assert "Traceback" not in leading.err
    assert "--resume" in leading.err.splitlines()[-1]
    state, _ = load_state(resume_path(tmp_path / "m.pt"))
    assert state.epoch >= 2

    leading, other = (Process(tmp_path, "-o", "m.pt", "--resume", rank=rank, port=port) for rank in (0, 1))
    leading.until(f"epoch {state.epoch + 2}:")
    for run in (other, leading):  # torchrun tells each
        run.send(signal.SIGTERM)
    assert leading.wait() == 130
    assert "Go on with: toolkit train --resume -o m.pt" in leading.err
    assert (other.wait(), other.err) == (130, "")
    assert load_state(resume_path(tmp_path / "m.pt"))[0].epoch > state.epoch


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
