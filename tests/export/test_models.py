import re
import subprocess
import sys

import numpy as np
import pytest
import torch

from engines.errors import CheckpointError, InputError
from export.models.registry import ARCHITECTURES, Recognition, build, build_empty, preprocess_for, recognise, rename


def empty_state(name: str, classes: int = 10, channels: int | None = None) -> dict[str, torch.Tensor]:
    return dict(build_empty(name, classes, channels).state_dict())


# Weights and biases by hand, layer by layer: out * in / groups * kernel² + out.
def conv(out: int, inputs: int, kernel: int, groups: int = 1) -> int:
    return out * inputs // groups * kernel * kernel + out


def linear(out: int, inputs: int) -> int:
    return out * inputs + out


COUNTS = {
    "alexnet": conv(64, 3, 11) + conv(192, 64, 5) + conv(384, 192, 3) + conv(256, 384, 3) + conv(256, 256, 3)
    + linear(4096, 9216) + linear(4096, 4096) + linear(1000, 4096),
    "alexnet-2012": conv(96, 3, 11) + conv(256, 96, 5, 2) + conv(384, 256, 3) + conv(384, 384, 3, 2)
    + conv(256, 384, 3, 2) + linear(4096, 9216) + linear(4096, 4096) + linear(1000, 4096),
    "alexnet-single": conv(96, 3, 11) + conv(256, 96, 5) + conv(384, 256, 3) + conv(384, 384, 3)
    + conv(256, 384, 3) + linear(4096, 9216) + linear(4096, 4096) + linear(1000, 4096),
    "alexnet-d2l": conv(96, 1, 11) + conv(256, 96, 5) + conv(384, 256, 3) + conv(384, 384, 3)
    + conv(256, 384, 3) + linear(4096, 6400) + linear(4096, 4096) + linear(1000, 4096),
}  # fmt: skip

KEYS = {
    "alexnet": [f"features.{n}" for n in (0, 3, 6, 8, 10)] + [f"classifier.{n}" for n in (1, 4, 6)],
    "alexnet-2012": ["conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8"],
    "alexnet-single": [f"conv{n}.0" for n in range(1, 6)] + [f"lostlayer.{n}" for n in (0, 3, 6)],
    "alexnet-d2l": ["0", "3", "6", "8", "10", "14", "17", "20"],
}


@pytest.mark.parametrize("name", COUNTS)
def test_parameters_are_as_many_as_counted_by_hand(name: str) -> None:
    assert sum(p.numel() for p in build_empty(name, 1000).parameters()) == COUNTS[name]


@pytest.mark.parametrize("name", KEYS)
def test_state_dict_keys_are_those_people_have(name: str) -> None:
    assert list(empty_state(name)) == [f"{layer}.{what}" for layer in KEYS[name] for what in ("weight", "bias")]


@pytest.mark.parametrize("name", KEYS)
def test_the_usual_input_gives_logits(name: str) -> None:
    p = ARCHITECTURES[name].preprocess
    x = torch.empty(3, p.channels, p.height, p.width, device="meta")
    assert build_empty(name, 7)(x).shape == (3, 7)


def test_the_papers_network_has_the_papers_figures() -> None:
    module = build_empty("alexnet-2012", 1000)
    assert module.conv1.weight.numel() == 34_848
    assert round(sum(p.numel() for p in module.parameters()) / 1e6, 2) == 60.97
    x, sizes = torch.empty(1, 3, 227, 227, device="meta"), []
    for name, layer in module.named_children():
        x = layer(x)
        if name in {"conv1", "pool1", "pool2", "pool5"}:
            sizes.append(x.shape[-1])
    assert sizes == [55, 27, 13, 6]
    assert [n for n, m in module.named_children() if isinstance(m, torch.nn.LocalResponseNorm)] == ["norm1", "norm2"]


def test_local_response_normalisation_is_the_formula_with_alpha_over_n() -> None:
    norm = build_empty("alexnet-2012", 2).norm1
    x = np.random.default_rng(0).normal(0, 50, (1, 9, 2, 2)).astype(np.float32)
    expected = np.empty_like(x)
    for i in range(9):
        window = x[:, max(0, i - 2) : i + 3].astype(np.float64) ** 2
        expected[:, i] = x[:, i] / (2.0 + 1e-4 / 5 * window.sum(1)) ** 0.75
    np.testing.assert_allclose(norm(torch.from_numpy(x)).numpy(), expected, rtol=1e-6)


def test_the_papers_network_is_initialised_as_the_paper_says() -> None:
    torch.manual_seed(0)
    module = build("alexnet-2012", 10)
    biases = {n: float(m.bias.detach().mean()) for n, m in module.named_children() if hasattr(m, "bias")}
    assert biases == {"conv1": 0, "conv2": 1, "conv3": 0, "conv4": 1, "conv5": 1, "fc6": 1, "fc7": 1, "fc8": 0}
    for name in ("conv2", "fc6"):
        weight = module.get_submodule(name).weight
        assert float(weight.detach().std()) == pytest.approx(0.01, rel=0.02)
        assert abs(float(weight.detach().mean())) < 1e-4


