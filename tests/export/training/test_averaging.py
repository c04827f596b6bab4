from dataclasses import replace

import numpy as np
import pytest
import torch

from export.evaluation import evaluate
from export.training import EpochFacts, TrainingState, train
from export.training.averaging import Averaged
from tests.export.tiny_training import PREPROCESS, QUICK, bits, data, net, two_heads


def test_an_average_is_what_a_loop_by_hand_gives() -> None:
    module = two_heads()
    averaged = Averaged(module, 0.9)
    expected = {key: value.double().numpy().copy() for key, value in module.state_dict().items()}
    for step in range(1, 131):
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(torch.randn_like(parameter))
            module.norm.running_mean += 1
            module.norm.num_batches_tracked += 1
        averaged.update(module)
        decay = min(0.9, (1 + step) / (10 + step))
        for key, value in module.state_dict().items():
            now = value.double().numpy()
            expected[key] = decay * expected[key] + (1 - decay) * now if value.is_floating_point() else now
    for key, value in averaged.state.items():
        np.testing.assert_allclose(value.numpy(), expected[key], rtol=1e-4, atol=1e-5, err_msg=key)
    assert int(averaged.state["norm.num_batches_tracked"]) == 130


def test_weights_that_stay_keep_every_bit_in_the_average() -> None:
    module = net()
    before = bits(module)
    averaged = Averaged(module, 0.999)
    for _ in range(50):
        averaged.update(module)
    assert {key: value.numpy().tobytes() for key, value in averaged.state.items()} == before


def test_the_averaged_weights_are_tested_and_kept() -> None:
    states: dict[int, tuple[float, dict[str, torch.Tensor]]] = {}

    def keep(facts: EpochFacts, state: TrainingState) -> None:
        assert state.averaged is not None
        states[facts.epoch] = (facts.test_loss, {key: value.clone() for key, value in state.averaged.items()})
        assert any(not torch.equal(value, state.model[key]) for key, value in state.averaged.items())

    module = net()
    result = train(module, data(), PREPROCESS, replace(QUICK, epochs=4, ema=0.8), on_epoch=keep)
    again = net(seed=5)
    for loss, weights in states.values():
        again.load_state_dict(weights)
        assert evaluate(again, data().test(), PREPROCESS)[0] == pytest.approx(loss, rel=1e-6)
    again.load_state_dict(states[result.best_epoch][1])
    assert bits(module) == bits(again)


def test_averaging_does_not_change_what_is_trained() -> None:
    plain: dict[int, list[torch.Tensor]] = {}
    with_average: dict[int, list[torch.Tensor]] = {}
    for recipe, kept in [(QUICK, plain), (replace(QUICK, ema=0.9), with_average)]:
        train(
            net(),
            data(),
            PREPROCESS,
            recipe,
            on_epoch=lambda facts, state, kept=kept: kept.update(
                {facts.epoch: [value.clone() for value in state.model.values()]}
            ),
        )
    for epoch, values in plain.items():
        assert all(torch.equal(a, b) for a, b in zip(values, with_average[epoch], strict=True))
