"""LeNet, VGG, GoogLeNet and ResNet: published counts and keys, recognition, auxiliary heads, initialisation."""

from pathlib import Path

import pytest
import torch
from torch import nn

from engines.errors import CheckpointError
from export.checkpoint import load_checkpoint, save_checkpoint
from export.models import registry
from export.models.googlenet import GoogLeNet
from export.models.registry import (
    ARCHITECTURES,
    Recognition,
    build,
    build_empty,
    completed,
    empty_for,
    preprocess_for,
    recognise,
    rename,
)

PUBLISHED = {
    "lenet": 61_706,  # at 10 classes, D2L; the others at 1000, torchvision's documentation
    "vgg11": 132_863_336,
    "vgg11-bn": 132_868_840,
    "vgg13": 133_047_848,
    "vgg13-bn": 133_053_736,
    "vgg16": 138_357_544,
    "vgg16-bn": 138_365_992,
    "vgg19": 143_667_240,
    "vgg19-bn": 143_678_248,
    "googlenet": 6_624_904,
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
}

NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def state_of(name: str, classes: int = 10) -> dict[str, torch.Tensor]:
    return dict(build_empty(name, classes).state_dict())


def bare(state: dict[str, torch.Tensor], *, heads: bool = True) -> dict[str, torch.Tensor]:
    """A state dict as published files are: without counters, and without auxiliary heads where asked for."""
    return {
        key: value
        for key, value in state.items()
        if not key.endswith("num_batches_tracked") and (heads or not key.startswith("aux"))
    }


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_as_many_as_published(name: str) -> None:
    module = build_empty(name, 10 if name == "lenet" else 1000)
    parameters = {key: p.numel() for key, p in module.named_parameters() if not key.startswith("aux")}
    assert sum(parameters.values()) == PUBLISHED[name]


def vgg_keys(convolutions: list[int], *, norms: bool) -> set[str]:
    keys = {f"{layer}.{what}" for layer in (f"classifier.{n}" for n in (0, 3, 6)) for what in ("weight", "bias")}
    keys |= {f"features.{n}.{what}" for n in convolutions for what in ("weight", "bias")}
    return keys | ({f"features.{n + 1}.{what}" for n in convolutions for what in NORM} if norms else set())


def resnet_keys(blocks: tuple[int, ...], convolutions: int) -> set[str]:
    keys = {"conv1.weight", "fc.weight", "fc.bias"} | {f"bn1.{what}" for what in NORM}
    for stage, count in enumerate(blocks, 1):
        for block in range(count):
            for n in range(1, convolutions + 1):
                keys |= {f"layer{stage}.{block}.conv{n}.weight"}
                keys |= {f"layer{stage}.{block}.bn{n}.{what}" for what in NORM}
        if stage > 1 or convolutions == 3:
            keys |= {f"layer{stage}.0.downsample.0.weight"}
            keys |= {f"layer{stage}.0.downsample.1.{what}" for what in NORM}
    return keys


def googlenet_keys() -> set[str]:
    blocks = [f"inception{n}" for n in ("3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b")]
    parts = [f"{block}.{branch}" for block in blocks for branch in BRANCHES]
    parts += ["conv1", "conv2", "conv3", "aux1.conv", "aux2.conv"]
    keys = {f"{part}.conv.weight" for part in parts} | {f"{part}.bn.{what}" for part in parts for what in NORM}
    linear = ["fc", "aux1.fc1", "aux1.fc2", "aux2.fc1", "aux2.fc2"]
    return keys | {f"{layer}.{what}" for layer in linear for what in ("weight", "bias")}


BRANCHES = ("branch1", "branch2.0", "branch2.1", "branch3.0", "branch3.1", "branch4.1")

KEYS = {
    "lenet": {f"{n}.{what}" for n in (0, 3, 7, 9, 11) for what in ("weight", "bias")},
    "vgg11": vgg_keys([0, 3, 6, 8, 11, 13, 16, 18], norms=False),
    "vgg16": vgg_keys([0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28], norms=False),
    "vgg16-bn": vgg_keys([0, 3, 7, 10, 14, 17, 20, 24, 27, 30, 34, 37, 40], norms=True),
    "vgg19": vgg_keys([0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34], norms=False),
    "googlenet": googlenet_keys(),
    "resnet18": resnet_keys((2, 2, 2, 2), 2),
    "resnet34": resnet_keys((3, 4, 6, 3), 2),
    "resnet50": resnet_keys((3, 4, 6, 3), 3),
    "resnet152": resnet_keys((3, 8, 36, 3), 3),
}


