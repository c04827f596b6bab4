import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engines.errors import CheckpointError, DataError, InputError, UnsupportedError
from export.checkpoint import load_checkpoint
from export.evaluation import evaluate
from export.models import registry
from export.resume import load_state, resume_path
from export.training import EpochFacts, TrainingInterrupted, loop
from tests.export.tiny_net import SPEC
from toolkit.cli import run
from toolkit.data import open_dataset, pixel_batches
from toolkit.steps.train import train

QUICK: dict[str, Any] = {
    "architecture": "tiny",
    "epochs": 3,
    "batch_size": 8,
    "learning_rate": 5e-3,
    "precision": "fp32",
}


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # tiny operations gain nothing from more, and lose much on a busy machine
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def tiny_in_the_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.ARCHITECTURES, "tiny", SPEC)  # type: ignore[arg-type]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three kinds of noisy colour pictures, 60 to train on and 30 to test."""
    rng = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {}
    for split, count in (("train", 60), ("test", 30)):
        labels = np.arange(count) % 3
        pixels = rng.integers(0, 120, (count, 16, 16, 3))
        pixels[np.arange(count), :, :, labels] += 60
        arrays |= {f"x_{split}": pixels.astype(np.uint8), f"y_{split}": labels}
    np.savez(tmp_path / "colours.npz", **arrays)
    return tmp_path / "colours.npz"


def test_the_checkpoint_carries_all_that_travels_with_a_model(data: Path, tmp_path: Path) -> None:
    report = train(data, tmp_path / "m.pt", **QUICK)
    checkpoint = load_checkpoint(tmp_path / "m.pt")
    dataset = open_dataset(data)
    assert checkpoint.metadata == report.metadata
    assert checkpoint.metadata.labels == dataset.labels
    assert checkpoint.metadata.architecture == "tiny"
    assert (checkpoint.metadata.preprocess.height, checkpoint.metadata.preprocess.mean) == (16, (0.5, 0.5, 0.5))
    assert checkpoint.metadata.origin["accuracy"] == f"{report.result.accuracy:.6f}"
    assert checkpoint.training is not None
    assert checkpoint.training["recipe"]["epochs"] == len(checkpoint.training["history"]) == 3
    assert not resume_path(tmp_path / "m.pt").exists()
    json.dumps(report.to_json())


def test_the_reported_accuracy_is_that_of_the_saved_checkpoint(data: Path, tmp_path: Path) -> None:
    report = train(data, tmp_path / "m.pt", **QUICK)
    checkpoint = load_checkpoint(tmp_path / "m.pt")
    test = open_dataset(data).test
    _, accuracy = evaluate(
        checkpoint.module, pixel_batches(test, checkpoint.metadata.preprocess, 7), checkpoint.metadata.preprocess
    )
    assert report.result.accuracy == accuracy >= 0.9
    assert f"{100 * accuracy:.2f} % of 30 test images right" in report.summary()


def test_the_same_seed_gives_the_same_checkpoint(data: Path, tmp_path: Path) -> None:
    digests = [
        train(data, tmp_path / f"{name}.pt", seed=seed, **QUICK).metadata.origin["weights"]
        for name, seed in (("a", 5), ("b", 5), ("c", 6))
    ]
    assert digests[0] == digests[1] != digests[2]


def stop_at(epoch: int) -> Any:
    def stop(facts: EpochFacts) -> None:
        if facts.epoch == epoch:
            raise KeyboardInterrupt

    return stop


def test_an_interrupted_training_resumes_to_the_very_same_weights(data: Path, tmp_path: Path) -> None:
    whole = train(data, tmp_path / "whole.pt", **QUICK)
    output = tmp_path / "m.pt"
    with pytest.raises(TrainingInterrupted):
        train(data, output, on_epoch=stop_at(2), **QUICK)
    assert load_checkpoint(output).training["best_epoch"] <= 2  # type: ignore[index]
    with pytest.raises(InputError, match="unfinished training") as caught:
        train(data, output, **QUICK)
    assert "--resume" in caught.value.remedy
    with pytest.raises(InputError, match=r"has learning rate 0\.005, not 0\.1"):
        train(output=output, resume=True, learning_rate=0.1)
    with pytest.raises(InputError, match="has seed by default, not 3"):
        train(output=output, resume=True, seed=3)
    resumed = train(output=output, resume=True)
    assert resumed.metadata == whole.metadata
    assert len(resumed.result.history) == 3
    assert not resume_path(output).exists()


