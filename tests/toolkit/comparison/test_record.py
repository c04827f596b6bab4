"""What a record promises: a schema, held to the letter, and every figure read back."""

import dataclasses
import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest

from engines.errors import InputError
from toolkit.benchmarking.timing import Timing
from toolkit.comparison.goal import Goal
from toolkit.comparison.records.reading import schema
from toolkit.comparison.records.record import Comparison

SCHEMA = schema()
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


def written(comparison: Comparison) -> dict[str, Any]:
    """What is in the file."""
    found: dict[str, Any] = json.loads(json.dumps(comparison.to_json(), allow_nan=False))
    return found


def rounded(comparison: Comparison) -> Comparison:
    """With raw times as a record has them, to a tenth of a microsecond."""

    def timing(one: Timing) -> Timing:
        launches = tuple(tuple(tuple(round(second, 7) for second in t) for t in turns) for turns in one.launches)
        return dataclasses.replace(one, launches=launches)

    rows = tuple(
        dataclasses.replace(
            row,
            speeds={
                batch: dataclasses.replace(speed, timing=timing(speed.timing)) for batch, speed in row.speeds.items()
            },
        )
        for row in comparison.rows
    )
    return dataclasses.replace(comparison, rows=rows)


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("kind", ["whole", "timed"])
def test_a_record_is_as_the_schema_says_and_is_read_back_whole(kind: str, request: pytest.FixtureRequest) -> None:
    comparison: Comparison = request.getfixturevalue(kind)
    record = written(comparison)
    VALIDATOR.validate(record)
    assert Comparison.from_json(record) == rounded(comparison)
    assert written(Comparison.from_json(record)) == record


def test_the_fixture_has_something_in_every_place(whole: Comparison) -> None:
    """Or the tests of this file would look at nulls."""
    record = written(whole)
    a, b, gpu, other = record["rows"]
    assert b["passport"]["precision"] == "fp32"
    assert not {"layers", "measurements", "labels"} & {*b["passport"], *b["passport"]["metadata"]}
    assert b["accuracy"]["against"]["flips"]["count"] > 0
    assert b["accuracy"]["disagreements"]
    assert record["pictures"]
    assert b["layers"]["precision"] == "fp32"
    assert b["proof"]["provider"]
    assert gpu["speed"][0]["stage_seconds"]
    assert other["failure"]
    assert record["verdicts"]
    assert record["goal"]["aim"] == "latency"
    assert record["conditions"][0]["seconds"] > 0
    assert len(a["cold_starts"]) == a["speed"][0]["launches"] == 2


def objects(value: Any, rule: dict[str, Any]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Each object whose keys the schema names, with the rule for it."""
    if "$ref" in rule:
        rule = SCHEMA["$defs"][rule["$ref"].rpartition("/")[2]]
    for choice in rule.get("anyOf", ()):
        if choice != {"type": "null"} and value is not None:
            yield from objects(value, choice)
    if isinstance(value, dict) and rule.get("additionalProperties") is False and "required" in rule:
        yield value, rule
        for name, inner in rule["properties"].items():
            if name in value or name in rule["required"]:
                yield from objects(value[name], inner)
    if isinstance(value, list) and isinstance(rule.get("items"), dict):
        for item in value:
            yield from objects(item, rule["items"])


def test_a_key_more_or_less_anywhere_is_against_the_schema(whole: Comparison) -> None:
    seen: set[str] = set()
    checked = 0
    for found, rule in objects(written(whole), SCHEMA):
        kind = str(rule)
        if kind in seen:
            continue
        seen.add(kind)
        validator = VALIDATOR.evolve(schema={**rule, "$defs": SCHEMA["$defs"]})
        validator.validate(found)
        for name in found:
            assert not validator.is_valid({key: value for key, value in found.items() if key != name}), name
            checked += 1
        assert not validator.is_valid({**found, "surprise": 1})
    assert checked > 120
    assert len(seen) > 20


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("created",), 5),
        (("complete",), "yes"),
        (("rows", 0, "size_bytes"), -1),
        (("rows", 0, "digest"), "md5:00"),
        (("rows", 0, "accuracy", "top1", "rate"), 1.5),
        (("rows", 0, "speed", 0, "images_per_second"), 0),
        (("machines",), []),
        (("goal", "aim"), "beauty"),
        (("pictures",), {"one": "data:image/png;base64,"}),
    ],
)
def test_a_wrong_value_is_against_the_schema(place: tuple[Any, ...], value: Any, whole: Comparison) -> None:
    record = written(whole)
    inner = record
    for step in place[:-1]:
        inner = inner[step]
    inner[place[-1]] = value
    assert not VALIDATOR.is_valid(record)


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        (("beauty",), "no goal 'beauty'"),
        (("latency", -0.1), "a drop of -0.1 points"),
        (("latency", 101), "a drop of 101 points"),
        (("latency", float("nan")), "a drop of nan points"),
        (("latency", 1.0, 0), "a batch of 0 images"),
    ],
)
def test_a_goal_that_makes_no_sense(arguments: tuple[Any, ...], cause: str) -> None:
    with pytest.raises(InputError, match=cause):
        Goal(*arguments)
