import json

from tests.toolkit.comparison.judged import accuracy, comparison, row
from toolkit.comparison.verdicts import judge


def dominated(*rows, **others):
    return {verdict.subject: verdict for verdict in judge(comparison(*rows, **others)) if verdict.kind == "dominated"}


REFERENCE = row("model.pt", {1: 0.010, 8: 0.080}, accuracy=accuracy(900))


def test_slower_and_less_accurate_is_dominated_by_the_one_that_is_so_at_most_batch_sizes():
    found = dominated(
        REFERENCE,
        row("slow", {1: 0.004, 8: 0.032}, accuracy=accuracy(890, hurt=12, helped=2)),
        row("fast", {1: 0.002, 8: 0.016}, accuracy=accuracy(895, hurt=6, helped=1)),
        row("as fast at 1", {1: 0.002, 8: 0.064}, accuracy=accuracy(892, hurt=8)),
    )
    assert set(found) == {"slow", "as fast at 1"}
    verdict = found["slow"]
    assert verdict.facts["by"] == "fast"
    assert verdict.facts["ratios"].keys() == {"1", "8"}
    for ratio in verdict.facts["ratios"].values():
        assert ratio["low"] < 0.5 < ratio["high"]
    assert verdict.facts["ahead"]["value"] == 0.005
    assert "slower and less accurate than fast" in verdict.text
    assert "89.00 % against 89.50 %" in verdict.text
    assert "may be chance" in verdict.text
    assert json.loads(json.dumps(verdict.to_json())) == verdict.to_json()
    other = found["as fast at 1"]
    assert other.facts["by"] == "fast"
    assert other.facts["elsewhere"] == [1]
    assert "(not at batch 1)" in other.text


def test_a_difference_beyond_chance_is_called_that():
    found = dominated(
        REFERENCE, row("worse", {1: 0.02, 8: 0.16}, accuracy=accuracy(800, hurt=110, helped=10)),
        row("good", {1: 0.002, 8: 0.016}, accuracy=accuracy(900)),
    )  # fmt: skip
    assert found["worse"].facts["by"] == "good"
    assert "beyond chance" in found["worse"].text
    assert "by" in found["worse"].facts
    assert set(found) == {"worse"}


def test_one_that_is_the_fastest_at_a_batch_size_has_its_use():
    assert not dominated(
        REFERENCE,
        row("small batches", {1: 0.001, 8: 0.032}, accuracy=accuracy(890, hurt=12, helped=2)),
        row("large batches", {1: 0.002, 8: 0.016}, accuracy=accuracy(895, hurt=6, helped=1)),
    )


def test_slower_but_more_accurate_and_faster_but_less_accurate_both_stay():
    assert not dominated(
        REFERENCE,
        row("accurate", {1: 0.004}, accuracy=accuracy(901, helped=1)),
        row("fast", {1: 0.002}, accuracy=accuracy(899, hurt=1)),
    )


def test_as_fast_and_less_accurate_beyond_chance_is_dominated_and_within_chance_not():
    best = row("best", {1: 0.004}, accuracy=accuracy(900))
    worse = row("worse", {1: 0.004}, accuracy=accuracy(860, hurt=42, helped=2), seed=1)
    perhaps = row("perhaps", {1: 0.004}, accuracy=accuracy(899, hurt=2, helped=1), seed=2)
    found = dominated(REFERENCE, best, worse, perhaps)
    assert set(found) == {"worse"}
    assert "no faster and less accurate than" in found["worse"].text


def test_two_copies_do_not_dominate_each_other():
    for seed in range(5):
        assert not dominated(
            REFERENCE,
            row("a", {1: 0.004, 8: 0.03}, accuracy=accuracy(900), seed=2 * seed),
            row("b", {1: 0.004, 8: 0.03}, accuracy=accuracy(900), seed=2 * seed + 1),
        )


def test_rows_of_another_machine_and_without_accuracy_are_not_held_against_each_other():
    from tests.toolkit.comparison.judged import CPU, GPU

    fast = row("fast", {1: 0.001}, accuracy=accuracy(900), machine=1)
    slow = row("slow", {1: 0.004}, accuracy=accuracy(890, hurt=10))
    assert not dominated(REFERENCE, slow, fast, machines=(CPU, GPU))
    assert not dominated(REFERENCE, row("slow", {1: 0.004}), row("fast", {1: 0.001}), data=None)
