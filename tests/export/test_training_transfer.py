"""Weights that a network takes over from another."""

import pytest
import torch
from torch import nn

from engines.errors import CheckpointError
from export.models.registry import build, build_empty
from export.training.transfer import heads, take_over
from tests.export.tiny_net import TinyNet


def test_all_is_taken_but_the_head_of_another_number_of_classes() -> None:
    source, module = TinyNet(5), TinyNet(3)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    transfer = take_over(module, source.state_dict())
    assert transfer.taken == ("features.0.weight", "features.0.bias")
    assert transfer.left == ("head.weight", "head.bias")
    assert torch.equal(module.features[0].weight, source.features[0].weight)
    assert torch.equal(module.head.weight, before["head.weight"])
    source.features[0].weight.data.zero_()
    assert module.features[0].weight.abs().max() > 0


def test_a_head_of_as_many_classes_is_left_where_it_is_asked() -> None:
    source, module = TinyNet(3), TinyNet(3)
    assert take_over(module, source.state_dict(), anew=("head",)).left == ("head.weight", "head.bias")
    assert take_over(module, source.state_dict()).left == ()
    assert torch.equal(module.head.weight, source.head.weight)


def test_networks_with_nothing_in_common_are_refused() -> None:
    def net(width: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width))

    with pytest.raises(CheckpointError, match="none of the 7 tensors"):
        take_over(net(4), net(5).state_dict())


@pytest.mark.parametrize(
    ("name", "size", "found"),
    [
        ("lenet", 28, 1),
        ("alexnet", 64, 1),
        ("resnet18", 32, 1),
        ("googlenet", 224, 3),
    ],
)
def test_the_heads_are_those_layers_that_have_a_row_for_each_class(name: str, size: int, found: int) -> None:
    small, large = (build_empty(name, classes).state_dict() for classes in (7, 11))
    by_shape = {key.rpartition(".")[0] for key in small if small[key].shape != large[key].shape}
    channels = next(tensor.shape[1] for tensor in small.values() if tensor.ndim == 4)
    assert set(heads(build_empty(name, 7), (2, channels, size, size))) == by_shape
    assert len(by_shape) == found


def test_a_head_is_found_before_what_only_reshapes_its_output() -> None:
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 5, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert heads(module, (2, 3, 8, 8)) == ("2",)


def test_the_main_head_comes_first_also_where_its_output_is_reshaped() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.aux, self.main = nn.Linear(8, 5), nn.Conv1d(1, 5, 8)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return self.main(x[:, None]).flatten(1), self.aux(x)

    assert heads(Net(), (2, 8)) == ("main", "aux")


def test_looking_for_heads_leaves_the_network_as_it_is() -> None:
    module = build("resnet18", 4)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    assert heads(module, (2, 3, 32, 32)) == ("fc",)
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


def test_a_network_that_does_not_run_has_no_head() -> None:
    with pytest.raises(CheckpointError, match="the network doesn't run"):
        heads(TinyNet(3), (2, 1, 16, 16))
