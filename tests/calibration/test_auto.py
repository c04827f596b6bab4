"""The ranges that are chosen are those that measure best on images that no histogram has seen."""

import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import helper

from calibration.auto import METHOD, Choice, Trial, choose, is_good, measure
from calibration.collect import Statistics, collect
from calibration.figures import figures
from calibration.methods import methods_for
from calibration.qdq import quantise
from calibration.refine import ALONE, HALVED, SEARCHED, TOGETHER, choose_ranges
from calibration.table import CalibrationTable
from calibration.trials import SURELY_GOOD_DB
from engines.errors import DataError, InputError, TableError
from tests.calibration.graphs import IMAGES, UNSEEN, graph_of, run
from tests.tiny import tiny_graph

LEVELS = 5
OUTLIER = 4000.0
CHANNELS = 64


def pictures(count: int, seed: int) -> np.ndarray:
    """Noise with a bright square, whose brightness is the class; some have a broken pixel where nobody looks."""
    rng = np.random.default_rng(seed)
    images = rng.normal(0, 0.5, (count, 3, 16, 16)).astype(np.float32)
    for index, image in enumerate(images):
        row, column = rng.integers(1, 12, 2)
        image[0, row : row + 3, column : column + 3] = 0.8 * (1 + index % LEVELS)
        if index % 8 == 3:
            image[2, 0, 0] = OUTLIER
    return images


def brightness_graph() -> onnx.ModelProto:
    """Tells how bright the square is.

    Its input has outliers that must be clipped, or nothing is left of the rest. Behind the first two convolutions the
    square is a long tail of a few values among 16,384, and must not be clipped behind either: wrong ranges hide each
    other.
    """
    rng = np.random.default_rng(4)
    detect = rng.normal(0, 0.2, (CHANNELS, 3, 3, 3)).astype(np.float32)
    detect[0] = 0
    detect[0, 0] = 1
    detect[:, 2] = 0
    mix = rng.normal(0, CHANNELS**-0.5, (CHANNELS, CHANNELS, 1, 1)).astype(np.float32)
    mix[0] = 0
    mix[:, 0] = 0
    mix[0, 0] = 1
    pick = np.zeros((1, CHANNELS, 1, 1), np.float32)
    pick[0, 0] = 1
    make = helper.make_node
    nodes = [
        make("Conv", ["input", "detect"], ["c1"], "detect", pads=[1, 1, 1, 1]),
        make("Relu", ["c1"], ["r1"], "relu1"),
        make("Conv", ["r1", "mix"], ["c2"], "mix"),
        make("Relu", ["c2"], ["r2"], "relu2"),
        make("Conv", ["r2", "pick", "threshold"], ["c3"], "pick"),
        make("Relu", ["c3"], ["r3"], "relu3"),
        make("ReduceSum", ["r3", "axes"], ["bright"], "sum", keepdims=0),
        make("Gemm", ["bright", "w", "b"], ["logits"], "fc"),
    ]
    constants = {
        "detect": detect, "mix": mix, "pick": pick, "threshold": np.full(1, -6, np.float32), "axes": np.array([2, 3]),
        "w": np.ones((1, LEVELS), np.float32), "b": np.zeros(LEVELS, np.float32),
    }  # fmt: skip
    model = graph_of(nodes, constants)
    sums = run(model, pictures(200, 9))[:, 0]
    means = np.array([sums[level::LEVELS].mean() for level in range(LEVELS)])
    # The nearest of the means has the largest of these scores, which are linear in the sum.
    scores = {"w": means[None, :] / 100, "b": -(means**2) / 200}
    return graph_of(nodes, {**constants, **{name: values.astype(np.float32) for name, values in scores.items()}})


@pytest.fixture(scope="module")
def hard() -> tuple[onnx.ModelProto, Statistics, np.ndarray]:
    model = brightness_graph()
    return model, collect(model, [pictures(64, seed) for seed in range(2)]), pictures(40, 77)


def error(model: onnx.ModelProto, table: CalibrationTable, images: np.ndarray) -> tuple[float, float]:
    """SQNR and agreement of the graph that ships."""
    shipped = quantise(model, table, "tensorrt", remainder="fp32")
    found = figures(run(model, images), run(shipped, images, optimised=False))
    return found.sqnr_db, found.agreement


