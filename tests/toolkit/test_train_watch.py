"""What shows how a training goes: the picture, the terminal, TensorBoard; and the pictures that it keeps."""

import io
import resource
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from engines.errors import InputError
from export.models import registry
from export.training import EpochFacts, TrainingInterrupted
from tests.export.tiny_net import SPEC
from tests.toolkit.trainings import QUICK, colours
from toolkit.data import open_dataset, pixel_batches, suggest_preprocess
from toolkit.data.dataset import Split
from toolkit.steps.train import train
from toolkit.training.cache import Pictures
from toolkit.training.curves import TEST, curves_path, picture
from toolkit.training.plot import plot
from toolkit.training.terminal import Display


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def tiny_in_the_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.ARCHITECTURES, "tiny", SPEC)  # type: ignore[arg-type]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return colours(tmp_path / "colours.npz")


def history(count: int) -> list[EpochFacts]:
    return [EpochFacts(n, 2 / n, 0.5, 2.5 / n, 0.9 - 0.1 * abs(n - 3), 1.0, 1e-3 / n) for n in range(1, count + 1)]


@pytest.mark.parametrize("epochs", [1, 5, 100])
def test_the_picture_has_the_curves_and_marks_the_best_epoch(epochs: int) -> None:
    image = np.asarray(Image.open(io.BytesIO(picture(history(epochs), "tiny on colours"))).convert("RGB"))
    assert image.shape == (600, 1200, 3)
    assert (image[2, 2] == 255).all()
    blue = (image == tuple(bytes.fromhex(TEST[1:]))).all(axis=-1)
    assert blue[:360, :600].sum() > 50
    assert blue[:360, 600:].sum() > 50
    assert not blue[400:].any()


def test_the_picture_lies_beside_the_checkpoint(data: Path, tmp_path: Path) -> None:
    report = train(data, tmp_path / "m.pt", **QUICK | {"curves": True})
    assert report.curves == tmp_path / "m.curves.png" == curves_path(tmp_path / "m.pt")
    assert report.to_json()["curves"] == str(report.curves)
    with Image.open(report.curves) as image:
        assert image.size == (1200, 600)


def test_without_matplotlib_there_is_one_line_and_a_checkpoint(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    lines: list[str] = []
    report = train(data, tmp_path / "m.pt", say=lines.append, **QUICK | {"curves": True, "epochs": 1})
    assert report.curves is None
    assert len(lines) == 1
    assert "onnx-tensorrt-toolkit[report]" in lines[0]


def events(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder))
    found.Reload()
    return found


def test_tensorboard_reads_the_figures_back_also_of_a_resumed_training(data: Path, tmp_path: Path) -> None:
    def stop(facts: EpochFacts) -> None:
        if facts.epoch == 2:
            raise KeyboardInterrupt

    log: dict[str, Any] = {"tensorboard": tmp_path / "log", "log_interval": 3}
    with pytest.raises(TrainingInterrupted):
        train(data, tmp_path / "m.pt", on_epoch=stop, **log, **QUICK)
    report = train(data, tmp_path / "m.pt", resume=True, curves=False, **log)
    found = events(tmp_path / "log")
    for name, field in (("loss/test", "test_loss"), ("accuracy/train", "train_accuracy"),
                        ("epoch/learning_rate", "learning_rate")):  # fmt: skip
        scalars = found.Scalars(name)
        assert [scalar.step for scalar in scalars] == [8, 16, 24]
        expected = [getattr(facts, field) for facts in report.result.history]
        np.testing.assert_allclose([scalar.value for scalar in scalars], expected, rtol=1e-6)
    assert [scalar.step for scalar in found.Scalars("steps/loss")] == [1, 4, 7, 9, 12, 15, 17, 20, 23]
    rates = [scalar.value for scalar in found.Scalars("steps/learning_rate")]
    expected = [report.recipe.rate((step - 1) * 8 / 60 / 3) for step in (1, 4, 7)]  # batches of 8 of 60, 3 epochs
    np.testing.assert_allclose(rates[:3], expected, rtol=1e-6, atol=1e-12)
    content = found.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    assert b"learning_rate" in content
    assert b"architecture" in content


def test_a_folder_for_tensorboard_that_is_a_file_is_refused_before_any_training(data: Path, tmp_path: Path) -> None:
    (tmp_path / "log").write_text("mine")
    with pytest.raises(InputError, match="is a file, not a folder"):
        train(data, tmp_path / "m.pt", tensorboard=tmp_path / "log", **QUICK)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["colours.npz", "log"]


