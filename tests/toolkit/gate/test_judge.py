from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from engines.errors import InputError, RunError
from engines.preprocess import Preprocess
from engines.sessions.base import SessionInfo
from engines.tensors import TensorSpec
from tests.tiny import METADATA
from toolkit.benchmarking.messages import Block, Opened
from toolkit.benchmarking.timing import Timing, speed_ratio
from toolkit.comparison.accuracy.tally import Tally
from toolkit.comparison.layers import Layers
from toolkit.comparison.records.row import Row, Speed
from toolkit.gate.asking import Answered
from toolkit.gate.changes import changes_between
from toolkit.gate.distance import Distance, Shift
from toolkit.gate.evidence import Evidence
from toolkit.gate.judge import judge
from toolkit.gate.limits import GATES, Limits, chosen_gates
from toolkit.gate.result import Gate, Side
from toolkit.machine import describe

HERE = describe()


def tensor(name="input", dtype="float32", batch="batch") -> tuple[TensorSpec, ...]:
    return (TensorSpec(name, dtype, (batch, 3, 16, 16)),)


def opened(**changes) -> Opened:
    info = SessionInfo("tensorrt", "cuda:0", versions={"tensorrt": "10.13"}, max_batch=changes.pop("max_batch", 32))
    tensors = {
        "inputs": tensor(),
        "outputs": (TensorSpec("logits", "float32", ("batch", 5)),),
    }
    return Opened(metadata=None, info=info, open_seconds=1, first_seconds=1, **{**tensors, **changes})


def timing(seconds: float, *, spread: float = 0.01, batch: int = 1, seed: int = 0) -> Timing:
    rng = np.random.default_rng(seed)
    draw = lambda: Block(tuple(map(float, seconds * np.exp(rng.normal(0, spread, 10)))))  # noqa: E731
    return Timing.of(batch, [[draw() for _ in range(20)] for _ in range(2)])


def answered(old: list[int], new: list[int], truth: list[int], *, surest: float = 0.9) -> Answered:
    """Two that name these classes; ``surest`` is how far their logit is above the others'."""
    tallies = [Tally(METADATA.labels) for _ in range(2)]
    labels = np.array(truth)
    logits = [np.eye(5, dtype=np.float32)[numbers] * surest for numbers in (old, new)]
    first, second = (tally.read(values, labels) for tally, values in zip(tallies, logits, strict=True))
    tallies[0].add(first, range(len(truth)))
    tallies[1].add(second, range(len(truth)), first)
    distance, shift = Distance(), Shift()
    distance.add(*logits)
    shift.add(*logits)
    return Answered(None, tallies[0].result(), tallies[1].result(), distance, Distance(9, 100, 1.0), shift)


def evidence(**changes) -> Evidence:
    return replace(copies(), **changes)


@cache
def copies() -> Evidence:
    same = [0, 1, 2, 3] * 10
    row = Row("x", "x", 1000, "sha256:0", opened(), memory=1000, speeds={1: Speed(timing(0.01))})
    other = replace(row, speeds={1: Speed(timing(0.01), speed_ratio(timing(0.01), timing(0.01, seed=1)))})
    return Evidence(row, other, METADATA, METADATA, answered(same, same, same), None, (HERE, HERE))


def verdict(name: str, found: Evidence, **limits) -> Gate:
    (gate,) = judge(found, Limits(**limits), (name,))
    return gate


def test_two_copies_pass_every_gate():
    gates = judge(evidence(), Limits(), GATES)
    assert {gate.name: gate.status for gate in gates} == dict.fromkeys(GATES, "passed") | {"precision": "skipped"}


@pytest.mark.parametrize(
    ("hurt", "status"), [(0, "passed"), (2, "passed"), (3, "undecided"), (7, "failed"), (12, "failed")]
)
def test_a_drop_fails_when_it_is_proven_and_is_undecided_when_it_may_be_chance(hurt, status):
    truth = [0] * 400
    found = answered(truth, [1] * hurt + truth[hurt:], truth)
    gate = verdict("accuracy", evidence(answered=found))
    assert (gate.status, gate.value) == (status, pytest.approx(hurt / 4))


