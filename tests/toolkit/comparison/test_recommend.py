import json
from dataclasses import replace

import pytest

from engines.errors import InputError
from tests.toolkit.comparison.judged import GPU, IMAGES, accuracy, comparison, row
from toolkit.benchmarking.messages import Block
from toolkit.benchmarking.timing import Interval, Timing
from toolkit.comparison.accuracy.paired import paired_interval
from toolkit.comparison.goal import Goal
from toolkit.comparison.records.merging import merge
from toolkit.comparison.records.row import Failure, Speed
from toolkit.comparison.verdicts import judge
from toolkit.comparison.verdicts.recommend import images_needed

REFERENCE = row("model.pt", {1: 0.010, 8: 0.080, 32: 0.32}, accuracy=accuracy(900, against=None), size=4_000_000)
EXACT = row("exact", {1: 0.005, 8: 0.040, 32: 0.16}, accuracy=accuracy(900), size=4_000_000)
CLOSE = row("close", {1: 0.004, 8: 0.020, 32: 0.08}, accuracy=accuracy(898, hurt=2), size=2_000_000)
LOSSY = row("lossy", {1: 0.001, 8: 0.008, 32: 0.03}, accuracy=accuracy(880, hurt=22, helped=2), size=1_000_000)


def recommended(*rows, goal=None, **others):
    verdict, *others = judge(comparison(*rows, **others), goal)
    assert verdict.kind == "recommended"
    assert all(other.kind != "recommended" for other in others)
    return verdict


@pytest.mark.parametrize(
    ("goal", "subject"),
    [
        (None, "close"),
        (Goal("balanced"), "close"),
        (Goal("latency"), "close"),
        (Goal("throughput"), "close"),
        (Goal("latency", 3.0), "lossy"),
        (Goal("throughput", 2.0), "lossy"),
        (Goal("balanced", 0.1), "exact"),
        (Goal("latency", 0.0), "exact"),
        (Goal("accuracy"), "exact"),
    ],
)
def test_the_goal_and_the_drop_that_it_allows_decide(goal, subject):
    verdict = recommended(REFERENCE, EXACT, CLOSE, LOSSY, goal=goal)
    assert verdict.subject == subject
    assert json.loads(json.dumps(verdict.to_json(), allow_nan=False)) == verdict.to_json()
    assert verdict.facts["goal"]["aim"] == (goal.aim if goal else "balanced")


def test_a_drop_that_is_exactly_allowed_is_allowed():
    assert recommended(REFERENCE, EXACT, CLOSE, goal=Goal("latency", 0.2)).subject == "close"
    assert recommended(REFERENCE, EXACT, CLOSE, goal=Goal("latency", 0.19)).subject == "exact"


def test_latency_is_of_one_image_and_throughput_of_any_batch():
    quick = row("quick", {1: 0.002, 8: 0.060, 32: 0.24}, accuracy=accuracy(900))
    wide = row("wide", {1: 0.006, 8: 0.012, 32: 0.06}, accuracy=accuracy(900))
    latency = recommended(REFERENCE, quick, wide, goal=Goal("latency"))
    assert (latency.subject, latency.facts["batches"]) == ("quick", [1])
    assert "2.00 ms at batch 1, 5.0" in latency.text
    throughput = recommended(REFERENCE, quick, wide, goal=Goal("throughput"))
    assert (throughput.subject, throughput.facts["batches"]) == ("wide", [8])
    assert recommended(REFERENCE, quick, wide, goal=Goal("throughput", batch=1)).subject == "quick"
    assert recommended(REFERENCE, quick, wide, goal=Goal("latency", batch=32)).subject == "wide"
    missing = recommended(REFERENCE, quick, wide, goal=Goal("latency", batch=64))
    assert missing.subject == ""
    assert "batch 64 wasn't timed" in missing.text


def test_where_nothing_holds_the_drop_it_is_said_and_nothing_is_recommended():
    best = row("best", {1: 0.01}, accuracy=accuracy(900, against=None))
    assert recommended(LOSSY, best, reference="best", goal=Goal("latency", 1.0)).subject == "best"
    failed = replace(best, failure=Failure("stopped"))
    verdict = recommended(LOSSY, CLOSE, failed, reference="best", goal=Goal("latency", 0.1))
    assert verdict.subject == ""
    assert "none loses 0.1 points of top-1 or less; close loses the least, 0.20 points" in verdict.text


