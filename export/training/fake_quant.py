"""Fake quantisation: a float network that rounds where its INT8 graph does, and learns how far its ranges reach.

What is simulated is an INT8 graph for TensorRT (:mod:`calibration.placement.tensorrt`):

1. The input of a layer is ``clip(round(x / s), -128, 127) · s``, one step ``s`` a tensor, rounded half to even as
   ONNX's QuantizeLinear does. ``s`` is ``amax / 127``, raised to the next number that float16 holds.
2. A layer's weights are rounded the same way within ±127, with a step an output channel that is taken from the
   largest of the channel's weights as they are now. Biases stay float.
3. Batch normalisation is frozen: it runs as in eval mode, with its weight and bias still learning. The graph has it
   folded into the convolution before it, which multiplies a channel's weights by ``f = γ / √(σ² + ε)``. As the step
   is the channel's own, ``round(w · f / s) · s / f`` in front of the normalisation is the same as
   ``round(w · f / s) · s`` without one.

Gradients pass through the rounding as if it weren't there (straight-through). A range learns as in LSQ (Esser et al.
2020, "Learned step size quantization"): for a value that isn't clipped the gradient of ``s`` is
``round(x / s) - x / s``, for a clipped one -128 or 127, all scaled by ``1 / √(127 N)`` for N values a sample. What is
learned is the logarithm of the range relative to the calibrated one (as in TQT, Jain et al. 2020): it starts at 0, a
range can't become negative, averages of it are geometric means, and weight decay pulls it to the calibrated range.
"""

import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize

from engines.errors import UnsupportedError
from export.training.operands import Operand, with_operands

LOW, HIGH = -128, 127
"""What QuantizeLinear saturates at. The range of a tensor is that of HIGH."""

PARAMETER = "log_range"
"""How the learned parameters' names begin: ``features.0.log_range``."""


@dataclass(frozen=True)
class Layer:
    """A convolution or linear layer that is quantised.

    Attributes:
        path: of the module.
        range: the name of its input's range.
        axis: the dimension of the weight that holds the output channels.
        half_scales: the weights' steps are numbers that float16 holds.
        norm: path of the batch normalisation that the graph folds into it; None where there is none.
    """

    path: str
    range: str
    axis: int = 0
    half_scales: bool = True
    norm: str | None = None


class FakeQuantisation:
    """Fake quantisation in a module, until :meth:`detach`.

    The weights' keys change while this is attached, and parameters called :data:`PARAMETER` are added, so that
    optimizers, state dicts, copies, averages and DistributedDataParallel know them.
    Attach it before an optimizer is made, and take states back into a module that it is attached to.

    Args:
        module: a network, on any device; it is changed in place.
        amax: the ranges to begin with, by name: the magnitude at which a tensor is clipped.
        layers: what is quantised with its weights.
        operands: what is quantised of sums and products inside a module's own forward.

    Raises:
        UnsupportedError: a layer's weight has a parametrisation already, or a module's forward can't be traced.
    """

    def __init__(
        self, module: nn.Module, amax: Mapping[str, float], layers: Sequence[Layer], operands: Sequence[Operand] = ()
    ) -> None:
        self._module = module
        self._ranges: dict[str, Range] = {}
        self._hooks: list[Any] = []
        self._weighted: list[tuple[nn.Module, list[str]]] = []
        self._traced: list[nn.Module] = []
        self._norms: list[nn.Module] = []
        modules = dict(module.named_modules())
        for layer in layers:
            if parametrize.is_parametrized(modules[layer.path], "weight"):
                raise UnsupportedError(
                    f"the weight of '{layer.path}' is parametrised already", "remove the parametrisation first"
                )
        traced = {
            path: with_operands(modules[path], path, [item for item in operands if item.path == path])
            for path in dict.fromkeys(item.path for item in operands)
        }
        for layer in layers:
            self._quantise_layer(modules, layer, amax)
        for path, (forward, wanted) in traced.items():
            self._quantise_operands(modules[path], forward, wanted, amax)
        self._freeze()

    def ranges(self) -> dict[str, float]:
        """The magnitude at which each tensor is clipped now, by name."""
        return {name: float(found.amax().detach()) for name, found in self._ranges.items()}

    def detach(self) -> None:
        """Leave the plain network: its original keys in their order, its float weights, its batch normalisation."""
        for hook in self._hooks:
            hook.remove()
        for found in self._ranges.values():
            found.remove()
        for layer, order in self._weighted:
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)
            layer._parameters = {key: layer._parameters[key] for key in order}
        for block in self._traced:
            del block.forward
            for name in [name for name in vars(block) if name.startswith(f"_{PARAMETER}_of_")]:
                delattr(block, name)
        for norm in self._norms:
            del norm.train
            norm.train(self._module.training)
        self._hooks, self._weighted, self._traced, self._norms = [], [], [], []

    def _quantise_layer(self, modules: Mapping[str, nn.Module], layer: Layer, amax: Mapping[str, float]) -> None:
        target: Any = modules[layer.path]
        order = list(target._parameters)
        norm = modules[layer.norm] if layer.norm is not None else None
        weight = _Weight(layer.axis, norm, half_scales=layer.half_scales)
        parametrize.register_parametrization(target, "weight", weight)
        self._weighted.append((target, order))
        found = self._range(layer.range, target, amax)
        self._hooks.append(target.register_forward_pre_hook(_QuantisedInput(found)))

    def _quantise_operands(
        self, block: nn.Module, forward: Any, wanted: Mapping[str, str], amax: Mapping[str, float]
    ) -> None:
        for attribute, name in wanted.items():
            setattr(block, attribute, self._range(name, block, amax))
        block.forward = types.MethodType(forward, block)
        self._traced.append(block)

    def _range(self, name: str, owner: nn.Module, amax: Mapping[str, float]) -> "Range":
        """The range of that name, which the first module that reads it holds the parameter of."""
        if name not in self._ranges:
            self._ranges[name] = Range(owner, amax[name])
        return self._ranges[name]

    def _freeze(self) -> None:
        for norm in self._module.modules():
            if isinstance(norm, _BatchNorm):
                norm.eval()
                norm.train = types.MethodType(_stay_frozen, norm)  # type: ignore[method-assign]
                self._norms.append(norm)