def test_flips_are_counted_on_these_very_images():
    truth = [0] * 400
    found = answered(truth, [1] * 5 + truth[5:], truth)
    assert verdict("flips", evidence(answered=found)).status == "failed"
    assert verdict("flips", evidence(answered=found), max_flips=1.25).status == "passed"
    assert verdict("confident-flips", evidence(answered=found)).value == 0
    found = answered(truth, [1] * 5 + truth[5:], truth, surest=9.0)
    gate = verdict("confident-flips", evidence(answered=found))
    assert (gate.status, gate.value, gate.found, gate.allowed) == ("failed", 5, "5 images", "0 images")


def test_an_image_that_neither_has_a_number_for_is_no_flip():
    logits, truth = np.eye(5, dtype=np.float32)[[0] * 40], np.zeros(40, np.int64)
    logits[:3] = np.nan
    tallies = [Tally(METADATA.labels) for _ in range(2)]
    answers = [tally.read(logits, truth) for tally in tallies]
    tallies[1].add(answers[1], range(40), answers[0])
    found = replace(evidence().answered, new=tallies[1].result())
    gate = verdict("flips", evidence(answered=found))
    assert (gate.status, gate.value, gate.text) == ("passed", 0, "0 of 40 images changed the top-1 class")
    assert verdict("flips", evidence(answered=replace(found, broken=3))).value == pytest.approx(7.5)


@pytest.mark.parametrize(("squares", "status"), [(0.0, "passed"), (3.9, "passed"), (4.1, "failed")])
def test_logits_are_held_against_the_floor(squares, status):
    found = replace(evidence().answered, distance=Distance(9, 100, squares))
    gate = verdict("logits", evidence(answered=found))
    assert (gate.status, gate.value) == (status, pytest.approx(squares**0.5))


@pytest.mark.parametrize(("step", "status"), [(0.02, "passed"), (0.03, "failed")])
def test_a_shift_is_held_against_the_floor_too(step, status):
    old = np.random.default_rng(0).normal(size=(50, 5)).astype(np.float32)
    distance, shift = Distance(), Shift()
    distance.add(old, old + np.float32(step))
    shift.add(old, old + np.float32(step))
    found = replace(copies().answered, distance=distance, shift=shift, floor=Distance(9, 100, 1.0))
    gate = verdict("logits-shift", evidence(answered=found))
    assert (gate.status, gate.value) == (status, pytest.approx(10 * step, rel=1e-4))
    assert verdict("logits", evidence(answered=found)).status == "passed"


def test_a_shift_of_too_few_images_is_undecided():
    found = replace(copies().answered, distance=Distance(3, 15, 1.0), shift=Shift())
    assert verdict("logits-shift", evidence(answered=found)).status == "undecided"
    equal = replace(found, distance=Distance(3, 15, 0.0))
    assert verdict("logits-shift", evidence(answered=equal)).text == "the logits are equal to the last bit"


def test_logits_of_other_weights_and_without_a_floor_are_not_judged():
    retrained = METADATA.with_origin(weights="sha256:1")
    assert verdict("logits", evidence(new_model=retrained)).status == "skipped"
    found = replace(evidence().answered, distance=Distance(9, 100, 1.0), floor=Distance())
    assert verdict("logits", evidence(answered=found)).status == "undecided"


def test_new_nan_fails_and_old_nan_does_not():
    assert verdict("non-finite", evidence(answered=replace(evidence().answered, broken=1))).status == "failed"


@pytest.mark.parametrize(
    ("factor", "spread", "status"),
    [(1.0, 0.01, "passed"), (0.5, 0.01, "passed"), (1.2, 0.01, "failed"), (1.052, 0.01, "undecided"),
     (1.0, 0.6, "undecided")],
)  # fmt: skip
def test_a_slowdown_fails_when_it_is_proven(factor, spread, status):
    old, new = timing(0.01, spread=spread), timing(0.01 * factor, spread=spread, seed=1)
    found = evidence()
    row = replace(found.new, speeds={1: Speed(new, speed_ratio(old, new))})
    found = replace(found, old=replace(found.old, speeds={1: Speed(old)}), new=row)
    latency, throughput = verdict("latency", found), verdict("throughput", found)
    assert latency.status == throughput.status == status
    if spread < 0.1:
        assert latency.value == pytest.approx(100 * (factor - 1), abs=1)
        assert throughput.value == pytest.approx(100 * (1 - 1 / factor), abs=1)
    assert latency.interval[0] < latency.value < latency.interval[1]


