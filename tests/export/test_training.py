import copy
import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from engines.errors import CheckpointError, DataError, RunError, UnsupportedError
from export.evaluation import Batch, evaluate, resolve_device
from export.resume import load_state, resume_path, save_state
from export.training import (
    EpochFacts,
    TrainingData,
    TrainingInterrupted,
    TrainingState,
    best_epoch,
    initialised,
    train,
)
from tests.export.tiny_net import TinyNet
from tests.export.tiny_training import PREPROCESS, QUICK, bits, data, net, pictures


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # tiny operations gain nothing from more, and lose much on a busy machine
    yield
    torch.set_num_threads(threads)


class Listener:
    def __init__(self) -> None:
        self.begun: list[tuple[str, int | None, str]] = []
        self.done, self.ended = 0, 0
        self.facts: list[dict[str, object]] = []

    def begin(self, task: str, total: int | None = None, unit: str = "") -> None:
        self.begun.append((task, total, unit))

    def advance(self, steps: int = 1, **facts: object) -> None:
        self.done += steps
        if facts:
            self.facts.append(facts)

    def end(self) -> None:
        self.ended += 1


def test_training_learns_and_leaves_the_network_ready() -> None:
    module = net()
    before, _ = evaluate(module, data().test(), PREPROCESS)
    result = train(module, data(), PREPROCESS, replace(QUICK, epochs=6))
    loss, accuracy = evaluate(module, data().test(), PREPROCESS)
    assert result.accuracy == accuracy >= 0.9
    assert loss < before / 2
    assert not module.training
    assert module.features[0].weight.is_contiguous()
    assert [facts.epoch for facts in result.history] == [1, 2, 3, 4, 5, 6]
    assert (result.device, result.precision) == ("cpu", "fp32")


def test_one_step_of_sgd_is_the_gradient_times_the_learning_rate() -> None:
    module = net()
    module.drop.p = 0.0
    by_hand = copy.deepcopy(module)
    pixels, labels = pictures(8, 1)
    one = TrainingData(lambda *_: [(pixels, labels)], lambda: [(pixels, labels)], 8, 8)
    train(module, one, PREPROCESS, replace(QUICK, epochs=1, optimizer="sgd", learning_rate=0.1, momentum=0))
    logits = by_hand(torch.from_numpy(PREPROCESS.normalise(pixels)))
    (-torch.log_softmax(logits, 1)[torch.arange(8), torch.from_numpy(labels)].mean()).backward()
    for trained, start in zip(module.parameters(), by_hand.parameters(), strict=True):
        expected = (start - 0.1 * start.grad).detach().numpy()
        np.testing.assert_allclose(trained.detach().numpy(), expected, atol=1e-6)


def test_label_smoothing_spreads_the_target() -> None:
    module = net().eval()
    pixels, labels = pictures(8, 1)
    one = TrainingData(lambda *_: [(pixels, labels)], lambda: [(pixels, labels)], 8, 8)
    with torch.no_grad():
        shares = torch.log_softmax(module(torch.from_numpy(PREPROCESS.normalise(pixels))).double(), 1).numpy()
    target = 0.9 * np.eye(3)[labels] + 0.1 / 3
    recipe = replace(QUICK, epochs=1, dropout=0, label_smoothing=0.1)
    result = train(module, one, PREPROCESS, recipe)
    assert result.history[0].train_loss == pytest.approx(-(target * shares).sum(1).mean(), rel=1e-5)


def test_the_first_step_of_adam_moves_every_weight_by_the_learning_rate() -> None:
    module = net()
    before = [parameter.detach().clone() for parameter in module.parameters()]
    pixels, labels = pictures(48, 1)
    one = TrainingData(lambda *_: [(pixels, labels)], lambda: [(pixels, labels)], 48, 48)
    train(module, one, PREPROCESS, replace(QUICK, epochs=1, learning_rate=1e-3))
    moved = torch.cat([(a.detach() - b).abs().flatten() for a, b in zip(module.parameters(), before, strict=True)])
    assert float(moved.max()) == pytest.approx(1e-3, rel=1e-3)
    assert float((moved > 0.9e-3).float().mean()) > 0.8


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_the_same_seed_gives_the_same_bits_and_another_seed_others(optimizer: str) -> None:
    def trained(seed: int) -> dict[str, bytes]:
        module = initialised_tiny(seed)
        train(module, data(), PREPROCESS, replace(QUICK, optimizer=optimizer, seed=seed))
        return bits(module)

    first = trained(3)
    torch.manual_seed(99)
    assert trained(3) == first
    assert trained(4) != first