def test_a_network_that_is_well_behaved_costs_one_measurement_a_method() -> None:
    model = tiny_graph()
    statistics = collect(model, [IMAGES])
    choice = choose(model, statistics, [UNSEEN[:16], UNSEEN[16:]], data="sha256:1", facts={"seed": 3})
    assert choice.evaluated <= len(methods_for("int8"))
    assert is_good(choice.chosen)
    assert choice.chosen.sqnr_db == max(trial.sqnr_db for trial in choice.trials)
    table = choice.table
    assert table.method == METHOD == "auto"
    assert {found.method for found in table.ranges.values()} == {choice.chosen.name}
    assert {name: found.amax for name, found in table.ranges.items()} == {
        name: found.amax for name, found in statistics.table(choice.chosen.name).ranges.items()
    }
    assert (table.data, table.facts["seed"], table.images) == ("sha256:1", 3, len(IMAGES))
    assert [trial["name"] for trial in table.facts["auto"]] == [trial.name for trial in choice.trials]
    assert CalibrationTable.from_json(json.loads(table.dumps())) == table


def test_where_half_of_the_images_leaves_no_doubt_the_others_are_not_measured() -> None:
    model = tiny_graph()
    statistics = collect(model, [IMAGES])
    halves = [UNSEEN[:16], UNSEEN[16:]]
    choice = choose(model, statistics, halves)
    assert choice.chosen.sqnr_db >= SURELY_GOOD_DB
    assert choice.images == 16
    assert choice.table == choose(model, statistics, halves[:1]).table
    assert choose(model, statistics, [UNSEEN]).images == len(UNSEEN)


def test_where_half_of_the_images_leaves_doubt_all_are_measured(
    hard: tuple[onnx.ModelProto, Statistics, np.ndarray],
) -> None:
    model, statistics, held_out = hard
    choice = choose(model, statistics, [held_out[:20], held_out[20:]])
    assert choice.images == len(held_out)
    assert choice.table.ranges == choose(model, statistics, [held_out]).table.ranges


def test_what_a_trial_says_is_what_the_graph_that_ships_does() -> None:
    model = tiny_graph()
    statistics = collect(model, [IMAGES])
    for trial in choose(model, statistics, [UNSEEN]).trials:
        sqnr, agreement = error(model, statistics.table(trial.name), UNSEEN)
        assert trial.sqnr_db == pytest.approx(sqnr, abs=0.1)
        assert trial.agreement == agreement


def test_where_no_method_suits_every_tensor_each_gets_its_own(
    hard: tuple[onnx.ModelProto, Statistics, np.ndarray],
) -> None:
    model, statistics, held_out = hard
    choice = choose(model, statistics, [held_out])
    unseen = pictures(60, 123)
    chosen, agreement = error(model, choice.table, unseen)
    singles = {name: error(model, statistics.table(name), unseen) for name in methods_for("int8")}
    assert chosen > 5 + max(sqnr for sqnr, _ in singles.values())
    assert agreement > max(share for _, share in singles.values())
    assert choice.table.ranges["input"].amax < OUTLIER / 100
    assert choice.table.ranges["input"].method != choice.table.ranges["r1"].method
    assert choice.evaluated <= len(methods_for("int8")) + ALONE + 1 + HALVED + 1 + TOGETHER
    assert choice.chosen.sqnr_db > choice.trials[0].sqnr_db
    assert choice.trials[-1] == choice.chosen


class Landscape:
    """A bench whose answers are known: each tensor adds the noise of its distance to the right range, in octaves."""

    def __init__(self, right: dict[str, float]) -> None:
        self.right, self.groups, self.measured = right, tuple(right), 0

    def measure(
        self, name: str, amax: dict[str, float] | None = None, *, only: tuple[str, ...] | None = None
    ) -> Trial:
        self.measured += 1
        seen = [group for group in self.groups if only is None or group in only]
        octaves = sum(abs(np.log2((amax or {})[group] / self.right[group])) for group in seen)
        return Trial(name, 15 - octaves, 0.9, 0)

    def readers(self, group: str) -> tuple[str, ...]:
        return (group,)


def test_each_tensor_takes_the_proposal_nearest_to_what_is_right_and_the_one_between_two_that_are_far_apart() -> None:
    proposals = {"wide": {"a": 16.0, "b": 16.0, "c": 3.0}, "narrow": {"a": 8.0, "b": 1.0, "c": 3.0}}
    found = choose_ranges(Landscape({"a": 8.5, "b": 4.2, "c": 100.0}), proposals)
    assert found.amax == {"a": 8.0, "b": 4.0, "c": 3.0}
    assert found.origins["a"] == "narrow"
    assert found.origins["b"] == "wide–narrow"


def test_where_all_methods_agree_on_what_is_too_wide_the_range_is_halved_while_that_gains() -> None:
    proposals = {"wide": {"a": 64.0, "b": 3.0}, "wider": {"a": 65.0, "b": 3.0}}
    found = choose_ranges(Landscape({"a": 4.5, "b": 3.0}), proposals)
    assert found.amax == {"a": 4.0, "b": 3.0}
    assert found.origins == {"a": SEARCHED, "b": "wide"}
    assert [trial.name for trial in found.trials][-1] == "searched ranges"