class Range:
    """The range of one tensor: ``amax · exp(p)``, where ``p`` is a parameter of ``owner`` that starts at 0.

    Called with a tensor, it gives it fake-quantised, in float32.
    """

    def __init__(self, owner: nn.Module, amax: float) -> None:
        number = 0
        while f"{PARAMETER}{number or ''}" in owner._parameters:
            number += 1
        self._owner, self._name, self._amax = owner, f"{PARAMETER}{number or ''}", float(amax)
        device = next((tensor.device for tensor in owner.parameters()), torch.device("cpu"))
        owner.register_parameter(self._name, nn.Parameter(torch.zeros((), device=device)))

    def amax(self) -> torch.Tensor:
        """The magnitude at which the tensor is clipped: float32, no dimensions."""
        log: Any = self._owner._parameters[self._name]
        return self._amax * torch.exp(log)

    def remove(self) -> None:
        """Take the parameter off its owner."""
        del self._owner._parameters[self._name]

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        step = self.amax() / HIGH
        step = _replaced(step, half_up(torch.where(step > 0, step, torch.ones_like(step))))
        quantised: torch.Tensor = _FakeQuantise.apply(x.float(), step)  # type: ignore[no-untyped-call]
        return quantised


def half_up(values: torch.Tensor) -> torch.Tensor:
    """The smallest float16 that isn't below each of ``values`` (positive), as float32; saturated at 65504."""
    clipped = values.detach().float().clamp(max=65504.0)
    half = clipped.half()
    bits = half.view(torch.int16)
    above = torch.where(half.float() < clipped, bits + 1, bits)  # positive floats are ordered as their bits
    return above.view(torch.float16).float()


class _FakeQuantise(torch.autograd.Function):
    """``clip(round(x / s), -128, 127) · s`` with LSQ's gradients."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x, step)
        return torch.round(x / step).clamp_(LOW, HIGH).mul_(step)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        (gradient,) = gradients
        x, step = ctx.saved_tensors
        scaled = x / step
        codes = torch.round(scaled)
        kept = (codes >= LOW) & (codes <= HIGH)
        error = codes.clamp_(LOW, HIGH) - torch.where(kept, scaled, torch.zeros_like(scaled))
        share = (HIGH * x[0].numel()) ** -0.5
        return gradient * kept, (gradient * error).sum() * share


def _replaced(x: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """``value``, whose gradient is passed to ``x``."""
    result: torch.Tensor = _Replace.apply(x, value)  # type: ignore[no-untyped-call]
    return result


class _Replace(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradients[0], None


class _QuantisedInput:
    """Fake-quantises the first input of the module that it is a hook of."""

    def __init__(self, found: Range) -> None:
        self._range = found

    def __call__(self, _: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return (self._range(inputs[0]), *inputs[1:])


class _Weight(nn.Module):
    """Weights rounded to int8 with a step an output channel, as they are once ``norm`` is folded into them.

    Args:
        axis: the dimension of the output channels.
        norm: the batch normalisation behind the layer; it isn't made a part of this one.
        half_scales: use only steps that float16 holds: the next one above.
    """

    def __init__(self, axis: int, norm: nn.Module | None, *, half_scales: bool) -> None:
        super().__init__()
        self._axis, self._half, self._norm = axis, half_scales, (norm,)

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return _replaced(weight, self._rounded(weight.detach()))

    @torch.no_grad()
    def _rounded(self, weight: torch.Tensor) -> torch.Tensor:
        (norm,) = self._norm
        if norm is None:
            return self._codes(weight)
        shape = [1] * weight.ndim
        shape[self._axis] = -1
        factor = folding_factor(norm).reshape(shape)
        return torch.where(factor != 0, self._codes(weight * factor) / factor, weight)

    def _codes(self, weight: torch.Tensor) -> torch.Tensor:
        others = [axis for axis in range(weight.ndim) if axis != self._axis]
        step = weight.abs().amax(others, keepdim=True) / HIGH
        step = torch.where(step > 0, step, torch.ones_like(step))
        step = half_up(step) if self._half else step
        return torch.round(weight / step).clamp_(-HIGH, HIGH) * step


def folding_factor(norm: Any) -> torch.Tensor:
    """What folding a batch normalisation multiplies each channel's weights by: float32 [channels]."""
    factor = torch.rsqrt(norm.running_var.detach() + norm.eps)
    return factor if norm.weight is None else factor * norm.weight.detach()


def _stay_frozen(norm: nn.Module, mode: bool = True) -> nn.Module:
    """``train`` of a batch normalisation that stays in eval mode."""
    return nn.Module.train(norm, mode=False)
