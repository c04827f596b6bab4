"""The report's text: what it shows of every kind of record, and what it never lets out of one."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from tests.toolkit.report import records
from toolkit.comparison.records.record import Comparison, Failure, Row, Verdict
from toolkit.report import page, write_report

SECTIONS = re.compile(r'<section[^>]* id="([a-z]+)"')


class Elements(HTMLParser):
    """Names of all elements, and attributes that lead somewhere."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.links: list[str] = []
        self.handlers: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attributes) -> None:
        self.names.add(tag)
        self.links += [value for name, value in attributes if name in {"src", "href", "xlink:href"}]
        self.handlers += [name for name, _ in attributes if name.startswith("on")]


@pytest.fixture(scope="module")
def demo() -> str:
    return page(records.comparison())


def test_the_demo_has_every_section_in_order_and_is_small(demo):
    assert SECTIONS.findall(demo) == [
        "summary", "remarks", "pareto", "speed", "start", "answers", "classes", "confidence", "disagreements",
        "layers", "ran", "machine",
    ]  # fmt: skip
    assert len(demo.encode()) < 1_500_000
    assert demo.index("Recommended") < demo.index('id="summary"')
    assert "#fe01" not in demo
    assert "#fe02" not in demo


def test_the_same_record_gives_the_same_page(demo):
    assert page(records.comparison()) == demo


def test_nothing_in_it_leads_anywhere_else(demo):
    found = Elements(demo)
    assert "script" not in found.names
    assert found.handlers == []
    assert {link.split(":")[0] for link in found.links if not link.startswith("#")} == {"data"}
    assert "url(" not in re.sub(r"url\(#", "", demo)
    assert "@import" not in demo


def test_sections_with_nothing_to_show_are_absent():
    speed = page(records.comparison(records.GPU, with_accuracy=False))
    assert SECTIONS.findall(speed) == ["summary", "remarks", "speed", "start", "stages", "layers", "ran", "machine"]
    accuracy = page(records.comparison(records.DEMO[:2], batches=()))
    assert {"pareto", "speed", "stages"}.isdisjoint(SECTIONS.findall(accuracy))
    assert "classes" in SECTIONS.findall(accuracy)
    alone = page(records.comparison(records.DEMO[:1], warnings=()))
    assert {"pareto", "answers", "disagreements", "remarks"}.isdisjoint(SECTIONS.findall(alone))
    failed = page(records.comparison(records.DEMO[5:]))
    assert SECTIONS.findall(failed) == ["summary", "remarks", "layers", "ran", "machine"]
    assert failed.count("run it on a machine with an NVIDIA GPU") == 2


EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>{{ 7*7 }} $x^2$ 日本"


def test_text_of_a_record_stays_text():
    kinds = (records.Kind(EVIL), records.Kind(f"{EVIL}2", noise=0.8, float_layers=(EVIL,), notes=(EVIL,)),
             records.Kind(f"{EVIL}3", failure=Failure(EVIL, EVIL)))  # fmt: skip
    made = records.comparison(
        kinds, batches=(1,), labels=tuple(f"{EVIL}{number}" for number in range(10)), command=EVIL, warnings=(EVIL,),
        verdicts=(Verdict("recommended", f"{EVIL}2", EVIL), Verdict(f"x {EVIL}", "", EVIL)),
        machines=(records.machine(processor=EVIL, libraries={EVIL: EVIL}),), settings={EVIL: EVIL},
    )  # fmt: skip
    picture = next(iter(made.pictures))
    made = replace(made, pictures={**made.pictures, picture: 'https://example.org/x.png" onload="alert(1)'})
    text = page(made)
    found = Elements(text)
    assert "script" not in found.names
    assert found.handlers == []
    assert "x" not in found.links
    assert "example.org" not in text
    assert "no picture" in text
    assert "{{ 7*7 }} $x^2$ 日本" in text


def test_what_artifacts_answer_with_nan_is_said():
    text = page(records.comparison((records.DEMO[0], records.Kind("broken.onnx", noise=0.5, nan=True))))
    assert "no answer" in text
    assert "nan" not in re.findall(r'data-value="([^"]*)"', text)


def test_partial_and_merged_records_say_so():
    assert "The run was interrupted" in page(records.comparison(records.DEMO[:1], batches=(1,), complete=False))
    text = page(records.merged())
    assert "Put together from 2 records" in text
    assert "laptop.json" in text
    assert "gpu-host.json" in text


def test_of_a_thousand_classes_those_are_shown_that_lose_most():
    kinds = (records.Kind("first"), records.Kind("second", noise=1.2))
    made = records.comparison(kinds, classes=1000, images=3000, batches=(1,), pictures={})
    text = page(made)
    assert "Of 1000 classes these are the 30 that lose most against the reference" in text
    before, after = (row.accuracy.confusion.per_class() for row in made.rows)
    lost = sorted(((a.recall or 0) - (b.recall or 0) for a, b in zip(before, after, strict=True)), reverse=True)
    recalls = re.findall(r'<span class="n" data-record="rows/1/[^>]*data-derived="recall (\d+)"', text)
    shown = [int(number) for number in recalls]
    assert len(shown) == 30
    assert [(before[n].recall or 0) - (after[n].recall or 0) for n in shown] == pytest.approx(lost[:30])
    assert "Most often mistaken" in text


@pytest.mark.parametrize("count", [1, 12])
def test_any_number_of_artifacts_has_markers_and_colours_of_their_own(count):
    kinds = tuple(
        records.Kind(f"variant-{i}.onnx", noise=0.3 * i, latency=0.01 + 0.002 * (i * 7 % 11)) for i in range(count)
    )
    text = page(records.comparison(kinds, batches=(1, 8)))
    looks = re.findall(r'<svg class="symbol"[^>]*--c: var\(--c(\d)\)"[^>]*>(.*?)</svg>', text)
    assert len(set(looks)) == count


def test_one_class_and_one_image_are_enough():
    page(records.comparison(records.DEMO[:2], classes=1, images=1, batches=(4,)))


def test_a_row_without_any_figures_is_shown(tmp_path):
    made = records.comparison(records.DEMO[:1])
    bare = Comparison(made.created, "toolkit bench x", made.machines, {}, None, None, (Row("x", "x", 0, "sha256:0"),))
    path = tmp_path / "report.html"
    write_report(bare, path)
    assert "one artifact measured" in path.read_text().lower()
