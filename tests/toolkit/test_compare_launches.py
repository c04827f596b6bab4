"""Processes started anew for every launch, runs that are taken up again, and sweeps over batch sizes."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engines.errors import InputError
from tests.tiny import METADATA, tiny_images
from tests.toolkit.openers import HERE
from toolkit.benchmarking.messages import Contestant
from toolkit.benchmarking.rounds import Pace
from toolkit.comparison.measuring.plan import Plan
from toolkit.comparison.measuring.run import Outcome, run
from toolkit.comparison.records.reading import read_record
from toolkit.comparison.records.record import Comparison
from toolkit.data import Dataset, PreprocessHint, Split
from toolkit.machine import describe

PACE = Pace(seconds=0.08, rounds=8, warm_seconds=0.0, launches=2)


@pytest.fixture
def log(tmp_path) -> Path:
    return tmp_path / "opened"


def contestants(log: Path, *names: str, **options) -> tuple[Contestant, ...]:
    path = log.with_name("x.engine")
    path.write_bytes(b"x")
    return tuple(
        Contestant(str(path), name, opener=f"{HERE}:noted", options={"log": str(log), "name": name, **options})
        for name in names
    )


def data() -> Dataset:
    split = Split(tiny_images(40, seed=1), np.arange(40) % 5)
    return Dataset("blobs", METADATA.labels, split, split, PreprocessHint("stretch", 3, 16, 16))


def recorded(outcome: Outcome, plan: Plan) -> Comparison:
    """What is left of it on disk."""
    comparison = Comparison(
        created="2026-01-01T00:00:00+00:00",
        command="toolkit compare",
        machines=(describe(),),
        settings=plan.settings(),
        data=outcome.data,
        reference=outcome.reference,
        rows=outcome.rows,
        conditions=(outcome.conditions,),
        pictures=outcome.pictures,
        complete=outcome.complete,
        progress=outcome.progress,
    )
    return read_record(json.loads(json.dumps(comparison.to_json())))


def interrupted(plan: Plan, after: int) -> Comparison:
    """The record of a run that was interrupted when it had been kept ``after`` times."""
    kept: list[Outcome] = []

    def keep(outcome: Outcome) -> None:
        kept.append(outcome)
        if len(kept) == after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(plan, keep=keep)
    assert not kept[-1].complete
    return recorded(kept[-1], plan)


def test_every_launch_opens_everything_anew_every_other_one_in_reverse(log):
    rows = run(Plan(contestants(log, "a", "b", "c"), (2,), pace=replace(PACE, launches=3, rounds=6))).rows
    assert log.read_text().split() == [*"abc", *"cba", *"abc"]
    for row in rows:
        assert len(row.cold_starts) == 3
        assert all(start.open > 0 and start.first > 0 for start in row.cold_starts)
        assert [len(launch) for launch in row.speeds[2].timing.launches] == [2, 2, 2]
    assert rows[1].speeds[2].ratio.low is not None


def test_rounds_that_do_not_divide_go_to_the_first_launches_and_there_are_no_empty_ones(log):
    [row] = run(Plan(contestants(log, "a"), (1,), pace=replace(PACE, launches=3, rounds=4))).rows
    assert [len(launch) for launch in row.speeds[1].timing.launches] == [2, 1, 1]
    log.unlink()
    run(Plan(contestants(log, "a"), (1,), pace=replace(PACE, launches=5, rounds=2)))
    assert log.read_text().split() == ["a", "a"]


def test_one_that_dies_in_a_later_launch_keeps_what_it_had_and_says_why(log):
    good = contestants(log, "good")
    bad = Contestant(good[0].path, "bad", opener=f"{HERE}:once", options={"flag": str(log.with_name("flag"))})
    rows = run(Plan((*good, bad), (1,), pace=PACE)).rows
    assert "for another GPU" in rows[1].failure.cause
    assert len(rows[1].speeds[1].timing.launches) == 1
    assert len(rows[0].speeds[1].timing.launches) == 2
    assert rows[1].speeds[1].ratio is not None


def test_accuracy_is_measured_in_the_first_launch_only(log):
    outcome = run(Plan(contestants(log, "a", "b"), (1,), data(), pace=PACE))
    assert [row.accuracy.top1.total for row in outcome.rows] == [40, 40]
    assert outcome.data.images == 40
    assert outcome.complete


def test_an_interrupted_run_goes_on_where_it_was_and_measures_nothing_twice(log):
    plan = Plan(contestants(log, "a", "b"), (1, 3), data(), pace=PACE)
    # Kept after evaluating, after both sizes of the first launch and at its end, after the first size of the second.
    known = interrupted(plan, 5)
    assert [list(map(len, row.speeds[1].timing.launches)) for row in known.rows] == [[4, 4], [4, 4]]
    assert [list(map(len, row.speeds[3].timing.launches)) for row in known.rows] == [[4], [4]]
    log.unlink()
    outcome = run(plan, known=known)
    assert outcome.complete
    assert log.read_text().split() == ["b", "a"]
    for before, row in zip(known.rows, outcome.rows, strict=True):
        assert row.accuracy == before.accuracy
        assert row.speeds[1].timing == before.speeds[1].timing
        assert row.speeds[3].timing.launches[:1] == before.speeds[3].timing.launches
        assert len(row.speeds[3].timing.launches) == 2
        assert len(row.cold_starts) == 3
    assert outcome.data == known.data
    assert outcome.rows[1].speeds[3].ratio.low is not None


def test_what_was_interrupted_after_all_is_measured_starts_no_process(log):
    plan = Plan(contestants(log, "a", "b"), (1,), data(), pace=PACE)
    known = interrupted(plan, 5)
    log.unlink()
    outcome = run(plan, known=known)
    assert outcome.complete
    assert not log.exists()
    for before, row in zip(known.rows, outcome.rows, strict=True):
        assert row.speeds[1].timing == before.speeds[1].timing
        assert (row.accuracy, row.cold_starts) == (before.accuracy, before.cold_starts)
        assert (row.memory, row.proof) == (before.memory, before.proof)
        assert row.memory > 20e6
        assert row.proof is not None


def test_one_that_was_interrupted_before_it_was_asked_what_ran_is_asked_then(log):
    plan = Plan(contestants(log, "a", "b"), (1,), pace=replace(PACE, launches=1))
    known = interrupted(plan, 1)
    assert all(row.speeds and row.proof is None and row.memory is None for row in known.rows)
    outcome = run(plan, known=known)
    assert outcome.conditions == known.conditions[0]
    for before, row in zip(known.rows, outcome.rows, strict=True):
        assert row.speeds[1].timing == before.speeds[1].timing
        assert row.proof is not None
        assert row.memory > 20e6


def test_one_that_failed_before_the_interruption_keeps_its_reason(log):
    good = contestants(log, "good")
    bad = Contestant(good[0].path, "bad", opener=f"{HERE}:refusing")
    plan = Plan((*good, bad), (1, 2), pace=PACE)
    outcome = run(plan, known=interrupted(plan, 1))
    assert "for another GPU" in outcome.rows[1].failure.cause
    assert outcome.rows[1].failure.remedy.startswith("toolkit build-engine")
    assert list(outcome.rows[0].speeds) == [1, 2]


def test_a_sweep_ends_at_the_engines_largest_batch_and_rivals_are_measured_at_the_same_sizes(log):
    slow = {"delay": 0.004, "per_sample": 0.0001}
    small, large = contestants(log, "small", max_batch=2, **slow), contestants(log, "large", max_batch=8, **slow)
    rows = run(Plan((*small, *large), "sweep", pace=PACE)).rows
    assert list(rows[0].speeds) == [1, 2]
    assert list(rows[1].speeds) == [1, 2, 4, 8]
    assert list(rows[0].skipped) == [4, 8, 16]
    assert all(len(speed.timing.launches) == 2 for row in rows for speed in row.speeds.values())


def test_a_sweep_ends_where_twice_the_batch_takes_twice_as_long(log):
    rows = run(Plan(contestants(log, "a", per_sample=0.005), "sweep", pace=PACE)).rows
    assert 1 < max(rows[0].speeds) < 64
    assert list(rows[0].speeds) == [2**power for power in range(len(rows[0].speeds))]


def test_in_a_sweep_a_batch_that_fails_is_no_fault_of_the_artifact(log):
    """Out of memory at a large batch: the process is gone, and the artifact's smaller batches stand."""
    path = contestants(log, "x")[0].path
    big = Contestant(path, "big", opener=f"{HERE}:hungry", options={"limit": 3})
    [row] = run(Plan((big,), "sweep", pace=PACE)).rows
    assert row.failure is None
    assert list(row.speeds) == [1, 2]
    assert "SIGKILL" in row.skipped[4]
    assert len(row.speeds[2].timing.launches) == 2


@pytest.mark.parametrize(
    "plan", [{"batch_sizes": "many"}, {"pace": replace(PACE, launches=0)}, {"pace": replace(PACE, seed=-1)}]
)
def test_plans_that_make_no_sense_are_refused(log, plan):
    with pytest.raises(InputError):
        run(Plan(contestants(log, "a"), **plan))
