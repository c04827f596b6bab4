"""Every figure of a page held against its record, by nothing that made the page but the rounding.

For any report: ``python -m tests.toolkit.report.held report.html report.json``.
"""

import asyncio
import json
import statistics
import sys
from pathlib import Path
from typing import Any

from tests.browser import Page, browser
from toolkit.report.formats import FORMATS

FIGURES = """[...document.querySelectorAll('.n[data-record]')].map(one => ({
  record: one.dataset.record, value: one.dataset.value, format: one.dataset.format,
  derived: one.dataset.derived || '', text: one.textContent}))"""

POINTS = """[...document.querySelectorAll('svg .point')].map(one => ({
  record: one.dataset.record || '', value: one.dataset.value || '', derived: one.dataset.derived || '',
  title: one.querySelector('title').textContent}))"""

TEXTS = """[...document.querySelectorAll('[data-text]')].map(one => [one.dataset.text, one.textContent])"""


def stands_at(record: Any, pointer: str) -> Any:
    for escaped in pointer.split("/"):
        key = escaped.replace("~1", "/").replace("~0", "~")
        record = record[int(key)] if isinstance(record, list) else record[key]
    return record


def follows(record: Any, pointer: str, derived: str) -> float:
    """What a derived figure should be, from what its pointer leads to."""
    kind, *numbers = derived.split()
    value = stands_at(record, pointer)
    if kind == "median":
        names = ("open", "first") if numbers == ["total"] else numbers
        return sum(statistics.median(one[name] for one in value) for name in names)
    if kind == "rest":
        return max(0.0, value["latency_seconds"]["p50"] - sum(value["stage_seconds"].values()))
    cells = {(true, answer): count for true, answer, count in value["cells"]}
    where = [int(number) for number in numbers]
    if kind == "cell":
        return cells.get((where[0], where[1]), 0)
    if kind == "difference":
        index = int(pointer.split("/")[1])
        parts = record["parts"]
        reference = parts[record["rows"][index]["machine"]]["reference"] if parts else record["reference"]
        (other,) = [row for row in record["rows"] if row["name"] == reference]
        before = {(true, answer): count for true, answer, count in other["accuracy"]["confusion"]["cells"]}
        return cells.get((where[0], where[1]), 0) - before.get((where[0], where[1]), 0)
    images = sum(count for (true, _), count in cells.items() if true == where[0]) + value["unanswered"][where[0]]
    return images if kind == "images" else cells.get((where[0], where[0]), 0) / images


async def hold(page: Page, record: Any) -> tuple[int, int]:
    """Compare; the number of figures and of points that there were."""
    record = json.loads(json.dumps(record))
    figures, points = await page.run(FIGURES), await page.run(POINTS)
    for figure in figures:
        shown = json.loads(figure["value"])
        if figure["derived"]:
            assert abs(shown - follows(record, figure["record"], figure["derived"])) < 1e-12, figure
        else:
            assert shown == stands_at(record, figure["record"]), figure
        assert figure["text"] == FORMATS[figure["format"]](shown), figure
    for point in points:
        pointers, values = point["record"].split(), [json.loads(value) for value in point["value"].split()]
        assert len(pointers) == len(values) > 0, point
        for pointer, value in zip(pointers, values, strict=True):
            if point["derived"]:
                assert value == follows(record, pointer, point["derived"]), point
            else:
                assert value == stands_at(record, pointer), point
        assert point["title"]
    for pointer, text in await page.run(TEXTS):
        assert text == stands_at(record, pointer)
    return len(figures), len(points)


async def main(report: Path, record: Path) -> int:
    """Open a report in Chromium and hold it; what its console says or it asks for is printed and makes it fail."""
    async with browser() as page:
        await page.open(report.resolve().as_uri())
        figures, points = await hold(page, json.loads(record.read_text()))
        others = [address for address in page.asked if not address.startswith(("file:", "data:"))]
        print(f"{figures} figures and {points} points of plots equal the record's")
        for line in (*page.complaints, *others):
            print(line)
        return 1 if page.complaints or others or not figures else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main(*map(Path, sys.argv[1:3]))))
