import hashlib
import os
import pickle
import sys
import warnings
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from engines.errors import CheckpointError, InputError
from engines.metadata import ModelMetadata
from export.checkpoint import check_input, load_checkpoint, save_checkpoint, with_input_size
from export.models import registry
from export.models.registry import ARCHITECTURES, build, preprocess_for
from export.state_dicts import canonical, digest_state
from tests.export.tiny_net import SPEC, TinyNet

METADATA = ModelMetadata("tiny", ("ant", "bee", "cow"), SPEC.preprocess, origin={"data": "sha256:1"})


@pytest.fixture(autouse=True)
def tiny_in_the_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.ARCHITECTURES, "tiny", SPEC)  # type: ignore[arg-type]


@pytest.fixture
def net() -> TinyNet:
    torch.manual_seed(0)
    return TinyNet(3)


def save(value: object, path: Path, *, legacy: bool = False) -> Path:
    torch.save(value, path, _use_new_zipfile_serialization=not legacy)
    return path


def same(first: nn.Module, second: nn.Module) -> bool:
    a, b = first.state_dict(), second.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


DEEPER = {
    "vgg11",
    "vgg13",
    "vgg13-bn",
    "vgg16",
    "vgg16-bn",
    "vgg19",
    "vgg19-bn",
    "resnet34",
    "resnet101",
    "resnet152",
}
"""Half a gigabyte each, or slow, and of a family whose others are loaded here; recognised in test_models_families."""


@pytest.mark.parametrize("name", sorted(ARCHITECTURES.keys() - DEEPER - {"tiny"}))
def test_a_bare_state_dict_of_every_family_needs_no_flag(name: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    module = build(name, 2).eval()
    path = save(module.state_dict(), tmp_path / "AlexNet.pkl")
    checkpoint = load_checkpoint(path)
    path.unlink()
    assert checkpoint.recognised
    assert checkpoint.metadata.architecture == name
    assert checkpoint.metadata.labels == ("class 0", "class 1")
    assert checkpoint.metadata.preprocess == ARCHITECTURES[name].preprocess
    assert not checkpoint.module.training
    p = checkpoint.metadata.preprocess
    x = torch.randn(1, p.channels, p.height, p.width)
    with torch.no_grad():
        assert torch.equal(checkpoint.module(x), module(x))


def test_our_own_checkpoint_comes_back_whole(net: TinyNet, tmp_path: Path) -> None:
    training = {"accuracy": 0.5, "history": [{"epoch": 1}]}
    digest = save_checkpoint(tmp_path / "m.pt", net, METADATA, training=training)
    checkpoint = load_checkpoint(tmp_path / "m.pt")
    assert same(checkpoint.module, net)
    assert checkpoint.metadata == METADATA.with_origin(weights=digest)
    assert (checkpoint.digest, checkpoint.training, checkpoint.recognised) == (digest, training, False)
    assert not checkpoint.module.training
    assert not any(parameter.requires_grad for parameter in checkpoint.module.parameters())


def test_loading_leaves_torchs_generator_alone(net: TinyNet, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "m.pt", net, METADATA)
    before = torch.get_rng_state()
    load_checkpoint(tmp_path / "m.pt")
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "net.", "_orig_mod.module.", "model.net."])
@pytest.mark.parametrize("wrapper", [None, "state_dict", "model_state_dict", "model", "net"])
def test_wrappers_and_prefixes_make_no_difference(
    net: TinyNet, tmp_path: Path, prefix: str, wrapper: str | None
) -> None:
    state = {prefix + key: tensor for key, tensor in net.state_dict().items()}
    value = state if wrapper is None else {"epoch": 3, "best_acc": 0.7, wrapper: state, "optimizer": {"state": {}}}
    checkpoint = load_checkpoint(save(value, tmp_path / "m.pth", legacy=wrapper == "net"))
    assert same(checkpoint.module, net)
    assert checkpoint.digest == digest_state(net.state_dict())


def test_real_wrapping_modules_are_unwrapped(net: TinyNet, tmp_path: Path) -> None:
    averaged = torch.optim.swa_utils.AveragedModel(net)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch.compile imports torch's own deprecated modules
        compiled = torch.compile(net)
    for module in (nn.DataParallel(net), averaged, compiled):
        assert same(load_checkpoint(save(module.state_dict(), tmp_path / "m.pt")).module, net)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_float_types_become_fp32(net: TinyNet, tmp_path: Path, dtype: torch.dtype) -> None:
    state = {key: tensor.to(dtype) for key, tensor in net.state_dict().items()}
    module = load_checkpoint(save(state, tmp_path / "m.pt")).module
    for key, tensor in module.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, state[key].float())


