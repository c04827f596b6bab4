"""``toolkit import``: another exporter's file becomes a master graph that goes the whole way, or is refused."""

import json
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from engines.errors import GraphError, InputError
from engines.passport import Passport
from export.graph import load_graph, read_metadata, read_verification, weights_digest
from tests.export.foreign.graphs import answers, convolution, saved, weight
from tests.toolkit.refusals import Refusal
from toolkit.cli import run
from toolkit.steps.import_graph import import_graph


class Residual(nn.Module):
    """Convolutions with batch normalisation, a sum, and a flatten by ``view``: what exporters trace at length."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.norm2 = nn.BatchNorm2d(8)
        self.drop = nn.Dropout()
        self.head = nn.Linear(8 * 4 * 4, classes)
        for norm in (self.norm, self.norm2):
            norm.running_mean = torch.randn(8) * 0.1
            norm.running_var = torch.rand(8) + 0.5

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = torch.relu(x + self.norm2(self.conv(x)))
        x = nn.functional.avg_pool2d(x, 2)
        logits: torch.Tensor = self.head(self.drop(x.view(x.size(0), -1)))
        return logits


@pytest.fixture(scope="module")
def network() -> Residual:
    torch.manual_seed(0)
    return Residual(10).eval()


def exported(network: nn.Module, path: Path, *, opset: int, batch: int, free: bool) -> Path:
    """What PyTorch's older exporter writes, without its own folding."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            (torch.randn(batch, 1, 16, 16),),
            str(path),
            dynamo=False,
            opset_version=opset,
            input_names=["data"],
            output_names=["scores"],
            dynamic_axes={"data": {0: "N"}, "scores": {0: "N"}} if free else None,
            do_constant_folding=False,
        )
    return path


@pytest.mark.parametrize(("opset", "batch", "free"), [(9, 1, False), (11, 4, False), (13, 2, True), (18, 1, False)])
def test_what_pytorchs_older_exporter_writes_becomes_the_network_again(
    opset: int, batch: int, free: bool, network: Residual, tmp_path: Path
) -> None:
    source = exported(network, tmp_path / "net.onnx", opset=opset, batch=batch, free=free)
    report = import_graph(source, description={"mean": (0.5,), "std": (0.5,)}, max_batch=7)
    assert report.path == tmp_path / "net.master.onnx"
    assert report.operators == {"Conv": 2, "Relu": 2, "Add": 1, "AveragePool": 1, "Reshape": 1, "Gemm": 1}
    assert report.verification.passed
    master = load_graph(report.path)
    metadata = read_metadata(master)
    assert metadata == report.metadata
    assert metadata.origin["weights"] == weights_digest(onnx.load(source))
    images = torch.randn(5, 1, 16, 16)
    with torch.no_grad():
        expected = network(images).numpy()
    np.testing.assert_allclose(answers(master, {"data": images.numpy()})[0], expected, atol=1e-5)
    stored = read_verification(master)
    assert stored is not None
    assert stored["reference"] == "the file in ONNX Runtime"
    assert stored["worst"] == report.verification.worst < 4


