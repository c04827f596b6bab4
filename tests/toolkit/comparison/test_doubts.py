from dataclasses import replace

from tests.toolkit.comparison.judged import CPU, GPU, accuracy, comparison, layers, row
from toolkit.comparison.accuracy.confidence import Confidence
from toolkit.comparison.records.row import Failure
from toolkit.comparison.verdicts import judge

COUNTS = (0,) * 12 + (100, 300, 600)


def confidence(gap: float) -> Confidence:
    """A thousand images, in every bin surer by ``gap`` than it is right."""
    right = [round(count * (number + 0.5) / 15) for number, count in enumerate(COUNTS)]
    sums = [hits + gap * count for hits, count in zip(right, COUNTS, strict=True)]
    found = Confidence.of(COUNTS, sums, right)
    assert abs(found.ece - abs(gap)) < 1e-9
    return found


REFERENCE = row("model.pt", accuracy=accuracy(900, against=None, confidence=confidence(0.01)))


def kinds(*others, **facts):
    found = judge(comparison(REFERENCE, *others, **facts))
    return {verdict.kind: verdict for verdict in found if verdict.kind != "recommended"}


def test_a_loss_beyond_chance_is_told_and_one_within_is_not():
    found = kinds(row("worse", accuracy=accuracy(880, hurt=25, helped=5)))
    assert set(found) == {"less-accurate"}
    assert found["less-accurate"].subject == "worse"
    assert found["less-accurate"].text.startswith("loses 2.00 points of top-1 against model.pt, beyond chance")
    assert not kinds(row("perhaps", accuracy=accuracy(898, hurt=4, helped=2)))


def test_a_doubled_calibration_error_is_told_with_its_direction_and_a_small_one_is_not():
    assert set(kinds(row("a", accuracy=accuracy(900, confidence=confidence(0.05))))) == {"overconfident"}
    assert set(kinds(row("a", accuracy=accuracy(900, confidence=confidence(-0.05))))) == {"underconfident"}
    text = kinds(row("a", accuracy=accuracy(900, confidence=confidence(0.05))))["overconfident"].text
    assert "5.0 points" in text
    assert "model.pt by 1.0" in text
    assert not kinds(row("a", accuracy=accuracy(900, confidence=confidence(0.019))))
    assert not kinds(row("a", accuracy=accuracy(900, confidence=None)))
    badly = row("model.pt", accuracy=accuracy(900, against=None, confidence=confidence(0.05)))
    assert not judge(comparison(badly, row("a", accuracy=accuracy(900, confidence=confidence(0.08)))))[1:]


def test_flips_that_the_reference_had_no_doubt_about_are_told():
    one = accuracy(899, hurt=3, helped=2)
    sure = replace(one, against=replace(one.against, confident=2))
    found = kinds(row("a", accuracy=sure))
    assert set(found) == {"confident-flips"}
    assert found["confident-flips"].text.startswith("2 of its 5 flips")
    assert not kinds(row("a", accuracy=one))


def test_answers_that_are_no_numbers_are_told_and_fp16_explained():
    nan = row("a", accuracy=accuracy(899, hurt=1, non_finite=1), layers=layers("fp16"))
    text = kinds(nan)["not-finite"].text
    assert "NaN or infinity for 1 of 1000 images" in text
    assert "65504" in text
    assert "65504" not in kinds(replace(nan, layers=layers("fp32")))["not-finite"].text


def test_what_did_not_run_says_why_and_an_engine_on_a_machine_without_gpu_where_it_can_be_measured():
    failure = Failure("this machine has no NVIDIA driver", "run it elsewhere")
    engine = row("model.engine", opened=None, failure=failure)
    here = kinds(engine)["not-measured"]
    assert here.text.startswith(
        "not run: this machine has no NVIDIA driver (on a machine with a GPU: `toolkit compare"
    )
    assert "--from" in here.facts["remedy"]
    assert kinds(engine, machines=(GPU,))["not-measured"].facts["remedy"] == "run it elsewhere"
    graph = row("model.onnx", opened=None, failure=failure)
    assert kinds(graph)["not-measured"].facts["remedy"] == "run it elsewhere"
    ran = replace(row("model.engine there", digest=engine.digest), machine=1)
    both = kinds(engine, ran, machines=(CPU, GPU))
    assert both["not-measured"].facts["remedy"] == "another machine of this record ran it"
    stopped = row("model.onnx", {1: 0.1}, failure=failure)
    assert kinds(stopped)["not-measured"].text.startswith("stopped: ")


def test_the_reference_itself_is_only_judged_by_its_numbers():
    broken = replace(REFERENCE, accuracy=accuracy(900, against=None, non_finite=3))
    found = judge(comparison(broken, row("a", accuracy=accuracy(900))))
    assert [verdict.kind for verdict in found if verdict.subject == "model.pt"] == ["not-finite"]