@pytest.mark.parametrize(
    ("factor", "status"), [(1.0, "undecided"), (1.12, "undecided"), (1.3, "failed"), (0.8, "passed")]
)
def test_times_of_a_baseline_carry_the_machines_drift(factor, status):
    found = evidence(baseline="2026-01-01", new=replace(evidence().new, speeds={1: Speed(timing(0.01 * factor))}))
    gate = verdict("latency", found)
    assert gate.status == status
    assert "not in turns with the baseline of 2026-01-01" in gate.text


def test_times_of_another_machine_or_other_threads_are_not_judged():
    other = replace(HERE, cores=HERE.cores + 2)
    for name in ("latency", "throughput", "memory"):
        assert (
            "another machine: number of cores" in verdict(name, evidence(baseline="x", machines=(other, HERE))).text
        )
        assert "timed with 4 threads" in verdict(name, evidence(baseline="x", threads=(4, None))).text
        assert verdict(name, evidence(machines=(other, HERE))).status == "passed"
    upgraded = replace(HERE, libraries={"tensorrt": "11"}, python="3.13")
    assert verdict("latency", evidence(baseline="x", machines=(upgraded, HERE))).status != "skipped"


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"inputs": tensor("pixels")}, "input 'input' is gone; input 'pixels' is new"),
        ({"inputs": tensor(dtype="float16")}, "input 'input' was float32 and is float16"),
        ({"outputs": tensor("logits")}, "output 'logits' was ['batch', 5] and is ['batch', 3, 16, 16]"),
        ({"inputs": tensor(batch=4)}, "took any batch and takes batches of exactly 4"),
        ({"max_batch": 8}, "took batches up to 32 and takes them up to 8"),
    ],
)  # fmt: skip
def test_what_a_caller_relies_on_may_not_change(change, text):
    gate = verdict("tensors", evidence(new=replace(evidence().new, opened=opened(**change))))
    assert (gate.status, gate.text) == ("failed", text)


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (replace(METADATA, labels=METADATA.labels[::-1]), "the same classes in another order"),
        (replace(METADATA, labels=("a", *METADATA.labels[1:])), "class 0 was 'class 0' and is 'a'"),
        (replace(METADATA, labels=METADATA.labels[1:]), "had 5 classes and has 4"),
        (replace(METADATA, uint8_input=True), "took normalised values and takes raw pixels"),
        (replace(METADATA, pictures=Preprocess(16, 16)), "preprocessing: resize was stretch and is crop"),
    ],
)  # fmt: skip
def test_neither_may_its_classes_and_preprocessing(model, text):
    gate = verdict("tensors", evidence(new_model=model))
    assert (gate.status, gate.text) == ("failed", text)


def test_another_name_of_the_batch_and_more_room_are_no_change():
    wider = opened(inputs=tensor(batch="N"), max_batch=64)
    assert verdict("tensors", evidence(new=replace(evidence().new, opened=wider))).status == "passed"


def test_one_that_took_a_single_batch_size_may_take_any_but_no_smaller_one():
    old = replace(evidence().old, opened=opened(inputs=tensor(batch=4), max_batch=4))
    assert verdict("tensors", evidence(old=old)).status == "passed"
    narrow = replace(evidence().new, opened=opened(max_batch=2))
    assert verdict("tensors", evidence(old=old, new=narrow)).text == "took batches up to 4 and takes them up to 2"
    other = replace(evidence().new, opened=opened(inputs=tensor(batch=8), max_batch=8))
    text = verdict("tensors", evidence(old=old, new=other)).text
    assert text == "took batches of exactly 4 and takes batches of exactly 8"


def layers(shares: dict[str, float], *names: str) -> Layers:
    return Layers("passport", shares, 8, names, "int8")