def test_options_may_be_repeated_when_resuming(data: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingInterrupted):
        train(data, tmp_path / "m.pt", on_epoch=stop_at(1), input_size=16, **QUICK)
    report = train(data, tmp_path / "m.pt", resume=True, seed=None, input_size=(16, 16), **QUICK)
    assert report.recipe.learning_rate == 5e-3


def test_data_that_changed_since_the_interruption_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingInterrupted):
        train(data, tmp_path / "m.pt", on_epoch=stop_at(1), **QUICK)
    arrays = dict(np.load(data))
    arrays["x_train"][0, 0, 0, 0] ^= 1
    np.savez(data, **arrays)
    with pytest.raises(DataError, match="not what the training began with"):
        train(output=tmp_path / "m.pt", resume=True)


def test_nothing_to_resume_is_said(data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no unfinished training"):
        train(data, tmp_path / "m.pt", resume=True, **QUICK)


def test_a_training_that_cannot_be_resumed_leaves_no_state(data: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingInterrupted):
        train(data, tmp_path / "m.pt", on_epoch=stop_at(2), resumable=False, **QUICK)
    assert not resume_path(tmp_path / "m.pt").exists()
    assert load_checkpoint(tmp_path / "m.pt").metadata.architecture == "tiny"


def test_only_the_same_training_replaces_its_output_without_force(data: Path, tmp_path: Path) -> None:
    output = tmp_path / "m.pt"
    first = train(data, output, **QUICK)
    assert train(data, output, **QUICK).metadata == first.metadata
    with pytest.raises(InputError, match="exists") as caught:
        train(data, output, seed=1, **QUICK)
    assert "--force" in caught.value.remedy
    assert load_checkpoint(output).digest == first.metadata.origin["weights"]
    assert train(data, output, seed=1, force=True, **QUICK).metadata != first.metadata


def test_what_cannot_work_is_refused_before_any_training(data: Path, tmp_path: Path) -> None:
    cases: list[tuple[type[Exception], str, dict[str, Any]]] = [
        (CheckpointError, "doesn't take 3×15×90 images", {"input_size": (15, 90)}),
        (InputError, "no architecture 'tinny'", {"architecture": "tinny"}),
        (InputError, "0 epochs", {"epochs": 0}),
        (UnsupportedError, "no device 'tpu5'", {"device": "tpu5"}),
        (DataError, "does not exist", {"data": tmp_path / "none"}),
        (InputError, "folder .* does not exist", {"output": tmp_path / "none" / "m.pt"}),
        (InputError, "is a folder", {"output": tmp_path}),
        (InputError, "'.' is a folder", {"output": "."}),
    ]
    for kind, cause, change in cases:
        with pytest.raises(kind, match=cause):
            train(**({"data": data, "output": tmp_path / "m.pt", **QUICK} | change), on_epoch=stop_at(1))
    assert [path.name for path in tmp_path.iterdir()] == ["colours.npz"]


def test_greyscale_networks_are_fed_grey_pictures(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grey = replace(SPEC, name="grey", preprocess=registry.preprocess_for("tiny", 1))
    monkeypatch.setitem(registry.ARCHITECTURES, "tiny", grey)  # type: ignore[arg-type]
    report = train(data, tmp_path / "m.pt", **QUICK | {"epochs": 1})
    assert (report.metadata.preprocess.channels, report.metadata.preprocess.mean) == (1, (0.5,))
    assert load_checkpoint(tmp_path / "m.pt").module.features[0].in_channels == 1  # type: ignore[index,union-attr]


ARGUMENTS = ["--architecture", "tiny", "--epochs", "2", "--batch-size", "8", "--lr", "0.005", "--precision", "fp32"]


def test_the_command_trains_and_says_how_well(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = str(tmp_path / "m.pt")
    assert run(["train", "--data", str(data), "-o", output, *ARGUMENTS]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith(f"{output}: tiny, 3 classes, ")
    assert "epoch 2: loss " in captured.err
    assert run(["train", "--data", str(data), "-o", output, *ARGUMENTS, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["checkpoint"] == output
    assert record["metadata"]["architecture"] == "tiny"
    assert 0 <= record["accuracy"] <= 1


def test_the_command_answers_a_bad_option_with_cause_and_remedy(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["train", "--data", str(data), "-o", str(tmp_path / "m.pt"), "--architecture", "alexnet2012"]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[0] == "error: there is no architecture 'alexnet2012'"
    assert lines[1].startswith("  try: did you mean alexnet-2012 or ")
    assert len(lines) == 2


KILLED_TRAINING = """
import os, signal, sys
from export.models import registry
from export.training import loop
from tests.export.tiny_net import SPEC
from toolkit.cli import main

registry.ARCHITECTURES["tiny"] = SPEC
step, steps = loop._Run.step, []

def counted(*arguments):
    steps.append(1)
    if len(steps) == 3 * 8 + 5:  # the fifth step of the fourth epoch
        os.kill(os.getpid(), signal.SIGKILL)
    return step(*arguments)

loop._Run.step = counted
main(sys.argv[1:])
"""


SLOW_TRAINING = """
import sys
from export.models import registry
from tests.export.tiny_net import SPEC
from toolkit.cli import main
registry.ARCHITECTURES["tiny"] = SPEC
main(sys.argv[1:])
"""


def test_a_real_ctrl_c_keeps_the_best_epoch_and_says_how_to_go_on(data: Path, tmp_path: Path) -> None:
    output = tmp_path / "m.pt"
    arguments = [arg if arg != "2" else "100000" for arg in ARGUMENTS]
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW_TRAINING, "train", "--data", str(data), "-o", str(output), *arguments],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert process.stderr is not None
    said = ""
    while "epoch 3:" not in said:
        line = process.stderr.readline()
        assert line, said
        said += line
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out == ""
    assert f"Go on with: toolkit train --resume -o {output}" in err
    assert "Traceback" not in err
    assert load_checkpoint(output).metadata.architecture == "tiny"
    assert resume_path(output).exists()


def test_ctrl_c_while_the_only_epoch_is_measured_keeps_it(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    test, tests = loop._Run.test, 0

    def stop(*arguments: Any) -> tuple[float, float]:
        nonlocal tests
        tests += 1
        if tests == 2:  # the first is the epoch's
            raise KeyboardInterrupt
        return test(*arguments)

    monkeypatch.setattr(loop._Run, "test", stop)
    output = str(tmp_path / "m.pt")
    arguments = [arg if arg != "2" else "1" for arg in ARGUMENTS]
    assert run(["train", "--data", str(data), "-o", output, "--no-curves", *arguments]) == 130
    assert "holds epoch 1, the best. Nothing is left but to measure it" in capsys.readouterr().err
    assert load_checkpoint(Path(output)).metadata.architecture == "tiny"


def test_a_killed_training_resumes_to_the_weights_of_one_that_was_not(data: Path, tmp_path: Path) -> None:
    """A process in a real SIGKILL, in the middle of an epoch: nothing is told, nothing can be tidied up."""
    options = {**QUICK, "epochs": 6, "seed": 3, "ema": 0.9, "mixup": 0.2, "flip": True, "curves": False}
    whole = train(data, tmp_path / "whole.pt", **options)
    output = tmp_path / "m.pt"
    arguments = ["--architecture", "tiny", "--epochs", "6", "--batch-size", "8", "--lr", "0.005", "--precision",
                 "fp32", "--seed", "3", "--ema", "0.9", "--mixup", "0.2", "--flip", "--no-curves"]  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED_TRAINING, "train", "--data", str(data), "-o", str(output), *arguments],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    _, err = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert "epoch 3:" in err
    assert "epoch 4:" not in err
    assert not output.exists()
    state, _ = load_state(resume_path(output))
    assert state.epoch == 3
    resumed = train(output=output, resume=True, curves=False)
    assert resumed.metadata == whole.metadata  # the digest of the weights is in it
    for name, tensor in load_checkpoint(tmp_path / "whole.pt").module.state_dict().items():
        assert torch.equal(load_checkpoint(output).module.state_dict()[name], tensor)
    assert [replace(facts, seconds=0) for facts in resumed.result.history] == [
        replace(facts, seconds=0) for facts in whole.result.history
    ]
    assert not resume_path(output).exists()


def test_memory_that_was_freed_is_kept_for_the_next_step_where_the_c_library_can() -> None:
    program = (
        "import resource, sys; from toolkit.allocator import keep_freed_memory; import numpy as np\n"
        "kept = keep_freed_memory() if sys.argv[1] == 'keep' else None\n"
        "np.ones(1 << 23); before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "for _ in range(10): np.ones(1 << 23)\n"
        "print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)"
    )
    command = [sys.executable, "-c", program]
    runs = [
        subprocess.run([*command, mode], capture_output=True, text=True, check=True).stdout.split()
        for mode in ("keep", "default")
    ]
    if runs[0][0] == "False":
        pytest.skip("this C library has no such setting")
    assert int(runs[0][1]) * 10 < int(runs[1][1])