def test_the_search_of_ranges_can_be_left_for_later() -> None:
    bench = Landscape({"a": 4.5})
    found = choose_ranges(bench, {"wide": {"a": 64.0}, "narrow": {"a": 16.0}}, refine=lambda: False)
    assert found.amax == {"a": 16.0}
    assert bench.measured == 2


def test_however_many_tensors_there_are_the_measurements_are_bounded() -> None:
    names = [f"t{index}" for index in range(500)]
    bench = Landscape(dict.fromkeys(names, 3.0) | {"t7": 0.4})
    proposals = {"wide": dict.fromkeys(names, 16.0), "narrow": dict.fromkeys(names, 1.0) | {"t7": 0.01}}
    found = choose_ranges(bench, proposals)
    assert bench.measured <= 2 + ALONE + 1 + HALVED + 1 + TOGETHER
    assert found.origins["t7"] == "wide–narrow", "the largest disagreement comes first"


def test_it_repeats_itself(hard: tuple[onnx.ModelProto, Statistics, np.ndarray]) -> None:
    model, statistics, held_out = hard
    assert choose(model, statistics, [held_out]).table == choose(model, statistics, [held_out]).table


@pytest.mark.parametrize(
    ("sqnr", "agreement", "good"), [(20.5, 1.0, True), (20.5, 0.98, False), (26.5, 0.98, True), (19.0, 1.0, False)]
)
def test_good_is_low_noise_and_no_flips_or_very_low_noise(sqnr: float, agreement: float, good: bool) -> None:
    assert is_good(Trial("any", sqnr, agreement, 0.0)) is good


def test_methods_that_agree_are_measured_once() -> None:
    model = tiny_graph()
    statistics = collect(model, [IMAGES])
    once = choose(model, statistics, [UNSEEN], methods=["minmax", "minmax"])
    assert [trial.name for trial in once.trials] == ["minmax"]
    assert once.evaluated == 1
    flat = {name: replace(found, counts=np.ones_like(found.counts)) for name, found in statistics.histograms.items()}
    alike = choose(model, replace(statistics, histograms=flat), [UNSEEN], methods=["percentile", "minmax"])
    assert [trial.name for trial in alike.trials] == ["percentile"]


def test_fp8_has_candidates_of_its_own() -> None:
    model = tiny_graph()
    choice = choose(model, collect(model, [IMAGES]), [UNSEEN], precision="fp8")
    assert choice.table.precision == "fp8"
    assert {trial.name for trial in choice.trials} <= set(methods_for("fp8"))
    assert measure(model, choice.table, [UNSEEN]).sqnr_db == pytest.approx(choice.chosen.sqnr_db)


def test_progress_tells_of_every_candidate() -> None:
    class Listener:
        done: list[object]
        ended = False

        def begin(self, task: str, total: int | None = None, unit: str = "") -> None:
            self.done = []

        def advance(self, steps: int = 1, **facts: object) -> None:
            self.done.append(facts["candidate"])

        def end(self) -> None:
            self.ended = True

    model, listener = tiny_graph(), Listener()
    choice: Choice = choose(model, collect(model, [IMAGES]), [UNSEEN], progress=listener)
    assert listener.done == [trial.name for trial in choice.trials]
    assert listener.ended


def test_nonsense_is_refused() -> None:
    model = tiny_graph()
    statistics = collect(model, [IMAGES[:8]])
    with pytest.raises(InputError, match="no methods"):
        choose(model, statistics, [UNSEEN], methods=[])
    with pytest.raises(InputError, match="magic"):
        choose(model, statistics, [UNSEEN], methods=["magic"])
    with pytest.raises(DataError, match="no images"):
        choose(model, statistics, [])
    with pytest.raises(TableError, match="stale"):
        choose(tiny_graph(seed=5), statistics, [UNSEEN])


def test_the_answers_of_fp32_can_be_given() -> None:
    model = tiny_graph()
    statistics = collect(model, [IMAGES])
    own = choose(model, statistics, [UNSEEN[:4], UNSEEN[4:]])
    given = choose(model, statistics, [UNSEEN[:4], UNSEEN[4:]], reference=run(model, UNSEEN))
    assert [trial.name for trial in given.trials] == [trial.name for trial in own.trials]
    assert given.chosen.sqnr_db == pytest.approx(own.chosen.sqnr_db, abs=0.01)
    wrong = choose(model, statistics, [UNSEEN[:4], UNSEEN[4:]], reference=-run(model, UNSEEN))
    assert wrong.chosen.sqnr_db < 0 < own.chosen.sqnr_db
