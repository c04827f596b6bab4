from dataclasses import replace

import pytest

from tests.toolkit.gate.junits import parsed
from tests.toolkit.gate.test_judge import HERE, evidence
from toolkit.comparison.accuracy.accuracy import Disagreement
from toolkit.gate.junit import junit, write_junit
from toolkit.gate.limits import Limits
from toolkit.gate.result import Change, Diff, Gate, Side

GATES = (
    Gate("run", "passed", "it opens"),
    Gate("logits", "failed", "moved & <far>", 11.0, 2.0, unit="x", details=("first", "second")),
    Gate("flips", "failed", "3 of 10", 30.0, 1.0, (10.0, 60.0), "%"),
    Gate("latency", "undecided", "who knows", 4.0, 5.0, (-1.0, 9.0), "%"),
    Gate("memory", "skipped", "the system doesn't tell"),
)


def found(**changes) -> Diff:
    side = Side(evidence().old, None, HERE, "2026-01-01T00:00:00+00:00")
    flip = Disagreement(7, "cat", "cat", 0.9, "dog\x00\x1b", 0.8, 0.85)
    whole = Diff(
        "2026-01-01T10:20:30+00:00", "toolkit diff a b", side, side, None, Limits(), GATES,
        (Change("driver", "580", "590"),), (flip,), ("busy",), seconds=1.5,
    )  # fmt: skip
    return replace(whole, **changes)


def test_every_gate_is_a_case_and_the_counts_are_those_of_the_cases():
    root = parsed(junit(found()))
    (suite,) = root.findall("testsuite")
    cases = suite.findall("testcase")
    assert [case.get("name") for case in cases] == [gate.name for gate in GATES]
    assert {case.get("name") for case in cases if case.find("failure") is not None} == {"logits", "flips"}
    assert {case.get("name") for case in cases if case.find("skipped") is not None} == {"memory"}
    for element in (root, suite):
        assert (element.get("tests"), element.get("failures"), element.get("errors")) == ("5", "2", "0")
    assert suite.get("skipped") == "1"
    failure = cases[1].find("failure")
    assert failure.get("message") == "moved & <far>"
    assert failure.text == "found 11x, limit 2x\nfirst\nsecond"
    assert "image 7 (cat): cat → dog��, margin 0.850" in cases[2].find("failure").text
    assert "latency: undecided: who knows" in suite.findtext("system-out")
    assert "driver" in {one.get("name") for one in suite.iter("property")}


def test_with_strict_an_undecided_gate_is_a_failure():
    suite = parsed(junit(found(strict=True))).find("testsuite")
    failed = [case.get("name") for case in suite.iter("testcase") if case.find("failure") is not None]
    assert failed == ["logits", "flips", "latency"]


ALLOWED = {
    "testsuites": ({"name", "tests", "failures", "errors", "time"}, ["testsuite"]),
    "testsuite": (
        {"id", "name", "package", "hostname", "timestamp", "tests", "failures", "errors", "skipped", "time"},
        ["properties", "testcase", "system-out", "system-err"],
    ),
    "properties": (set(), ["property"]),
    "property": ({"name", "value"}, []),
    "testcase": ({"classname", "name", "time"}, ["skipped", "failure"]),
    "skipped": ({"message"}, []),
    "failure": ({"message", "type"}, []),
    "system-out": (set(), []),
    "system-err": (set(), []),
}
"""Attributes and, in their order, children that the schemas of Ant and Jenkins both have."""


def test_elements_attributes_and_their_order_are_the_schemas(tmp_path):
    write_junit(found(), tmp_path / "report.xml")
    root = parsed((tmp_path / "report.xml").read_bytes())
    for element in root.iter():
        attributes, children = ALLOWED[element.tag]
        assert set(element.keys()) == attributes
        places = [children.index(child.tag) for child in element]
        assert places == sorted(places)
    suite = root.find("testsuite")
    assert suite.get("timestamp") == "2026-01-01T10:20:30"
    assert float(suite.get("time")) == pytest.approx(1.5)


def test_where_nothing_was_judged_nothing_has_passed():
    nothing = found(gates=GATES[-1:])
    assert not nothing.passed
    assert "could be judged: memory: the system doesn't tell" in nothing.what_broke()
    suite = parsed(junit(nothing)).find("testsuite")
    assert (suite.get("failures"), suite.get("skipped")) == ("1", "0")
    assert suite.find("testcase/failure") is not None
    assert found(gates=(GATES[0], GATES[-1])).passed


def test_one_that_does_not_run_is_no_matter_of_limits():
    died = Gate("run", "failed", "killed", details=("look at its log",))
    assert found(gates=(died,)).remedy() == "look at its log"
    assert "--skip" not in found(gates=(replace(died, details=()),)).remedy()
