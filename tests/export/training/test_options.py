"""One step by hand for every option that changes what a step does."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from engines.errors import CheckpointError, InputError, UnsupportedError
from export.recipe import Recipe
from export.training import TrainingData, head_of, train
from export.training.optimizers import optimizer_for
from tests.export.tiny_net import TinyNet
from tests.export.tiny_training import PREPROCESS, QUICK, bits, data, net, pictures, two_heads

PLAIN = replace(QUICK, epochs=1, optimizer="sgd", learning_rate=0.1, momentum=0, dropout=0)


def one_step(recipe: Recipe, module: nn.Module) -> nn.Module:
    pixels, labels = pictures(8, 1)
    train(module, TrainingData(lambda *_: [(pixels, labels)], lambda: [(pixels, labels)], 8, 8), PREPROCESS, recipe)
    return module


def gradients(module: nn.Module, aux: float = 0.0) -> list[torch.Tensor]:
    pixels, labels = pictures(8, 1)
    answer = module(torch.from_numpy(PREPROCESS.normalise(pixels)))
    logits = answer if isinstance(answer, tuple) else (answer,)
    losses = [-one.log_softmax(1)[torch.arange(8), torch.from_numpy(labels)].mean() for one in logits]
    loss = losses[0] + aux * sum(losses[1:])
    return list(torch.autograd.grad(loss, list(module.parameters()), allow_unused=True))


def without_dropout() -> TinyNet:
    module = net()
    module.drop.p = 0.0
    return module


@pytest.mark.parametrize("weight", [0.3, 0.0, 1.0])
def test_losses_of_auxiliary_heads_count_with_their_weight(weight: float) -> None:
    before = two_heads()
    after = one_step(replace(PLAIN, aux_weight=weight), copy.deepcopy(before))
    for new, old, slope in zip(after.parameters(), before.parameters(), gradients(before, weight), strict=True):
        np.testing.assert_allclose(new.detach(), old.detach() - 0.1 * slope, atol=1e-6)


def test_a_gradient_is_clipped_as_a_whole() -> None:
    before = without_dropout()
    slopes = gradients(before)
    norm = float(torch.cat([slope.flatten() for slope in slopes]).norm())
    for limit in (norm / 4, norm * 4):
        after = one_step(replace(PLAIN, clip=limit), copy.deepcopy(before))
        for new, old, slope in zip(after.parameters(), before.parameters(), slopes, strict=True):
            expected = old.detach() - 0.1 * slope * min(1, limit / norm)
            np.testing.assert_allclose(new.detach(), expected, atol=1e-6)


def test_weight_decay_can_leave_biases_and_norms_alone() -> None:
    before = two_heads()
    # A step moves a weight by its rate of 0.001 at most; of weights of 100 the decay of 0.001 * 0.5 takes 0.05.
    with torch.no_grad():
        for parameter in before.parameters():
            parameter.add_(100)
    for decay_all in (True, False):
        recipe = replace(PLAIN, optimizer="adamw", learning_rate=1e-3, weight_decay=0.5, decay_all=decay_all)
        after = one_step(recipe, copy.deepcopy(before))
        for new, old in zip(after.parameters(), before.parameters(), strict=True):
            decayed = float((old - new).detach().mean()) > 0.02
            assert decayed == (decay_all or old.ndim > 1)


def test_nesterovs_momentum_looks_ahead() -> None:
    pixels, labels = pictures(8, 1)
    twice = TrainingData(lambda *_: [(pixels, labels)], lambda: [(pixels, labels)], 8, 8)
    module, by_hand = without_dropout(), without_dropout()
    train(module, twice, PREPROCESS, replace(PLAIN, epochs=1, momentum=0.9, nesterov=True))
    # PyTorch's form (Sutskever et al. 2013): v = g + 0.9 v, w -= rate (g + 0.9 v), from v = 0.
    for new, old, slope in zip(module.parameters(), by_hand.parameters(), gradients(by_hand), strict=True):
        np.testing.assert_allclose(new.detach(), old.detach() - 0.1 * (slope + 0.9 * slope), atol=1e-6)


def test_frozen_only_the_head_learns_and_batch_norm_stays_as_it_is() -> None:
    before = two_heads()
    with torch.no_grad():
        before.norm.running_mean += 0.5
    after = two_heads()
    after.load_state_dict(before.state_dict())
    result = train(after, data(), PREPROCESS, replace(QUICK, epochs=6, freeze=True, ema=0.9))
    was, now = bits(before), bits(after)
    assert {key for key, value in now.items() if value != was[key]} == {"head.weight", "head.bias"}
    assert head_of(after, (2, 3, 16, 16)) is after.head
    assert all(parameter.requires_grad for parameter in after.parameters())
    assert result.history[-1].test_loss < result.history[0].test_loss
    assert result.accuracy > 0.5


class HeadFirst(nn.Module):
    """Defines the layer that runs last first."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(12, 3)
        self.body = nn.Linear(16 * 16 * 3, 12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.body(x.flatten(1)).relu())
        return logits


def test_the_head_is_what_gives_the_logits_wherever_it_is_defined() -> None:
    torch.manual_seed(0)
    module = HeadFirst()
    before = bits(module)
    train(module, data(), PREPROCESS, replace(QUICK, epochs=1, freeze=True))
    assert {key for key, value in bits(module).items() if value != before[key]} == {"head.weight", "head.bias"}


def test_frozen_the_optimizer_has_the_head_alone() -> None:
    module = net()
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name.startswith("head."))
    trained = [parameter for group in optimizer_for(module, QUICK).param_groups for parameter in group["params"]]
    assert [id(parameter) for parameter in trained] == [id(module.head.weight), id(module.head.bias)]
    with pytest.raises(CheckpointError, match="no layer with weights"):
        train(nn.Sequential(nn.Flatten()), data(), PREPROCESS, replace(QUICK, freeze=True))


def test_batch_norm_of_one_image_is_left_out_or_refused() -> None:
    lone = two_heads()
    train(lone, data(17), PREPROCESS, replace(QUICK, epochs=2))
    assert int(lone.norm.num_batches_tracked) == 4  # two steps of eight an epoch; the seventeenth image waits
    plain = train(net(), data(17), PREPROCESS, replace(QUICK, epochs=1))
    assert plain.history[0].train_accuracy * 17 == pytest.approx(round(plain.history[0].train_accuracy * 17))
    with pytest.raises(
        InputError, match="batches of 1 leave a process with fewer than 2 images, of which batch norm"
    ):
        train(two_heads(), data(batch=1), PREPROCESS, replace(QUICK, batch_size=1))


class Uncompilable(nn.Module):
    """Asks a tensor for a value, which no compiler can follow."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(16 * 16 * 3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(x.flatten(1))
        return logits if float(logits.detach().sum()) > 0 else -logits


def test_what_cannot_be_compiled_is_an_error() -> None:
    with pytest.raises(
        UnsupportedError, match=r"torch\.compile can't compile the network: UserError: .*data-dependent"
    ) as caught:
        train(Uncompilable(), data(), PREPROCESS, replace(QUICK, compile=True))
    assert "--compile" in caught.value.remedy
    train(Uncompilable(), data(), PREPROCESS, replace(QUICK, epochs=1))


def test_an_error_of_the_network_is_not_blamed_on_the_compiler() -> None:
    class Broken(TinyNet):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        train(Broken(3), data(), PREPROCESS, QUICK)