def initialised_tiny(seed: int) -> TinyNet:
    with torch.random.fork_rng(devices=[]):
        return net(seed)


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
@pytest.mark.parametrize("stop", [1, 3])
def test_an_interrupted_and_resumed_training_equals_an_uninterrupted_one(
    optimizer: str, stop: int, tmp_path: Path
) -> None:
    recipe = replace(
        QUICK, epochs=4, optimizer=optimizer, schedule="cosine", warmup=0.2, weight_decay=0.01, shift=0.2, dropout=0.3
    )
    whole = net()
    expected = train(whole, data(), PREPROCESS, recipe)
    path = resume_path(tmp_path / "m.pt")

    def stop_after(facts: EpochFacts, state: TrainingState) -> None:
        save_state(path, state, {"options": {"seed": 0}})
        if facts.epoch == stop:
            raise KeyboardInterrupt

    with pytest.raises(TrainingInterrupted):
        train(net(), data(), PREPROCESS, recipe, on_epoch=stop_after)
    state, run = load_state(path)
    assert (state.epoch, run) == (stop, {"options": {"seed": 0}})
    resumed = net(seed=7)
    torch.manual_seed(1234)
    result = train(resumed, data(), PREPROCESS, recipe, resume=state)
    assert bits(resumed) == bits(whole)
    assert [replace(facts, seconds=0) for facts in result.history] == [
        replace(facts, seconds=0) for facts in expected.history
    ]
    assert (result.best_epoch, result.accuracy) == (expected.best_epoch, expected.accuracy)


def test_ctrl_c_gives_back_the_best_finished_epoch() -> None:
    kept: dict[int, dict[str, bytes]] = {}
    module = net()
    source = data()

    def interrupted(epoch: int, rng: np.random.Generator) -> Iterator[Batch]:
        for step, batch in enumerate(source.train(epoch, rng)):
            if (epoch, step) == (2, 3):
                raise KeyboardInterrupt
            yield batch

    listener = Listener()
    with pytest.raises(TrainingInterrupted) as caught:
        train(
            module,
            replace(source, train=interrupted),
            PREPROCESS,
            replace(QUICK, epochs=5),
            progress=listener,
            on_epoch=lambda facts, state: kept.update({facts.epoch: bits_of(state)}),
        )
    result = caught.value.result
    assert result is not None
    assert len(result.history) == 2
    assert bits(module) == kept[result.best_epoch]
    assert not module.training
    assert listener.ended == 1


def bits_of(state: TrainingState) -> dict[str, bytes]:
    return {key: tensor.contiguous().numpy().tobytes() for key, tensor in state.model.items()}


def test_ctrl_c_in_the_first_epoch_has_no_result() -> None:
    def interrupted(*_: object) -> Iterator[Batch]:
        raise KeyboardInterrupt
        yield

    with pytest.raises(TrainingInterrupted) as caught:
        train(net(), replace(data(), train=interrupted), PREPROCESS, QUICK)
    assert caught.value.result is None


def test_the_best_epoch_is_kept_not_the_last() -> None:
    kept: dict[int, dict[str, bytes]] = {}
    module = net()
    # A learning rate that grows too large on the way: accuracy goes up, then down to chance.
    source = data()
    spoiled = replace(
        source,
        train=lambda epoch, rng: (
            (pixels, labels if epoch < 4 else (labels + 1) % 3) for pixels, labels in source.train(epoch, rng)
        ),
    )
    result = train(
        module,
        spoiled,
        PREPROCESS,
        replace(QUICK, epochs=8),
        on_epoch=lambda facts, state: kept.update({facts.epoch: bits_of(state)}),
    )
    assert result.history[-1].test_accuracy < result.accuracy
    assert result.best_epoch <= 5
    assert bits(module) == kept[result.best_epoch] != kept[8]
    assert result.accuracy == max(facts.test_accuracy for facts in result.history)


def test_of_equally_accurate_epochs_the_one_with_the_lower_loss_is_best() -> None:
    history = [
        EpochFacts(epoch, 1.0, 0.5, loss, accuracy, 1.0)
        for epoch, loss, accuracy in [(1, 0.1, 0.8), (2, 0.5, 0.9), (3, 0.4, 0.9), (4, 0.4, 0.9)]
    ]
    assert best_epoch(history).epoch == 3


def test_a_loss_that_is_not_finite_stops_the_training() -> None:
    with pytest.raises(RunError, match="the loss became nan in epoch 1") as caught:
        train(net(), data(), PREPROCESS, replace(QUICK, optimizer="sgd", learning_rate=1e30))
    assert "--learning-rate" in caught.value.remedy


def test_a_last_step_that_goes_too_far_stops_the_training_too() -> None:
    pixels, labels = pictures(8, 1)
    single = TrainingData(lambda *_: [(pixels, labels)], lambda: [(pixels, labels)], 8, 8)
    recipe = replace(QUICK, epochs=1, optimizer="sgd", learning_rate=1e38, batch_size=8)
    with pytest.raises(RunError, match=r"the loss became (nan|inf) in epoch 1"):
        train(net(), single, PREPROCESS, recipe)