def test_an_imported_graph_goes_the_whole_way(
    network: Residual, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    exported(network, Path("net.onnx"), opset=11, batch=1, free=False)
    said = ["--mean", "0.5", "--std", "0.5", "--resize", "stretch", "--labels", ",".join("0123456789")]

    def command(*arguments: str) -> str:
        assert run(list(arguments)) == 0
        return capsys.readouterr().out

    printed = command("import", "net.onnx", "-o", "model.onnx", *said, "--data", "digits")
    assert "10 classes (logits), takes float32 pictures of 16x16x1" in printed
    assert "changed batch: freed at /Reshape" in printed
    assert "from the file in ONNX Runtime" in printed
    shown = command("inspect", "model.onnx")
    assert "the file in ONNX Runtime" in shown
    command("calibrate", "model.onnx", "--data", "digits", "--images", "32", "--method", "minmax")
    command("build-engine", "model.onnx", "--int8", "--backend", "onnxruntime")
    command("build-engine", "model.onnx", "--int8", "--backend", "tensorrt-rtx")
    passport = Passport.read(Path("model.int8.rtx.engine.json"))
    assert passport.layers is not None
    assert passport.layers["shares"] == {"int8": 1.0}
    quick = ["--images", "64", "--batch", "1", "--seconds", "0.05", "--rounds", "4", "--launches", "1"]
    record = json.loads(command("compare", "model.onnx", "model.int8.ort.onnx", "--data", "digits", *quick, "--json"))
    assert [row["failure"] for row in record["rows"]] == [None, None]
    assert record["rows"][1]["accuracy"]["agreement"]["rate"] > 0.8


def test_a_graph_without_metadata_is_pointed_to_import(refused: Refusal, tmp_path: Path) -> None:
    saved(convolution(), tmp_path)
    for arguments in (("calibrate", "net.onnx", "--data", "digits"),):
        assert "toolkit import" in refused(*arguments)


def test_refusals_write_nothing_and_say_what_to_do(refused: Refusal, tmp_path: Path) -> None:
    (tmp_path / "empty.onnx").touch()
    assert "is empty" in refused("import", "empty.onnx")
    assert "'absent.onnx' does not exist" in refused("import", "absent.onnx")
    source = saved(convolution(), tmp_path)
    assert "is the file to import itself" in refused("import", "net.onnx", "-o", "net.onnx")
    assert "not called .onnx" in refused("import", "net.onnx", "-o", "net.bin")
    assert "opset 12 can't be written" in refused("import", "net.onnx", "--opset", "12")
    assert "has no input 'z'" in refused("import", "net.onnx", "--input", "z=3x8x8")
    source.with_name("other.onnx").write_bytes(source.read_bytes())
    assert "was not made from this source" in refused("import", "net.onnx", "-o", "other.onnx")


def test_an_output_is_replaced_only_where_it_came_from_the_same_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    saved(convolution(), tmp_path)
    assert run(["import", "net.onnx", "-o", "model.onnx", "--json"]) == 0
    first = json.loads(capsys.readouterr().out)
    assert first["verification"]["passed"] is True
    assert first["metadata"]["inputs"] == [{"name": "x", "dtype": "float32", "shape": ["batch", 3, 8, 8]}]
    assert run(["import", "net.onnx", "-o", "model.onnx"]) == 0
    other = convolution()
    other.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(weight(4, 3, 3, 3, seed=9), "w"))
    saved(other, tmp_path, "other.onnx")
    assert run(["import", "other.onnx", "-o", "model.onnx"]) == 2
    assert "--force" in capsys.readouterr().err
    assert run(["import", "other.onnx", "-o", "model.onnx", "--force"]) == 0


def test_tensors_are_compared_on_the_arrays_that_are_given(tmp_path: Path) -> None:
    from tests.export.foreign.graphs import graph, node

    model = graph([node("Gemm", ["x", "w"], ["y"])], [("x", ["N", 6])], [("y", ["N", 4])], {"w": weight(6, 4)})
    source = saved(model, tmp_path)
    np.savez(tmp_path / "inputs.npz", x=weight(3, 6))
    report = import_graph(source, data=tmp_path / "inputs.npz")
    assert {item.inputs for item in report.verification.measurements} == {"random", "real"}
    assert report.metadata.scores == "none"
    np.savez(tmp_path / "wrong.npz", x=weight(3, 5))
    with pytest.raises(InputError, match=r"'x' in .* is float32 \[3, 5\]"):
        import_graph(source, data=tmp_path / "wrong.npz")


def test_a_file_that_answers_random_inputs_with_nan_is_judged_on_real_ones(tmp_path: Path) -> None:
    from tests.export.foreign.graphs import graph, node

    nodes = [node("Sqrt", ["x"], ["root"]), node("Gemm", ["root", "w"], ["y"])]
    source = saved(graph(nodes, [("x", ["N", 6])], [("y", ["N", 4])], {"w": weight(6, 4)}), tmp_path)
    with pytest.raises(GraphError, match="NaN or infinity for random inputs") as caught:
        import_graph(source)
    assert "--data" in caught.value.remedy
    assert not (tmp_path / "net.master.onnx").exists()
    np.savez(tmp_path / "inputs.npz", x=np.abs(weight(3, 6)))
    report = import_graph(source, data=tmp_path / "inputs.npz")
    assert {item.inputs for item in report.verification.measurements} == {"real"}
    assert any("real ones alone" in note for note in report.notes)