def test_a_full_disk_leaves_what_was_there(data: Path, tmp_path: Path) -> None:
    output = tmp_path / "m.pt"
    train(data, output, **QUICK)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limit[1]))
        with pytest.raises(InputError, match="can't write") as caught:
            train(data, output, force=True, **QUICK | {"seed": 1})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, handler)
    assert "free space" in caught.value.remedy
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_plot_of_characters_has_each_dot_where_its_value_is() -> None:
    rising = [(float(x), float(x)) for x in range(8)]
    flat = [(0.0, 0.0), (7.0, 0.0)]
    rows = plot([rising], 4, 2, x=(0, 7), y=(0, 7))
    assert ["".join(cell for cell, _ in row) for row in rows] == ["  ⡠⠊", "⡠⠊  "]
    rows = plot([rising, flat], 4, 2, x=(0, 7), y=(0, 7))
    assert [owner for _, owner in rows[1]] == [1, 1, 1, 1]
    assert [owner for _, owner in rows[0]] == [-1, -1, 0, 0]


@pytest.mark.parametrize("width", [40, 80, 200])
def test_a_terminal_shows_curves_that_fit_its_width(width: int) -> None:
    from rich.console import Console

    display = Display(Console(file=io.StringIO(), force_terminal=True, width=width, height=30))
    display.begin("training", 100, "images")
    for facts in history(4):
        display.advance(10, epoch=f"{facts.epoch}/5", loss=facts.train_loss, accuracy=facts.train_accuracy)
        display.epoch(facts)
    paper = io.StringIO()
    Console(file=paper, width=width, height=30, color_system=None).print(display._shown())
    display.end()
    title, *rows = paper.getvalue().splitlines()
    assert "accuracy, %" in title
    assert ("loss" in title) == (width >= 60)
    assert "90.0" in rows[0]
    assert "50.0" in rows[4]
    assert all(len(line) <= width for line in (title, *rows[:5]))


@pytest.mark.parametrize(("budget", "kept"), [(1 << 20, 60 * 9 * 9 * 3), (100, 0)])
def test_pictures_that_are_kept_are_those_that_decoding_gives(
    data: Path, monkeypatch: pytest.MonkeyPatch, budget: int, kept: int
) -> None:
    dataset = open_dataset(data)
    preprocess = suggest_preprocess(dataset, 9, 9)
    pictures = Pictures(dataset.train, preprocess, budget=budget)
    assert pictures.bytes == kept
    decoded: list[int] = []
    image = Split.image
    monkeypatch.setattr(Split, "image", lambda self, index: (decoded.append(index), image(self, index))[1])
    rng = np.random.default_rng(0)
    counts = []
    for epoch in range(3):
        order = rng.permutation(60)[: 20 if epoch == 0 else 60]
        decoded.clear()
        got = list(pictures.batches(np.split(order, 4)))
        counts.append(len(decoded))
        for (pixels, labels), (ours, theirs) in zip(
            got, pixel_batches(dataset.train, preprocess, len(order) // 4, indices=order), strict=True
        ):
            np.testing.assert_array_equal(pixels, ours)
            np.testing.assert_array_equal(labels, theirs)
    assert counts == ([20, 40, 0] if kept else [20, 60, 60])


def test_the_result_does_not_depend_on_what_is_kept(data: Path, tmp_path: Path) -> None:
    digests = {
        train(data, tmp_path / f"{cache}.pt", cache=cache, crop=True, **QUICK).metadata.origin["weights"]
        for cache in (0, 1 << 24)
    }
    assert len(digests) == 1


def test_ten_crops_are_measured_where_the_recipe_says_so(data: Path, tmp_path: Path) -> None:
    report = train(data, tmp_path / "m.pt", ten_crop=True, **QUICK)
    assert report.result.ten_crop_accuracy is not None
    assert report.result.ten_crop_accuracy > 0.9
    assert f"{100 * report.result.ten_crop_accuracy:.2f} % by ten crops" in report.summary()
    assert 0 <= report.to_json()["waited"] <= 1
    assert replace(report.result, ten_crop_accuracy=None).to_json()["history"][0]["learning_rate"] > 0


def test_a_training_stopped_in_its_ten_crops_resumes_with_no_epoch_done_again(data: Path, tmp_path: Path) -> None:
    class Stopper:
        def begin(self, task: str, total: int | None = None, unit: str = "") -> None:
            if task == "testing ten crops":
                raise KeyboardInterrupt

        def advance(self, steps: int = 1, **facts: object) -> None: ...

        def end(self) -> None: ...

    whole = train(data, tmp_path / "whole.pt", ten_crop=True, **QUICK)
    output, epochs = tmp_path / "m.pt", list[EpochFacts]()
    with pytest.raises(TrainingInterrupted):
        train(data, output, ten_crop=True, progress=Stopper(), **QUICK)
    resumed = train(output=output, resume=True, curves=False, on_epoch=epochs.append)
    assert not epochs
    assert resumed.metadata == whole.metadata
    assert resumed.result.ten_crop_accuracy == whole.result.ten_crop_accuracy
