"""``toolkit export`` and ``toolkit verify`` from checkpoint to graph, as functions and as commands."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from engines.errors import CheckpointError, InputError, VerificationError
from engines.preprocess import Preprocess
from export import judging
from export.checkpoint import load_checkpoint, save_checkpoint
from export.graph import VERIFICATION_KEY, inputs, load_graph, read_metadata, read_verification, save_graph
from export.models.registry import ARCHITECTURES, ArchitectureSpec, build
from toolkit.cli import run
from toolkit.steps.export import ExportReport, export
from toolkit.steps.samples import real_pictures
from toolkit.steps.verify import verify


class Net(nn.Module):
    """A small network that takes any size: entered into the registry, so that a bare state dict is recognised."""

    def __init__(self, classes: int, channels: int = 3) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(channels, 8, 3, stride=2, padding=1), nn.ReLU())
        self.avgpool = nn.AdaptiveAvgPool2d(4)
        self.head = nn.Linear(128, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.avgpool(self.features(x)).flatten(1))
        return logits


@pytest.fixture(scope="module", autouse=True)
def _registered() -> Iterator[None]:
    spec = ArchitectureSpec("small", f"{__name__}:Net", Preprocess(32, 32), "for these tests")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ARCHITECTURES, "small", spec)  # type: ignore[arg-type]
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("export")


@pytest.fixture(scope="module")
def checkpoint(folder: Path) -> Path:
    """A bare state dict of the small network with three classes."""
    torch.manual_seed(0)
    path = folder / "model.pt"
    torch.save(Net(3).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def report(checkpoint: Path) -> ExportReport:
    return export(checkpoint, input_size=48, max_batch=2)


def test_a_bare_state_dict_becomes_a_verified_graph_beside_it(checkpoint: Path, report: ExportReport) -> None:
    assert report.path == checkpoint.with_name("model.onnx")
    assert report.recognised
    model = load_graph(report.path)
    metadata = read_metadata(model)
    assert metadata == report.metadata
    assert metadata is not None
    assert metadata.architecture == "small"
    assert len(metadata.labels) == 3
    assert metadata.origin["weights"] == load_checkpoint(checkpoint).digest
    assert inputs(model)[0].shape == ("batch", 3, 48, 48)
    assert report.operators == {"Conv": 1, "Relu": 1, "AveragePool": 1, "Reshape": 1, "Gemm": 1}
    assert not list(report.path.parent.glob(".*"))


def test_what_was_measured_is_in_the_report_and_in_the_graph(report: ExportReport) -> None:
    assert report.verification is not None
    assert report.verification.passed
    stored = read_verification(load_graph(report.path))
    assert stored == json.loads(json.dumps(report.verification.to_json()))
    kinds = {(item.inputs, item.batch) for item in report.verification.measurements}
    assert kinds == {(kind, batch) for kind in ("random", "real") for batch in (1, 2)}
    text = "\n".join(report.summary())
    assert "recognised by its weights" in text
    assert text.endswith("verified")
    assert json.dumps(report.to_json())


def test_verifying_again_passes_and_leaves_the_file_alone(checkpoint: Path, report: ExportReport) -> None:
    before = report.path.read_bytes()
    assert verify(checkpoint, report.path, max_batch=2).passed
    assert report.path.read_bytes() == before


def test_the_verify_command_answers_no_for_other_weights(
    checkpoint: Path, report: ExportReport, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = load_graph(report.path)
    bias = next(tensor for tensor in model.graph.initializer if tensor.name == "head.bias")
    bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + np.float32(0.01), bias.name))
    other = folder / "other.onnx"
    save_graph(model, other)
    before = other.read_bytes()
    assert run(["verify", str(checkpoint), str(other), "--max-batch", "1", "--json"]) == 1
    output = capsys.readouterr()
    assert json.loads(output.out)["passed"] is False
    assert "differs from" in output.err
    assert other.read_bytes() == before
    other.unlink()


def test_labels_and_preprocessing_that_differ_from_the_checkpoints_fail(
    checkpoint: Path, report: ExportReport, folder: Path
) -> None:
    model = load_graph(report.path)
    for item in model.metadata_props:
        item.value = item.value.replace("0.485", "0.5").replace('"labels":["', '"labels":["not ')
    other = folder / "metadata.onnx"
    save_graph(model, other)
    own = folder / "own.pt"
    save_checkpoint(own, load_checkpoint(checkpoint).module, report.metadata)
    result = verify(own, other, max_batch=1)
    assert not result.passed
    assert "class labels are not the checkpoint's" in result.problems[0]
    assert result.problems[1] == "the graph's preprocessing has another mean than the checkpoint's"
    other.unlink()


def test_an_output_is_replaced_only_when_it_is_of_the_same_weights(
    checkpoint: Path, report: ExportReport, folder: Path
) -> None:
    foreign = folder / "foreign.onnx"
    foreign.write_bytes(b"something else")
    with pytest.raises(InputError, match=r"foreign\.onnx' exists and was not made from this source"):
        export(checkpoint, foreign, input_size=48, verify=False)
    assert foreign.read_bytes() == b"something else"
    again = export(checkpoint, report.path, input_size=48, verify=False)
    assert again.digest == report.digest
    assert "not verified" in again.summary()[-1]
    stored = load_graph(again.path)
    assert VERIFICATION_KEY not in {item.key for item in stored.metadata_props}


def test_a_graph_that_differs_is_not_written(
    checkpoint: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(judging, "MULTIPLE", 1e-9)
    output = folder / "wrong.onnx"
    with pytest.raises(VerificationError, match="noise floors") as caught:
        export(checkpoint, output, input_size=48, max_batch=1)
    assert "--no-verify" in caught.value.remedy
    assert not output.exists()
    assert not list(folder.glob(".*"))


def test_the_export_command_writes_a_graph_that_takes_pixels(
    checkpoint: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = folder / "pixels.onnx"
    arguments = ["--input-size", "64x96", "--uint8-input", "--opset", "21", "--max-batch", "1", "--json"]
    assert run(["export", str(checkpoint), "-o", str(output), *arguments]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["opset"] == 21
    assert printed["verification"]["passed"]
    model = load_graph(output)
    assert inputs(model)[0].dtype == "uint8"
    assert inputs(model)[0].shape == ("batch", 64, 96, 3)
    assert verify(checkpoint, output, max_batch=1, save=False).passed
    output.unlink()


def test_the_papers_network_keeps_its_two_lrn_nodes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    path = tmp_path / "bare.pt"
    torch.save(build("alexnet-2012", 2).state_dict(), path)
    report = export(path, max_batch=1)
    assert report.metadata.architecture == "alexnet-2012"
    assert report.operators["LRN"] == 2
    assert report.verification is not None
    assert report.verification.passed


def test_bad_requests_are_answered_before_any_work(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="opset 12 can't be written"):
        export(checkpoint, tmp_path / "a.onnx", opset=12)
    with pytest.raises(InputError, match=r"not called \.onnx"):
        export(checkpoint, tmp_path / "a.engine")
    with pytest.raises(InputError, match=r"folder .* does not exist"):
        export(checkpoint, tmp_path / "nowhere" / "a.onnx")
    with pytest.raises(InputError, match="largest batch of 0"):
        export(checkpoint, tmp_path / "a.onnx", max_batch=0)
    with pytest.raises(CheckpointError, match="no known architecture fits"):
        torch.save({"a": torch.zeros(3)}, unknown := tmp_path / "unknown.pt")
        export(unknown)
    unknown.unlink()
    with pytest.raises(InputError, match="does not exist"):
        export(tmp_path / "none.pt", tmp_path / "a.onnx")
    with pytest.raises(InputError, match="does not exist"):
        verify(checkpoint, tmp_path / "none.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("size", ["0", "-3", "a", "64x", "64x64x3"])
def test_the_command_refuses_sizes_that_make_no_sense(size: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["export", "model.pt", "--input-size", size]) == 2
    assert "is not a size such as 224" in capsys.readouterr().err


def test_real_pictures_come_from_photographs_or_from_the_data() -> None:
    preprocess = Preprocess(32, 48)
    photographs = real_pictures(None, preprocess, 5, seed=1)
    assert photographs is not None
    assert photographs.shape == (5, 32, 48, 3)
    assert photographs.dtype == np.uint8
    assert photographs.std() > 20
    np.testing.assert_array_equal(photographs, real_pictures(None, preprocess, 5, seed=1))
    digits = real_pictures("digits", preprocess, 4)
    assert digits is not None
    assert digits.shape == (4, 32, 48, 3)
    assert (digits[..., 0] == digits[..., 2]).all()  # grey