def test_ctrl_c_while_the_result_is_measured_keeps_the_best_epoch() -> None:
    source, tests = data(), 0

    def test() -> Iterable[Batch]:
        nonlocal tests
        tests += 1
        if tests > QUICK.epochs:
            raise KeyboardInterrupt
        return source.test()

    module = net()
    with pytest.raises(TrainingInterrupted) as caught:
        train(module, replace(source, test=test), PREPROCESS, QUICK)
    whole = net()
    expected = train(whole, source, PREPROCESS, QUICK)
    assert caught.value.result is not None
    assert caught.value.result.best_epoch == expected.best_epoch
    assert bits(module) == bits(whole)


def test_progress_counts_every_image_and_reports_at_the_interval() -> None:
    listener = Listener()
    train(net(), data(), PREPROCESS, QUICK, progress=listener)
    assert listener.begun == [("training", 3 * (48 + 30), "images")]
    assert (listener.done, listener.ended) == (3 * (48 + 30), 1)
    steps = [facts for facts in listener.facts if "loss" in facts]
    assert len(steps) == 3 * 3  # six steps an epoch, every second one
    assert steps[-1]["epoch"] == "3/3"
    assert 0 <= float(str(steps[-1]["accuracy"])) <= 1
    assert {facts["learning_rate"] for facts in steps} == {QUICK.learning_rate}


def test_training_leaves_torchs_generator_alone() -> None:
    module = net()
    before = torch.get_rng_state()
    train(module, data(), PREPROCESS, replace(QUICK, epochs=1))
    assert torch.equal(torch.get_rng_state(), before)
    initialised("alexnet-d2l", 2, 1, QUICK)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_recipe_says_how_a_network_begins() -> None:
    own = initialised("alexnet-2012", 2, 3, replace(QUICK, seed=4))
    kaiming = initialised("alexnet-2012", 2, 3, replace(QUICK, seed=4, initialisation="kaiming"))
    assert float(own.get_parameter("conv3.weight").detach().std()) == pytest.approx(0.01, rel=0.01)
    expected = math.sqrt(2 / (256 * 9))
    assert float(kaiming.get_parameter("conv3.weight").detach().std()) == pytest.approx(expected, rel=0.01)
    assert not kaiming.get_parameter("conv2.bias").detach().any()


def test_a_recipes_dropout_holds_while_training_and_no_longer() -> None:
    trained = []
    for own, given in ((0.2, 0.7), (0.7, None), (0.2, None)):
        module = net()
        module.drop.p = own
        train(module, data(), PREPROCESS, replace(QUICK, dropout=given))
        assert module.drop.p == own
        trained.append(bits(module))
    assert trained[0] == trained[1] != trained[2]


def test_bf16_trains_with_fp32_weights() -> None:
    module = net()
    result = train(module, data(), PREPROCESS, replace(QUICK, epochs=6, precision="bf16"))
    assert result.precision == "bf16"
    assert all(parameter.dtype == torch.float32 for parameter in module.parameters())
    assert result.accuracy >= 0.9
    exact = net()
    train(exact, data(), PREPROCESS, replace(QUICK, epochs=6))
    assert bits(exact) != bits(module)


def test_data_without_images_is_refused() -> None:
    with pytest.raises(DataError, match="0 images to train on"):
        train(net(), replace(data(), train_size=0), PREPROCESS, QUICK)
    with pytest.raises(DataError, match="epoch 1 has no images"):
        train(net(), replace(data(), train=lambda *_: []), PREPROCESS, QUICK)
    with pytest.raises(DataError, match="no images to evaluate on"):
        evaluate(net(), [], PREPROCESS)


def test_devices_that_are_not_there_are_refused() -> None:
    assert resolve_device("cpu") == torch.device("cpu")
    count = torch.cuda.device_count()
    for device, cause in [
        (f"cuda:{count}", f"sees {count} CUDA devices"),
        ("gpu", "no device 'gpu'"),
        ("meta", "not supported"),
    ]:
        with pytest.raises(UnsupportedError, match=cause):
            train(net(), data(), PREPROCESS, QUICK, device=device)


def test_a_damaged_state_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.pt.resume"

    def capture(_: EpochFacts, state: TrainingState) -> None:
        save_state(path, state, {})

    train(net(), data(), PREPROCESS, replace(QUICK, epochs=1), on_epoch=capture)
    content = torch.load(path, weights_only=True)
    for change, cause in [
        ({"format": "else"}, "not the state of a training"),
        ({"history": [{"epoch": 1}]}, "is damaged"),
        ({"epoch": 2}, "1 epochs recorded of 2"),
    ]:
        torch.save(content | change, path)
        with pytest.raises(CheckpointError, match=cause):
            load_state(path)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(CheckpointError, match="damaged") as caught:
        load_state(path)
    assert caught.value.remedy == "delete it and train again without --resume"