@pytest.mark.parametrize("name", ["alexnet", "alexnet-single", "alexnet-d2l"])
def test_the_others_keep_the_variance_of_activations_up_to_small_logits(name: str) -> None:
    torch.manual_seed(0)
    layers = [layer for layer in build(name, 10).modules() if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear)]
    assert len(layers) == 8
    for layer in layers:
        assert layer.bias is not None
        assert not layer.bias.detach().any()
        expected = 0.01 if layer is layers[-1] else (2 / layer.weight[0].numel()) ** 0.5
        assert float(layer.weight.detach().std()) == pytest.approx(expected, rel=0.05)


def test_alexnet_takes_any_size_from_63_up() -> None:
    module = build_empty("alexnet", 4)
    for size in (63, 64, 96, 300):
        assert module(torch.empty(1, 3, size, size, device="meta")).shape == (1, 4)
    with pytest.raises(RuntimeError):
        module(torch.empty(1, 3, 62, 62, device="meta"))


@pytest.mark.parametrize("name", KEYS)
@pytest.mark.parametrize("classes", [1, 2, 1000, 4096])
def test_a_state_dict_is_recognised_with_its_classes(name: str, classes: int) -> None:
    assert recognise(empty_state(name, classes)) == Recognition(name, classes, preprocess_for(name).channels)


def test_greyscale_and_colour_variants_are_recognised() -> None:
    assert recognise(empty_state("alexnet", 10, 1)) == Recognition("alexnet", 10, 1)
    assert recognise(empty_state("alexnet-d2l", 10, 3)) == Recognition("alexnet-d2l", 10, 3)


def test_an_unknown_state_dict_is_described_with_what_the_nearest_lack() -> None:
    state = empty_state("alexnet-single", 2)
    del state["conv2.0.bias"]
    state["lostlayer.3.weight"] = torch.empty(2048, 4096, device="meta")
    with pytest.raises(CheckpointError) as caught:
        recognise(state)
    assert "15 tensors (conv1.0.weight [96, 3, 11, 11], conv1.0.bias [96], …, " in caught.value.cause
    assert "lostlayer.6.bias [2])" in caught.value.cause
    assert caught.value.remedy.startswith(
        "nearest are alexnet-single: missing conv2.0.bias, "
        "other shape lostlayer.3.weight [2048, 4096] not [4096, 4096]; alexnet"
    )


def test_class_axes_that_disagree_are_not_recognised() -> None:
    state = empty_state("alexnet", 10)
    state["classifier.6.bias"] = torch.empty(11)
    with pytest.raises(CheckpointError, match="numbers of classes or channels disagree"):
        recognise(state)


def test_the_same_shapes_under_other_keys_are_hinted_at_and_renamed_on_request() -> None:
    state = {f"body.{key}": tensor for key, tensor in empty_state("alexnet-2012", 5).items()}
    with pytest.raises(CheckpointError, match="give --architecture alexnet-2012"):
        recognise(state)
    renamed = rename("alexnet-2012", state)
    assert list(renamed) == list(empty_state("alexnet-2012"))
    assert renamed["fc8.bias"] is state["body.fc8.bias"]
    with pytest.raises(CheckpointError, match="not those of alexnet-single"):
        rename("alexnet-single", state)


def test_something_quite_different_gets_the_list_of_networks() -> None:
    with pytest.raises(CheckpointError) as caught:
        recognise({"encoder.weight": torch.empty(3, 3)})
    assert caught.value.cause == "no known architecture fits: 1 tensor (encoder.weight [3, 3])"
    assert all(name in caught.value.remedy for name in ARCHITECTURES)


@pytest.mark.parametrize(
    ("name", "hint"), [("alexnet2012", "alexnet-2012"), ("AlexNet", "alexnet"), ("zzz", "known are")]
)
def test_an_unknown_name_gets_the_nearest(name: str, hint: str) -> None:
    with pytest.raises(InputError, match=re.escape(f"no architecture '{name}'")) as caught:
        build(name, 10)
    assert hint in caught.value.remedy


def test_zero_classes_are_refused() -> None:
    with pytest.raises(InputError, match="at least one class"):
        build("alexnet", 0)


def test_preprocessing_follows_the_channels() -> None:
    grey, colour = preprocess_for("alexnet", 1), preprocess_for("alexnet-d2l", 3)
    assert (grey.channels, grey.mean, grey.std) == (1, (0.449,), (0.226,))
    assert (colour.channels, colour.mean, colour.std) == (3, (0.0,) * 3, (1.0,) * 3)
    assert preprocess_for("alexnet-2012", 3) == ARCHITECTURES["alexnet-2012"].preprocess


def test_reading_the_table_of_names_needs_no_torch() -> None:
    code = "import sys, export.models.registry, export.recipe; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_dropout_is_where_the_variants_have_it() -> None:
    assert [isinstance(m, torch.nn.Dropout) for m in build_empty("alexnet", 2).classifier].index(True) == 0
    assert [n for n, m in build_empty("alexnet-2012", 2).named_children() if isinstance(m, torch.nn.Dropout)] == [
        "drop6",
        "drop7",
    ]