def test_the_digest_is_sha256_over_key_dtype_shape_and_bytes() -> None:
    state = {"b": torch.tensor([1, 2]), "a.w": torch.arange(6, dtype=torch.float32).reshape(2, 3).t()}
    expected = hashlib.sha256()
    expected.update(b"a.w\0float32\0(3, 2)\0" + np.array([0, 3, 1, 4, 2, 5], "<f4").tobytes())
    expected.update(b"b\0int64\0(2,)\0" + np.array([1, 2], "<i8").tobytes())
    assert digest_state(state) == f"sha256:{expected.hexdigest()}"
    state["b"][0] = 7
    assert digest_state(state) != f"sha256:{expected.hexdigest()}"


def test_a_pickled_module_is_refused_with_the_flag_that_loads_it(net: TinyNet, tmp_path: Path) -> None:
    for legacy in (False, True):
        path = save(net, tmp_path / "m.pt", legacy=legacy)
        with pytest.raises(CheckpointError) as caught:
            load_checkpoint(path)
        assert caught.value.cause == (
            f"'{path}' is a pickled object (tests.export.tiny_net.TinyNet), and unpickling it can run any code"
        )
        assert "torch.save(model.state_dict(), path)" in caught.value.remedy
        assert "--trust-pickle" in caught.value.remedy
        checkpoint = load_checkpoint(path, trust_pickle=True)
        assert same(checkpoint.module, net)
        assert checkpoint.recognised
        assert (checkpoint.metadata.architecture, len(checkpoint.metadata.labels)) == ("tiny", 3)
        assert checkpoint.digest == checkpoint.metadata.origin["weights"] == digest_state(net.state_dict())


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (os.environ["EVIL_FOLDER"],)


def test_no_code_from_an_untrusted_file_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVIL_FOLDER", str(tmp_path / "evil"))
    path = save({"state_dict": {"a": torch.zeros(1)}, "x": Evil()}, tmp_path / "m.pt")
    with pytest.raises(CheckpointError, match="can run any code"):
        load_checkpoint(path)
    assert not (tmp_path / "evil").exists()


class Unknown(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 6)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x)


def test_a_trusted_module_of_an_unknown_class_keeps_its_own_forward(tmp_path: Path) -> None:
    module = Unknown()
    checkpoint = load_checkpoint(save(nn.DataParallel(module), tmp_path / "m.pt"), trust_pickle=True)
    assert isinstance(checkpoint.module, Unknown)
    assert (checkpoint.metadata.architecture, checkpoint.recognised) == ("Unknown", False)
    assert checkpoint.metadata.labels == tuple(f"class {i}" for i in range(6))
    assert checkpoint.metadata.preprocess == preprocess_for(None, 1)
    x = torch.randn(2, 1, 9, 9)
    assert torch.equal(checkpoint.module(x), module.eval()(x))


def test_a_trusted_module_whose_class_is_gone_says_so(
    net: TinyNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(net, tmp_path / "m.pt")
    monkeypatch.delattr(sys.modules["tests.export.tiny_net"], "TinyNet")
    with pytest.raises(CheckpointError, match="can't be unpickled: AttributeError") as caught:
        load_checkpoint(path, trust_pickle=True)
    assert "PYTHONPATH" in caught.value.remedy


def test_a_module_that_gives_no_logits_is_no_classifier(tmp_path: Path) -> None:
    path = save(nn.Conv2d(3, 8, 3), tmp_path / "m.pt")
    metadata = load_checkpoint(path, trust_pickle=True).metadata
    assert (metadata.scores, metadata.labels) == ("none", ())
    assert [spec.shape for spec in metadata.outputs] == [("batch", 8, 222, 222)]


def zip_of(path: Path, **files: str) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)