@pytest.mark.parametrize(
    ("old", "new", "status", "value"),
    [
        (layers({"int8": 1.0}), layers({"int8": 1.0}), "passed", 0),
        (layers({"int8": 1.0}), layers({"int8": 0.75, "fp32": 0.25}, "conv1", "fc"), "failed", 2),
        (layers({"int8": 0.75, "fp16": 0.25}, "a", "b"), layers({"int8": 0.75, "fp32": 0.25}, "a", "b"), "failed", 2),
        (layers({"int8": 0.5, "fp32": 0.5}, "a"), layers({"int8": 1.0}), "passed", 0),
    ],
)
def test_a_layer_that_computes_in_a_wider_type_is_named(old, new, status, value):
    found = evidence(old=replace(evidence().old, layers=old), new=replace(evidence().new, layers=new))
    gate = verdict("precision", found)
    assert (gate.status, gate.value) == (status, value)
    assert set(gate.details) == set(new.float_layers) - set(old.float_layers)
    assert verdict("precision", found, max_widened=2).status == "passed"


def test_a_quantised_layer_that_is_no_longer_fused_counts_as_wider():
    old, new = layers({"int8": 1.0}), replace(layers({"int8": 1.0}), unfused=("fc",))
    rows = (replace(evidence().old, layers=one) for one in (old, new, new))
    first, second, third = rows
    gate = verdict("precision", evidence(old=first, new=second))
    assert (gate.status, gate.value, gate.details) == ("failed", 1, ("fc",))
    assert gate.text == "100 % int8, as before; quantised, but computed in float: fc"
    assert verdict("precision", evidence(old=second, new=third)).status == "passed"


def test_size_and_memory_may_grow_a_little():
    for grown, status in ((1090, "passed"), (1110, "failed")):
        assert verdict("size", evidence(new=replace(evidence().new, size=grown))).status == status
    found = evidence(
        old=replace(evidence().old, device_memory=100), new=replace(evidence().new, memory=900, device_memory=130)
    )
    gate = verdict("memory", found)
    assert (gate.status, gate.value) == ("failed", pytest.approx(30))


def test_one_that_fails_is_stopped_by_that_and_by_nothing_that_it_did_not_do():
    dead = Answered(None, None, None, None, Distance())
    found = evidence(answered=dead, failure=RunError("killed by SIGSEGV"), new=Row("x", "x", 1000, "sha256:1"))
    status = {gate.name: gate.status for gate in judge(found, Limits(), GATES)}
    assert status == dict.fromkeys(GATES, "skipped") | {"run": "failed", "size": "passed"}
    chosen = judge(replace(found, failure=RunError("killed", "look at its log")), Limits(), ("flips", "size"))
    assert {gate.name: gate.status for gate in chosen} == {"run": "failed", "flips": "skipped", "size": "passed"}
    assert chosen[0].details == ("look at its log",)


def test_what_changed_around_the_two_is_listed():
    passport = {"driver": "580", "versions": {"tensorrt": "10.13"}, "options": {"tf32": False}}
    old = Side(replace(evidence().old, passport=passport), None, HERE, "x")
    upgraded = passport | {"versions": {"tensorrt": "11.0"}}
    machine = replace(HERE, libraries={}, gpus=({"name": "B200", "driver": "590"},))
    new = Side(replace(old.row, digest="sha256:1", passport=upgraded), None, machine, "x")
    found = {change.what: (change.old, change.new) for change in changes_between(old, new, METADATA, METADATA)}
    assert found["GPU"] == (", ".join(gpu["name"] for gpu in HERE.gpus) or "-", "B200")
    assert found["built with tensorrt"] == ("10.13", "11.0")
    assert found["installed numpy"] == (np.__version__, "-")
    assert not found.keys() & {"processor", "built: driver", "built: tf32"}
    bare = replace(new, row=replace(new.row, passport=None))
    assert not [c for c in changes_between(old, bare, METADATA, METADATA) if c.what.startswith("built")]


def test_gates_are_chosen_by_name():
    assert chosen_gates() == GATES
    assert chosen_gates(only=("size", "flips")) == ("flips", "size")
    assert chosen_gates(only=("size", "flips"), skip=("size",)) == ("flips",)
    with pytest.raises(InputError, match="no gate 'speed'"):
        chosen_gates(skip=("speed",))
    with pytest.raises(InputError, match="no gate is left"):
        chosen_gates(only=("size",), skip=("size",))


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_a_limit_is_a_number_from_0(value):
    with pytest.raises(InputError, match="--max-drop"):
        Limits(max_drop=value)