def test_a_drop_that_the_images_cannot_rule_out_is_a_caveat_with_the_number_that_could():
    verdict = recommended(REFERENCE, EXACT, CLOSE)
    low, high = paired_interval(2, 0, IMAGES)
    assert high > 0.005
    assert f"On 1,000 images a drop of {100 * high:.2f} points can't be ruled out" in verdict.text
    needed = images_needed(CLOSE, Interval(0.002, low, high), 0.005)
    assert f"; {needed:,} like these would rule out more than 0.5" in verdict.text
    count = round(needed / IMAGES * 2)
    assert paired_interval(count, 0, needed)[1] <= 0.005
    fewer = round(needed * 0.8)
    assert paired_interval(round(fewer / IMAGES * 2), 0, fewer)[1] > 0.005
    sure = recommended(REFERENCE, EXACT, CLOSE, goal=Goal("latency", 1.0))
    assert "can't be ruled out" not in sure.text


def test_equal_images_of_no_difference_need_as_many_as_a_formula_says():
    # Without a single image that differs, Tango's upper bound is z^2 / (n + z^2).
    none = row("none", accuracy=accuracy(900))
    needed = images_needed(none, Interval(0.0, *paired_interval(0, 0, IMAGES)), 0.001)
    exact = 1.959964**2 * (1 / 0.001 - 1)
    assert exact <= needed <= 1.2 * exact
    assert images_needed(none, Interval(0.01, 0.0, 0.02), 0.005) is None


def test_of_equally_fast_ones_the_smallest_file_is_taken_whatever_the_order():
    small = row("small", {1: 0.004, 8: 0.02}, accuracy=accuracy(900), size=1_000_000, seed=1)
    large = row("large", {1: 0.004, 8: 0.02}, accuracy=accuracy(900), size=9_000_000, seed=2)
    for rows in ((small, large), (large, small)):
        for goal in (None, Goal("latency"), Goal("throughput"), Goal("accuracy")):
            verdict = recommended(REFERENCE, *rows, goal=goal)
            assert verdict.subject == "small"
            assert verdict.facts["level"] == ["large"]
            assert "large (9 MB)" in verdict.text
            assert "the smallest file (1 MB)" in verdict.text


def test_too_few_turns_for_an_interval_tell_nothing_apart():
    def short(one):
        speeds = {}
        for batch, speed in one.speeds.items():
            launches = [[Block(turn) for turn in launch[:2]] for launch in speed.timing.launches]
            speeds[batch] = Speed(Timing.of(batch, launches))
        return replace(one, speeds=speeds)

    small = row("small", {1: 0.009}, accuracy=accuracy(900), size=1_000_000, seed=1)
    large = row("large", {1: 0.004}, accuracy=accuracy(900), size=9_000_000, seed=2)
    assert recommended(REFERENCE, small, large, goal=Goal("latency")).subject == "large"
    verdict = recommended(short(REFERENCE), short(small), short(large), goal=Goal("latency"))
    assert verdict.subject == "small"
    assert "Timed in too few turns to be told apart: model.pt (4 MB) and large (9 MB)" in verdict.text
    assert "within the interval" not in verdict.text


def test_of_equally_fast_and_large_ones_the_most_faithful_is_taken_whatever_the_order():
    one = accuracy(900, hurt=1, helped=1)
    wild = row("wild", {1: 0.004}, accuracy=replace(one, against=replace(one.against, kl=0.5)), seed=1)
    calm = row(
        "calm", {1: 0.004}, accuracy=replace(one, against=replace(one.against, kl=0.1)), size=1_010_000, seed=2
    )
    for rows in ((wild, calm), (calm, wild)):
        verdict = recommended(REFERENCE, *rows)
        assert verdict.subject == "calm"
        assert "no other's answers are nearer to the reference's" in verdict.text
    better = row("better", {1: 0.004}, accuracy=accuracy(901, hurt=4, helped=5), size=1_010_000, seed=3)
    assert recommended(REFERENCE, calm, better).subject == "better"
    twins = [row(name, {1: 0.004}, accuracy=one, seed=seed) for seed, name in enumerate(("b", "a"))]
    assert recommended(REFERENCE, *twins).subject == "b"