BAD_FILES = {
    "empty": (lambda p: p.write_bytes(b""), "is empty (0 bytes)"),
    "garbage": (lambda p: p.write_bytes(np.random.default_rng(0).bytes(5000)), "is not a PyTorch checkpoint, or is"),
    "pickle-like garbage": (lambda p: p.write_bytes(b"\x80\x02garbage" * 9), "is not a PyTorch checkpoint, or is"),
    "web page": (lambda p: p.write_text("\n<!DOCTYPE html><html>404"), "is a web page, not a PyTorch checkpoint"),
    "git lfs pointer": (lambda p: p.write_text("version https://git-lfs.github.com/spec/v1\n"), "a Git LFS pointer"),
    "json": (lambda p: p.write_text('{"a": 1}'), "is JSON text"),
    "gzip": (lambda p: p.write_bytes(b"\x1f\x8b\x08\0\0"), "is a gzip archive"),
    "engine": (lambda p: p.write_bytes(b"ftrt" + bytes(60)), "is a TensorRT engine"),
    "safetensors": (lambda p: p.write_bytes(b"\x40" + bytes(7) + b'{"w":{}}'), "damaged or truncated safetensors"),
    "zip": (lambda p: zip_of(p, **{"a.txt": "x"}), "is a zip archive, not a PyTorch checkpoint"),
    "plain pickle": (lambda p: p.write_bytes(pickle.dumps({"a": 1})), "is not a PyTorch checkpoint, or is"),
    "list": (lambda p: save([1, 2], p), "holds no state dict but a list"),
    "tensor": (lambda p: save(torch.zeros(2, 3), p), "holds no state dict but a single tensor [2, 3]"),
    "empty dictionary": (lambda p: save({}, p), "holds no state dict but an empty dictionary"),
    "optimizer": (
        lambda p: save({"optimizer": {"state": {}}, "epoch": 3}, p),
        "holds no state dict but a dictionary with the keys optimizer, epoch",
    ),
    "sparse": (lambda p: save({"a": torch.eye(3).to_sparse()}, p), "has a sparse tensor: a"),
    "complex": (lambda p: save({"a": torch.zeros(2, dtype=torch.complex64)}, p), "has a complex tensor: a"),
}


@pytest.mark.parametrize("kind", BAD_FILES)
@pytest.mark.parametrize("trust", [False, True])
def test_what_is_no_checkpoint_gets_a_cause_and_a_remedy(kind: str, tmp_path: Path, trust: bool) -> None:
    make, cause = BAD_FILES[kind]
    path = tmp_path / "m.pt"
    make(path)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path, trust_pickle=trust)
    assert cause in caught.value.cause
    assert caught.value.remedy


@pytest.mark.parametrize("legacy", [False, True])
def test_a_checkpoint_cut_anywhere_is_called_damaged(net: TinyNet, tmp_path: Path, legacy: bool) -> None:
    whole = save(net.state_dict(), tmp_path / "m.pt", legacy=legacy).read_bytes()
    for share in (0.01, 0.3, 0.6, 0.9, 0.99):
        (tmp_path / "cut.pt").write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(CheckpointError, match="damaged"):
            load_checkpoint(tmp_path / "cut.pt")


def test_a_flipped_bit_in_our_own_checkpoint_is_found(net: TinyNet, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "m.pt", net, METADATA)
    data = bytearray((tmp_path / "m.pt").read_bytes())
    where = data.find(net.head.weight.detach().numpy().tobytes())
    data[where + 100] ^= 1
    (tmp_path / "m.pt").write_bytes(data)
    with pytest.raises(CheckpointError, match="digest differs"):
        load_checkpoint(tmp_path / "m.pt")


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_named(net: TinyNet, tmp_path: Path, bad: float) -> None:
    with torch.no_grad():
        net.head.weight[1, 5] = bad
    path = save(net.state_dict(), tmp_path / "m.pt")
    with pytest.raises(CheckpointError, match=r"has 1 NaN or infinite value in head\.weight \[3, 128\]"):
        load_checkpoint(path)
    with pytest.raises(CheckpointError, match="NaN"):
        save_checkpoint(tmp_path / "n.pt", net, METADATA)
    assert not (tmp_path / "n.pt").exists()


def test_missing_files_and_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        load_checkpoint(tmp_path / "none.pt")
    with pytest.raises(InputError, match="is a folder"):
        load_checkpoint(tmp_path)


def test_an_unknown_network_is_described_with_the_file(tmp_path: Path) -> None:
    path = save(nn.Linear(3, 4).state_dict(), tmp_path / "m.pt")
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    assert caught.value.cause == (f"'{path}': no known architecture fits: 2 tensors (weight [4, 3], bias [4])")
    assert "alexnet" in caught.value.remedy


