"""Fake quantisation rounds as the INT8 graph does, learns its ranges, and leaves nothing behind."""

import copy
import warnings
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import nn

from calibration.placement.tensorrt import symmetric
from calibration.table import TensorRange
from calibration.weights import half_up as half_up_numpy
from calibration.weights import quantise_weight
from engines.errors import UnsupportedError
from export.training.fake_quant import FakeQuantisation, Layer, Range, half_up
from export.training.operands import Operand

if TYPE_CHECKING:
    from calibration.editor import Scale


class Residual(nn.Module):
    """x + norm(conv(x)), with the sum in its own forward."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(x)) + x


class Moody(Residual):
    """Adds something else while it trains."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x) + x if self.training else self.conv(x) + x * 2


class Counting(Residual):
    """Adds as often as its input says."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv(x) if x.sum() > 0 else x


def residual(kind: type[Residual] = Residual) -> Residual:
    torch.manual_seed(0)
    module = kind().eval()
    nn.init.uniform_(module.norm.weight, -1.0, 1.0)
    nn.init.uniform_(module.norm.running_var, 0.1, 4.0)
    nn.init.uniform_(module.norm.running_mean, -1.0, 1.0)
    return module


SKIP = Operand("", "Add", 0, 1, 1, "x")


def attach(module: nn.Module, amax: float = 2.0) -> FakeQuantisation:
    return FakeQuantisation(module, {"x": amax}, [Layer("conv", "x", norm="norm")], [SKIP])


def test_a_step_is_raised_to_the_next_float16_as_the_graph_has_it() -> None:
    values = np.concatenate([np.geomspace(1e-7, 9e4, 5000, dtype=np.float32), np.float32([1.0, 65504.0])])
    np.testing.assert_array_equal(half_up(torch.from_numpy(values)).numpy(), half_up_numpy(values))


@pytest.mark.parametrize("amax", [0.37, 2.0, 127.0, 0.0])
def test_an_activation_is_rounded_half_to_even_and_saturated_at_minus_128_and_127(amax: float) -> None:
    scale: Scale = symmetric(TensorRange(amax, -amax, amax))
    codes = np.arange(-600, 600, dtype=np.float32) / 4  # every fourth lies on the edge between two codes
    values = codes * np.float32(scale.scale)
    found = Range(nn.Linear(1, 1), amax)(torch.from_numpy(values)).detach().numpy()
    expected = np.clip(np.rint(values / np.float32(scale.scale)), -128, 127) * np.float32(scale.scale)
    np.testing.assert_array_equal(found, expected)


def test_a_range_gets_the_gradient_of_learned_step_size_quantisation() -> None:
    owner = nn.Linear(1, 1)
    found, x = Range(owner, 1.0), torch.linspace(-1.5, 1.5, 41).reshape(1, 41).requires_grad_()
    weights = torch.linspace(1, 2, 41)
    (found(x) * weights).sum().backward()
    step = float(half_up(torch.tensor(1 / 127)))
    scaled = x.detach().numpy()[0].astype(np.float64) / step
    inside = (np.rint(scaled) >= -128) & (np.rint(scaled) <= 127)
    slope = np.where(inside, np.rint(scaled) - scaled, np.where(scaled < 0, -128, 127))
    # d step / d log(range) is amax / 127
    expected = (slope * weights.numpy()).sum() / 127 / np.sqrt(127 * 41)
    assert float(owner.log_range.grad) == pytest.approx(expected, rel=1e-3)
    np.testing.assert_array_equal(x.grad.numpy()[0], np.where(inside, weights.numpy(), 0))


def test_rounding_in_front_of_a_normalisation_is_rounding_of_the_folded_weights() -> None:
    module = residual()
    norm = module.norm
    factor = (norm.weight / torch.sqrt(norm.running_var + norm.eps)).detach()
    folded = (module.conv.weight.detach() * factor[:, None, None, None]).numpy()
    codes, scales = quantise_weight(folded, 0, half_scales=True)
    attach(module)
    ours = (module.conv.weight.detach() * factor[:, None, None, None]).numpy()
    np.testing.assert_allclose(ours, codes * scales[:, None, None, None], rtol=1e-5, atol=1e-8)


def test_a_channel_that_its_normalisation_multiplies_by_zero_stays_finite() -> None:
    module = residual()
    nn.init.zeros_(module.norm.weight)
    attach(module)
    x = torch.randn(2, 4, 5, 5)
    module(x).square().sum().backward()
    assert torch.isfinite(module.norm.weight.grad).all()


def test_a_linear_layers_weights_have_a_float32_step_an_output() -> None:
    layer = nn.Linear(16, 8)
    weight = layer.weight.detach().clone().numpy()
    FakeQuantisation(nn.Sequential(layer), {"x": 1.0}, [Layer("0", "x", half_scales=False)])
    codes, scales = quantise_weight(weight, 0)
    np.testing.assert_array_equal(layer.weight.detach().numpy(), codes * scales[:, None])


def test_the_skip_of_a_sum_is_rounded_and_the_fresh_result_is_not() -> None:
    module = residual()
    attached = attach(module, 1.0)
    x = torch.randn(2, 4, 5, 5)
    rounded = Range(nn.Linear(1, 1), 1.0)(x)
    assert not torch.equal(rounded, x)
    weight = module.conv.weight.detach()
    expected = module.norm(nn.functional.conv2d(rounded, weight, padding=1)) + rounded
    torch.testing.assert_close(module(x), expected, rtol=0, atol=0)
    assert attached.ranges() == {"x": 1.0}


def test_batch_normalisation_stays_frozen_in_training_and_still_learns() -> None:
    module = residual()
    attached = attach(module)
    module.train()
    assert module.training
    assert not module.norm.training
    mean = module.norm.running_mean.clone()
    module(torch.randn(3, 4, 5, 5)).square().sum().backward()
    torch.testing.assert_close(module.norm.running_mean, mean, rtol=0, atol=0)
    assert float(module.norm.weight.grad.abs().sum()) > 0
    attached.detach()
    assert module.norm.training
    module.eval()
    module.train()
    assert module.norm.training


def test_detaching_leaves_the_plain_network() -> None:
    module = residual()
    x, before = torch.randn(2, 4, 5, 5), copy.deepcopy(module.state_dict())
    answer, classes = module(x), [type(part) for part in module.modules()]
    attached = attach(module)
    assert not torch.equal(module(x), answer)
    attached.detach()
    assert list(module.state_dict()) == list(before)
    assert [type(part) for part in module.modules()] == classes
    assert "forward" not in vars(module)
    assert not any("range" in name for name in vars(module))
    torch.testing.assert_close(module(x), answer, rtol=0, atol=0)
    module.load_state_dict(before)


def test_optimizers_copies_and_states_know_the_ranges() -> None:
    module = residual()
    attached = attach(module)
    names = [name for name, _ in module.named_parameters() if "log_range" in name]
    assert names == ["conv.log_range"]
    copied, x = copy.deepcopy(module), torch.randn(2, 4, 5, 5)
    with torch.no_grad():
        copied.get_parameter("conv.log_range").fill_(-2.0)
    assert attached.ranges()["x"] == 2.0
    assert not torch.equal(copied(x), module(x))
    module.load_state_dict(copied.state_dict())
    assert attached.ranges()["x"] == pytest.approx(2.0 * np.exp(-2.0))
    torch.testing.assert_close(copied(x), module(x), rtol=0, atol=0)


def test_a_compiled_module_rounds_the_same() -> None:
    module, x = residual(), torch.randn(2, 4, 5, 5)
    attach(module)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch.compile's own, of torch's own
        compiled = torch.compile(module, backend="eager")(x)
    torch.testing.assert_close(compiled, module(x), rtol=0, atol=0)


def test_under_autocast_values_are_rounded_in_float32() -> None:
    x = torch.randn(64).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found = Range(nn.Linear(1, 1), 1.0)(x)
    assert found.dtype == torch.float32
    step = half_up(torch.tensor(1 / 127))
    torch.testing.assert_close(found / step, torch.round(found / step), rtol=0, atol=1e-4)


@pytest.mark.parametrize(("kind", "reason"), [(Moody, "while training"), (Counting, "control flow")])
def test_a_sum_that_cannot_be_traced_is_refused_and_the_module_left_alone(kind: type[Residual], reason: str) -> None:
    module = residual(kind)
    keys = list(module.state_dict())
    with pytest.raises(UnsupportedError, match=reason):
        attach(module)
    assert list(module.state_dict()) == keys
    assert not module.training