def test_what_else_is_wrong_with_its_answers_is_not_kept_from_who_takes_it():
    verdict = recommended(REFERENCE, row("nan", {1: 0.001}, accuracy=accuracy(899, hurt=1, non_finite=1)))
    assert verdict.subject == "nan"
    assert "But some of its answers are no numbers" in verdict.text


def test_accuracy_prefers_the_highest_and_tells_of_a_faster_one_that_cannot_be_told_from_it():
    better = row("better", {1: 0.009}, accuracy=accuracy(901, helped=1))
    verdict = recommended(REFERENCE, better, CLOSE, LOSSY, goal=Goal("accuracy"))
    assert verdict.subject == "better"
    assert verdict.text.startswith("the highest top-1: ")
    tied = recommended(REFERENCE, EXACT, CLOSE, LOSSY, goal=Goal("accuracy"))
    assert tied.text.startswith("the fastest of 2 with the highest top-1: ")
    assert "Faster, and not to be told from it in accuracy on these images: close" in verdict.text
    assert "lossy (" not in verdict.text.split("Next:")[0]


def test_without_accuracy_speed_alone_decides_and_accuracy_cannot_be_the_goal():
    rows = [replace(one, accuracy=None) for one in (REFERENCE, EXACT, LOSSY)]
    assert recommended(*rows, data=None).subject == "lossy"
    text = recommended(*rows, data=None).text
    assert "top-1" not in text
    assert "Accuracy wasn't measured" in text
    assert "Accuracy wasn't" not in recommended(REFERENCE, EXACT).text
    assert recommended(*rows, data=None, goal=Goal("accuracy")).subject == ""


def test_runners_up_come_with_their_speed_and_what_they_lose():
    verdict = recommended(REFERENCE, EXACT, CLOSE, LOSSY, goal=Goal("latency"))
    assert [one["name"] for one in verdict.facts["runners_up"]] == ["lossy", "exact", "model.pt"]
    assert verdict.facts["runners_up"][0]["speed"] == pytest.approx(4, rel=0.02)
    assert verdict.facts["runners_up"][0]["drop"] == 0.02


def test_each_machine_of_a_merged_record_has_its_own():
    here = comparison(REFERENCE, EXACT, CLOSE)
    there = replace(comparison(REFERENCE, LOSSY), machines=(GPU,))
    merged = merge([here, there], ["here.json", "there.json"])
    found = [verdict for verdict in judge(merged, Goal("balanced", 3)) if verdict.kind == "recommended"]
    assert [(verdict.subject, verdict.facts["machine"]) for verdict in found] == [("close", 0), ("lossy", 1)]


def test_one_artifact_alone_is_no_choice():
    assert not judge(comparison(REFERENCE))


@pytest.mark.parametrize(
    "wrong", [{"aim": "cheap"}, {"aim": "latency", "max_drop": -1}, {"aim": "latency", "batch": 0}]
)
def test_a_goal_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(InputError):
        Goal(**wrong)


def test_a_smaller_file_is_not_taken_that_is_as_fast_and_surely_less_accurate():
    good = row("good", {1: 0.004}, accuracy=accuracy(900), size=2_000_000)
    small = row("small", {1: 0.004}, accuracy=accuracy(860, hurt=42, helped=2), size=1_000_000)
    verdict = recommended(REFERENCE, small, good, goal=Goal("latency", 10))
    assert (verdict.subject, verdict.facts["level"]) == ("good", [])
    assert "small (1.00x its speed, losing 4.00 points)" in verdict.text


def test_what_could_not_be_held_against_anything_says_so():
    failed = replace(EXACT, speeds={}, accuracy=None, opened=None, failure=Failure("no GPU", ""))
    assert "the only one that ran" in recommended(failed, replace(EXACT, name="left"), reference="left").text
    dead = replace(REFERENCE, accuracy=None, speeds={}, failure=Failure("killed", ""))
    verdict = recommended(dead, EXACT, CLOSE)
    assert verdict.subject == "close"
    assert "What it loses isn't known" in verdict.text