@pytest.mark.parametrize("name", KEYS)
def test_state_dict_keys_are_torchvisions(name: str) -> None:
    assert state_of(name).keys() == KEYS[name]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_published_state_dict_is_recognised_whatever_it_leaves_out(name: str) -> None:
    expected = Recognition(name, 37, preprocess_for(name).channels)
    state = state_of(name, 37)
    assert recognise(state) == recognise(bare(state)) == recognise(bare(state, heads=False)) == expected


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_table_says_how_many_tensors_a_state_dict_has(name: str) -> None:
    assert ARCHITECTURES[name].tensors == len(bare(state_of(name), heads=False))


def test_a_network_is_recognised_without_building_those_of_other_sizes() -> None:
    registry._template.cache_clear()
    assert recognise(state_of("resnet152")).name == "resnet152"
    assert registry._template.cache_info().currsize == 1


def test_one_auxiliary_head_alone_is_recognised_and_half_a_head_is_not() -> None:
    state = state_of("googlenet")
    one = {key: value for key, value in state.items() if not key.startswith("aux2.")}
    found = recognise(one)
    module = empty_for(found, one)
    assert isinstance(module, GoogLeNet)
    assert (module.aux1 is None, module.aux2 is None) == (False, True)
    assert module.state_dict().keys() == one.keys()
    del one["aux1.fc2.bias"]
    with pytest.raises(CheckpointError, match=r"nearest are googlenet: missing aux1\.fc2\.bias; "):
        recognise(one)


def test_depths_of_a_family_are_told_apart_by_what_the_nearest_lack() -> None:
    state = state_of("resnet18")
    del state["layer4.1.bn2.running_var"]
    with pytest.raises(CheckpointError, match=r"nearest are resnet18: missing layer4\.1\.bn2\.running_var; "):
        recognise(state)
    state = state_of("vgg16")
    state["features.0.weight"] = torch.empty(32, 3, 3, 3)
    with pytest.raises(CheckpointError, match=r"other shape features\.0\.weight \[32, 3, 3, 3\] not \[64, channels"):
        recognise(state)


def test_a_counter_of_no_batch_normalisation_is_unexpected() -> None:
    state = {**state_of("lenet"), "0.num_batches_tracked": torch.tensor(3)}
    with pytest.raises(CheckpointError, match=r"lenet: unexpected 0\.num_batches_tracked"):
        recognise(state)


@pytest.mark.parametrize("heads", [True, False])
def test_a_published_googlenet_loads_and_computes_the_same_with_and_without_heads(
    tmp_path: Path, heads: bool
) -> None:
    torch.manual_seed(0)
    module = build("googlenet", 5).eval()
    torch.save(bare(dict(module.state_dict()), heads=heads), tmp_path / "published.pt")
    checkpoint = load_checkpoint(tmp_path / "published.pt")
    assert (checkpoint.metadata.architecture, checkpoint.recognised) == ("googlenet", True)
    assert checkpoint.metadata.preprocess.mean == checkpoint.metadata.preprocess.std == (0.5, 0.5, 0.5)
    assert ("aux1.fc1.weight" in checkpoint.module.state_dict()) == heads
    x = torch.randn(2, 3, 48, 48)
    expected = module(x)
    assert torch.equal(checkpoint.module(x), expected)
    save_checkpoint(tmp_path / "saved.pt", checkpoint.module, checkpoint.metadata)
    again = load_checkpoint(tmp_path / "saved.pt")
    assert again.digest == checkpoint.digest
    assert torch.equal(again.module(x), expected)


def test_missing_counters_are_filled_in_and_those_there_stay() -> None:
    state = dict(build("resnet18", 3).state_dict()) | {"bn1.num_batches_tracked": torch.tensor(7)}
    del state["layer1.0.bn2.num_batches_tracked"]
    full = completed(state)
    assert full.keys() == state_of("resnet18").keys()
    assert (int(full["bn1.num_batches_tracked"]), int(full["layer1.0.bn2.num_batches_tracked"])) == (7, 0)


@pytest.mark.parametrize("name", ["googlenet", "resnet18"])
def test_other_keys_in_the_same_order_are_renamed_without_counters_and_heads(name: str) -> None:
    state = bare(state_of(name), heads=False)
    other = {f"body.part{index}": value for index, value in enumerate(state.values())}
    with pytest.raises(CheckpointError, match=f"give --architecture {name}"):
        recognise(other)
    renamed = rename(name, other)
    assert {key: value for key, value in renamed.items() if key in state} == state
    assert recognise(renamed).name == name


