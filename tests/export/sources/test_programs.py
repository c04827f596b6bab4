"""Archives of torch.export and of TorchScript: the graph is the one that the network itself gives."""

import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from engines.errors import CheckpointError, InputError
from export.checkpoint import Checkpoint, load_checkpoint
from export.onnx_export import to_onnx
from export.sources.description import Description
from export.sources.pt2 import _arithmetic
from export.verify import verify
from tests.export.sources.networks import SIZE, network, pictures, program, script

OPERATORS = ["Conv", "Relu", "LRN", "MatMul", "MatMul", "Reshape", "Gemm"]


@pytest.fixture(scope="module")
def net() -> nn.Module:
    return network()


@pytest.fixture(scope="module")
def archive(net: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return program(net, tmp_path_factory.mktemp("pt2") / "net.pt2")


def same(checkpoint: Checkpoint, net: nn.Module) -> bool:
    with torch.no_grad():
        return all(torch.equal(checkpoint.module(pictures(n)), net(pictures(n))) for n in (1, 2, 5))


@pytest.mark.parametrize("kind", ["free program", "fixed program", "trace", "script"])
def test_a_whole_network_gives_the_graph_that_its_code_would(kind: str, net: nn.Module, tmp_path: Path) -> None:
    said = Description(input_size=SIZE)
    if kind.endswith("program"):
        path, said = program(net, tmp_path / "net.pt2", free=kind == "free program"), Description()
    else:
        path = script(net, tmp_path / "net.ts", traced=kind == "trace")
    checkpoint = load_checkpoint(path, describe=said)
    assert same(checkpoint, net)
    metadata = checkpoint.metadata
    assert (metadata.architecture, len(metadata.labels), metadata.preprocess.channels) == ("Net", 5, 1)
    graph = to_onnx(checkpoint.module, metadata)
    assert [node.op_type for node in graph.graph.node] == OPERATORS, "batch norm folded, LRN and pool whole"
    assert graph.graph.node[-1].name == "head"
    result = verify(checkpoint.module, graph, metadata, images=None, batch_sizes=(1, 3))
    assert result.passed, result.problems


class Mixes(nn.Module):
    """Its answer to a sample depends on the others."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x - x.mean(0)).flatten(1)


class Counts(nn.Module):
    """Its batch is a number in the computation."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1) * torch.arange(x.shape[0]).reshape(-1, 1)


@pytest.mark.parametrize("made", [Mixes, Counts])
def test_a_fixed_batch_that_cannot_be_freed_names_the_remedy(made: Callable[[], nn.Module], tmp_path: Path) -> None:
    path = program(made(), tmp_path / "net.pt2", free=False)
    with pytest.raises(CheckpointError, match="fixed batch of 2, and can't do without") as caught:
        load_checkpoint(path)
    assert "dynamic_shapes" in caught.value.remedy


def test_a_program_in_training_mode_is_refused(net: nn.Module, tmp_path: Path) -> None:
    training = network().train()
    path = program(training, tmp_path / "net.pt2")
    with pytest.raises(CheckpointError, match=r"training mode: it has batch_norm .*\(call model.eval\(\)"):
        load_checkpoint(path)


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.line = nn.Embedding(9, 3), nn.Linear(5, 3)

    def forward(self, ids: torch.Tensor, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"features": x * 2, "logits": self.line(x) + self.words(ids).mean(1)}


def test_a_program_brings_its_inputs_and_their_names(tmp_path: Path) -> None:
    free = {0: torch.export.Dim("batch")}
    example = (torch.zeros(2, 4, dtype=torch.int64), torch.zeros(2, 5))
    saved = torch.export.export(Two().eval(), example, dynamic_shapes=(free, free))
    torch.export.save(saved, str(tmp_path / "two.pt2"))
    checkpoint = load_checkpoint(tmp_path / "two.pt2")
    assert [str(spec) for spec in checkpoint.metadata.inputs] == ["ids: int64[batch, 4]", "x: float32[batch, 5]"]
    assert (checkpoint.metadata.scores, len(checkpoint.metadata.labels)) == ("logits", 3)
    assert "features left out" in checkpoint.notes[0]
    every = load_checkpoint(tmp_path / "two.pt2", describe=Description(outputs=("logits", "features")))
    assert [spec.name for spec in every.metadata.outputs] == ["logits", "features"]
    assert list(every.module(*example)) == ["logits", "features"]
    with pytest.raises(InputError, match="no pictures"):
        load_checkpoint(tmp_path / "two.pt2", describe=Description(mean=(0.5,)))


def rewritten(path: Path, target: Path, change: Callable[[str, bytes], bytes], **more: bytes) -> Path:
    """The archive with entries changed; ``more`` are added beside the weights."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as new:
        names = old.namelist()
        for name in names:
            new.writestr(name, change(name, old.read(name)))
        root = names[0].partition("/")[0]
        for name, data in more.items():
            new.writestr(f"{root}/data/constants/{name}", data)
    return target


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.mkdir, (Path("made"),))


def swapped(old: str, new: str) -> Callable[[str, bytes], bytes]:
    def change(name: str, data: bytes) -> bytes:
        if not name.endswith("model.json"):
            return data
        assert old in data.decode()
        return data.decode().replace(old, new, 1).encode()

    return change


def evil_inputs(name: str, data: bytes) -> bytes:
    return pickle.dumps(Evil()) if name.endswith("sample_inputs/model.pt") else data


DANGEROUS: dict[str, tuple[Callable[[str, bytes], bytes], dict[str, bytes], str]] = {
    "an operator that is none": (
        swapped('"torch.ops.aten.relu.default"', '"torch.os.system"'), {}, "the operator 'torch.os.system'",
    ),
    "an expression with a call": (
        swapped("Symbol('", "exec('1')+Symbol('"), {}, "the expression",
    ),
    "pickled inputs": (evil_inputs, {}, "a pickled object"),
    "a pickled constant": (lambda _, data: data, {"opaque_obj_0": pickle.dumps(Evil())}, "a pickled object"),
}  # fmt: skip


@pytest.mark.parametrize("kind", DANGEROUS)
def test_an_archive_that_would_run_code_is_refused_before_it_is_loaded(
    kind: str, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change, more, cause = DANGEROUS[kind]
    monkeypatch.chdir(tmp_path)
    path = rewritten(archive, tmp_path / "bad.pt2", change, **more)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    assert cause in caught.value.cause
    assert "--trust-pickle" in caught.value.remedy
    assert not Path("made").exists()


@pytest.mark.parametrize(
    "text", ["s0 + 1", "Mod(s0, 2)", "Max(1, s0*2)", "Symbol('s77', positive=True, integer=True)"]
)
def test_arithmetic_of_sizes_is_let_through(text: str) -> None:
    assert _arithmetic(text)


@pytest.mark.parametrize("text", ["exec('x')", "eval(s0)", "s0.__class__", "(1).real", "[1]", "open(s0)"])
def test_what_is_no_arithmetic_of_sizes_is_refused(text: str) -> None:
    assert not _arithmetic(text)


@pytest.mark.parametrize("kind", ["pt2", "ts", "safetensors"])
def test_a_file_that_was_cut_off_says_so(kind: str, net: nn.Module, archive: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    path = tmp_path / f"whole.{kind}"
    if kind == "pt2":
        path = archive
    elif kind == "ts":
        script(net, path)
    else:
        save_file(dict(net.state_dict()), path)
    cut = tmp_path / f"cut.{kind}"
    cut.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(CheckpointError, match=r"truncated|cut") as caught:
        load_checkpoint(cut)
    assert caught.value.remedy


class Branches(nn.Module):
    """Control flow by data, which only TorchScript keeps."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.flatten(1)
        while bool(x.sum() > 1):
            x = x / 2
        return x


def test_torchscript_that_cannot_be_converted_is_refused_with_the_reason(tmp_path: Path) -> None:
    path = script(Branches(), tmp_path / "net.ts", traced=False)
    with pytest.raises(CheckpointError, match=r"can't convert|something else|fixed batch") as caught:
        load_checkpoint(path, describe=Description(input_size=4, channels=1))
    assert "--model" in caught.value.remedy or "free batch" in caught.value.remedy


def test_torchscript_of_another_size_names_the_option(net: nn.Module, tmp_path: Path) -> None:
    path = script(nn.Sequential(nn.Flatten(), nn.Linear(SIZE * SIZE, 3)), tmp_path / "net.ts")
    with pytest.raises(CheckpointError, match="shapes cannot be multiplied") as caught:
        load_checkpoint(path, describe=Description(channels=1))
    assert "--input-size" in caught.value.remedy


def test_an_archives_guards_are_never_compiled(archive: Path, tmp_path: Path, net: nn.Module) -> None:
    def change(name: str, data: bytes) -> bytes:
        if not name.endswith("model.json"):
            return data
        value = json.loads(data)
        value["guards_code"] = ["__import__('pathlib').Path('made').mkdir()"]
        return json.dumps(value).encode()

    checkpoint = load_checkpoint(rewritten(archive, tmp_path / "guards.pt2", change))
    assert same(checkpoint, net)


def test_a_package_of_compiled_code_is_refused_even_when_it_is_trusted(archive: Path, tmp_path: Path) -> None:
    path = rewritten(archive, tmp_path / "aoti.pt2", lambda _, data: data)
    with zipfile.ZipFile(path, "a") as changed:
        root = changed.namelist()[0].partition("/")[0]
        changed.writestr(f"{root}/data/aotinductor/model/code.so", b"\x7fELF")
    with pytest.raises(CheckpointError, match="compiled code"):
        load_checkpoint(path, trust_pickle=True)