def test_architecture_and_classes_insist(net: TinyNet, tmp_path: Path) -> None:
    bare, own = save(net.state_dict(), tmp_path / "bare.pt"), tmp_path / "own.pt"
    save_checkpoint(own, net, METADATA)
    assert not load_checkpoint(bare, architecture="tiny", classes=3).recognised
    assert load_checkpoint(own, architecture="tiny", classes=3).metadata.labels == ("ant", "bee", "cow")
    for path in (bare, own):
        with pytest.raises(CheckpointError, match="has 3 classes, not 4"):
            load_checkpoint(path, classes=4)
        with pytest.raises(CheckpointError, match=r"not alexnet|not those of alexnet"):
            load_checkpoint(path, architecture="alexnet")
        with pytest.raises(InputError, match="no architecture 'tyni'") as caught:
            load_checkpoint(path, architecture="tyni")
        assert caught.value.remedy == "did you mean tiny?"


def test_a_named_architecture_is_taken_under_other_keys(net: TinyNet, tmp_path: Path) -> None:
    state = {f"x{i}": tensor for i, tensor in enumerate(net.state_dict().values())}
    assert same(load_checkpoint(save(state, tmp_path / "m.pt"), architecture="tiny").module, net)


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"version": 2}, "format version 2"),
        ({"metadata": None}, "lacks its weights or metadata"),
        ({"metadata": {"architecture": "tiny"}}, "metadata is damaged"),
        ({"state_dict": {}}, "no state dict"),
        ({"metadata": replace(METADATA, labels=("a", "b")).to_json()}, "3 classes and 3 channels in its weights, 2"),
        ({"metadata": replace(METADATA, architecture="tinier").to_json()}, "no architecture 'tinier'"),
    ],
)
def test_our_own_format_damaged_or_newer_is_explained(
    net: TinyNet, tmp_path: Path, change: dict[str, object], cause: str
) -> None:
    save_checkpoint(tmp_path / "m.pt", net, METADATA)
    content = torch.load(tmp_path / "m.pt", weights_only=True) | change
    with pytest.raises(InputError) as caught:
        load_checkpoint(save(content, tmp_path / "m.pt"))
    assert cause in caught.value.cause
    assert caught.value.remedy


def test_saving_checks_that_metadata_and_network_agree(net: TinyNet, tmp_path: Path) -> None:
    for wrong in (replace(METADATA, labels=("a",)), replace(METADATA, architecture="alexnet")):
        with pytest.raises(CheckpointError, match="its metadata says"):
            save_checkpoint(tmp_path / "m.pt", net, wrong)
    assert not list(tmp_path.iterdir())


def test_an_interrupted_save_leaves_the_old_checkpoint(
    net: TinyNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_checkpoint(tmp_path / "m.pt", net, METADATA)
    before = (tmp_path / "m.pt").read_bytes()

    def interrupted(_: object, file: object) -> None:
        file.write(b"half")  # type: ignore[attr-defined]
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(tmp_path / "m.pt", net, METADATA)
    assert (tmp_path / "m.pt").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["m.pt"]


def test_another_input_size_is_taken_where_the_network_takes_it(tmp_path: Path) -> None:
    path = save(build("alexnet", 3).state_dict(), tmp_path / "m.pt")
    checkpoint = load_checkpoint(path)
    path.unlink()
    resized = with_input_size(checkpoint, 96, 128)
    assert (resized.metadata.preprocess.height, resized.metadata.preprocess.width) == (96, 128)
    assert resized.module is checkpoint.module
    with pytest.raises(CheckpointError, match="doesn't take 3×40×40 images"):
        with_input_size(checkpoint, 40, 40)


def test_checking_an_input_keeps_the_mode(net: TinyNet) -> None:
    net.train()
    assert check_input(net, SPEC.preprocess, "tiny") == 3
    assert net.training


def test_shared_and_strided_weights_are_stored_plain(net: TinyNet, tmp_path: Path) -> None:
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    digest = save_checkpoint(tmp_path / "m.pt", net, METADATA)
    state = load_checkpoint(tmp_path / "m.pt").module.state_dict()
    assert all(tensor.is_contiguous() for tensor in state.values())
    assert digest_state(canonical(state, "it")) == digest