def test_in_training_googlenet_answers_with_the_main_head_first_and_in_evaluation_with_it_alone() -> None:
    torch.manual_seed(0)
    module = build("googlenet", 6)
    x = torch.randn(2, 3, 32, 32)
    answer = module(x)
    assert isinstance(answer, tuple)
    assert [tuple(logits.shape) for logits in answer] == [(2, 6)] * 3
    for logits, head in zip(answer, ("fc", "aux2.fc2", "aux1.fc2"), strict=True):
        (gradient,) = torch.autograd.grad(logits.sum(), [module.get_parameter(f"{head}.bias")], retain_graph=True)
        assert gradient.tolist() == [2.0] * 6
    assert module.eval()(x).shape == (2, 6)
    module.aux1 = module.aux2 = None
    assert module.train()(x).shape == (2, 6)


def sizes(name: str, layers: tuple[str, ...], pixels: int = 224) -> list[int]:
    """The width of what each of ``layers`` makes of a picture."""
    module, found = build_empty(name, 10).eval(), dict.fromkeys(layers, 0)
    for layer in layers:
        module.get_submodule(layer).register_forward_hook(
            lambda _module, _inputs, output, layer=layer: found.__setitem__(layer, output.shape[-1])
        )
    module(torch.empty(1, preprocess_for(name).channels, pixels, pixels, device="meta"))
    return list(found.values())


def test_pictures_shrink_as_the_papers_tables_say() -> None:
    layers = ("conv1", "maxpool1", "conv3", "maxpool2", "maxpool3", "inception4e", "maxpool4", "inception5b")
    assert sizes("googlenet", layers) == [112, 56, 56, 28, 14, 14, 7, 7]
    stages = ("conv1", "maxpool", "layer1", "layer2", "layer3", "layer4")
    assert sizes("resnet50", stages) == [112, 56, 56, 28, 14, 7]
    assert sizes("vgg16", tuple(f"features.{n}" for n in (4, 9, 16, 23, 30))) == [112, 56, 28, 14, 7]
    assert sizes("lenet", tuple("0235"), 28) == [28, 14, 10, 5]


@pytest.mark.parametrize(("name", "least"), [("vgg11-bn", 32), ("googlenet", 15), ("resnet18", 1)])
def test_the_deep_families_take_any_size_from_a_least_one_up(name: str, least: int) -> None:
    module = build_empty(name, 4).eval()
    for size in (least, 50, 97):
        assert module(torch.empty(1, 3, size, size, device="meta")).shape == (1, 4)
    if least > 1:
        with pytest.raises(RuntimeError):
            module(torch.empty(1, 3, least - 1, least - 1, device="meta"))


def test_the_stride_of_a_bottleneck_is_in_its_3x3_convolution() -> None:
    module = build_empty("resnet50", 10)
    strides = [module.get_submodule(f"layer2.0.conv{n}").stride for n in (1, 2, 3)]
    assert strides == [(1, 1), (2, 2), (1, 1)]


def test_googlenet_has_torchvisions_3x3_in_its_third_branch_and_its_epsilon() -> None:
    module = build_empty("googlenet", 10)
    assert module.get_submodule("inception3a.branch3.1.conv").kernel_size == (3, 3)
    assert {part.eps for part in module.modules() if isinstance(part, nn.BatchNorm2d)} == {0.001}


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_a_residual_block_starts_as_the_identity_of_its_skip_connection(name: str) -> None:
    torch.manual_seed(0)
    block = build(name, 3).eval().get_submodule("layer1.1")
    x = torch.rand(2, 64 if name == "resnet18" else 256, 4, 4)
    assert torch.equal(block(x), x)  # x isn't negative, so that the ReLU leaves it


def test_lenet_is_initialised_by_xaviers_rule() -> None:
    torch.manual_seed(0)
    module = build("lenet", 10)
    for index, bound in {0: 6 / (25 + 6 * 25), 7: 6 / (400 + 120), 11: 6 / (84 + 10)}.items():
        layer = module.get_submodule(str(index))
        assert not layer.get_parameter("bias").any()
        weight = layer.get_parameter("weight").detach()
        assert float(weight.abs().max()) <= bound**0.5
        assert float(weight.std()) == pytest.approx((bound / 3) ** 0.5, rel=0.1)


def test_googlenets_heads_start_with_small_logits() -> None:
    torch.manual_seed(0)
    module = build("googlenet", 200)
    for name in ("fc", "aux1.fc2", "aux2.fc2"):
        assert float(module.get_parameter(f"{name}.weight").detach().std()) == pytest.approx(0.01, rel=0.02)
