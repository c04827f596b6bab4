"""The report in a real browser: every figure is the record's, at any width, in light, dark and on paper."""

import asyncio
import base64
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.browser import CHROMIUM, Page, browser
from tests.toolkit.report import records
from tests.toolkit.report.held import hold
from toolkit.report import write_report

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")

PALE = """(() => {
  const parse = text => text.match(/[\\d.]+/g).map(Number);
  const linear = v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => [r, g, b].map(v => linear(v / 255))
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const ground = element => {
    for (let one = element; one; one = one.parentElement) {
      const colour = parse(getComputedStyle(one).backgroundColor);
      if (colour.length < 4 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const found = [];
  for (const element of document.querySelectorAll('body *')) {
    const text = [...element.childNodes].some(node => node.nodeType === 3 && node.data.trim());
    if (!text || !element.getClientRects().length || element.closest('title, style')) continue;
    const style = getComputedStyle(element);
    const colour = parse(element.closest('svg') ? style.fill : style.color);
    const [a, b] = [light(colour), light(ground(element))].sort((x, y) => y - x);
    if ((a + .05) / (b + .05) < 4.5) found.push([element.outerHTML.slice(0, 120), (a + .05) / (b + .05)]);
  }
  return found.slice(0, 5);
})()"""

UNNAMED = """[...document.querySelectorAll('svg.plot')].filter(one => !one.getAttribute('aria-label')).length
  + [...document.querySelectorAll('img')].filter(one => !one.alt).length
  + [...document.querySelectorAll('table')].filter(one => !one.querySelector('th[scope=col]')).length"""

DOUBLE_IDS = """[...document.querySelectorAll('[id]')].map(one => one.id)
  .filter((id, number, all) => all.indexOf(id) !== number)"""
LOST_LINKS = """[...document.querySelectorAll('[href^="#"]')].map(one => one.getAttribute('href').slice(1))
  .filter(id => !document.getElementById(id))"""
PLOTS_SHOWN = "[...document.querySelectorAll('#pareto svg.plot')].filter(one => one.clientWidth > 0).length"
PAPER = "getComputedStyle(document.body).backgroundColor"


def visit(work: Callable[[Page], Awaitable[None]]) -> None:
    async def main() -> None:
        async with browser() as page:
            await work(page)

    asyncio.run(main())


def test_every_figure_is_the_records_and_nothing_else_is_asked_for(tmp_path: Path) -> None:
    made = {
        "demo": records.comparison(),
        "merged": records.merged(),
        "forty": records.comparison(records.DEMO[:3], classes=40, images=600, batches=(1, 8)),
        "speed": records.comparison(records.GPU, with_accuracy=False),
    }
    counted = {}

    async def work(page: Page) -> None:
        for name, comparison in made.items():
            path = tmp_path / f"{name}.html"
            write_report(comparison, path)
            await page.open(path.as_uri())
            counted[name] = await hold(page, comparison.to_json())
            assert await page.run(DOUBLE_IDS) == []
            assert await page.run(LOST_LINKS) == []
            assert await page.run(UNNAMED) == 0
            assert await page.run("document.scripts.length") == 0
        # A single figure that is off would be found.
        changed = comparison.to_json()
        changed["rows"][1]["speed"][0]["latency_seconds"]["p95"] *= 1 + 1e-9
        with pytest.raises(AssertionError):
            await hold(page, changed)
        assert page.complaints == []
        assert {address for address in page.asked if not address.startswith("data:")} == {
            (tmp_path / f"{name}.html").as_uri() for name in made
        }

    visit(work)
    assert counted["demo"][0] > 400
    assert counted["demo"][1] > 150
    assert min(count for pair in counted.values() for count in pair) > 40


def test_it_is_readable_at_every_width_in_both_colours_and_on_paper(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    long = "a-very-long-name-" * 6 + "of-an-engine.engine"
    kinds = (*records.DEMO, records.Kind(long, noise=0.4), records.GPU[0])
    write_report(records.comparison(kinds, labels=tuple(f"a class with a long name {i}" for i in range(10))), path)

    async def work(page: Page) -> None:
        await page.size(1280, 900)
        await page.open(path.as_uri())
        for width in (360, 800, 1280):
            for dark in (False, True):
                await page.size(width, 900, mobile=width < 500, dark=dark)
                assert await page.run("document.documentElement.scrollWidth") <= width
                assert await page.run(PALE) == []
                assert await page.run(PLOTS_SHOWN) == 1
        dark_paper = await page.run(PAPER)
        await page.run("document.getElementById('theme-light').click()")
        light_paper = await page.run(PAPER)
        assert await page.run(PALE) == []
        assert light_paper != dark_paper
        await page.size(1280, 900, dark=False)
        await page.run("document.getElementById('theme-dark').click()")
        assert await page.run(PAPER) == dark_paper
        # On paper it is light, whatever was chosen, and what is folded away is there.
        await page.paper()
        assert await page.run(PAPER) == "rgb(255, 255, 255)"
        assert await page.run("getComputedStyle(document.querySelector('h2')).color") == "rgb(27, 32, 28)"
        assert await page.run("document.querySelector('details dl').getBoundingClientRect().height") > 50
        pages = base64.b64decode((await page.command("Page.printToPDF", preferCSSPageSize=True))["data"])
        assert pages.startswith(b"%PDF")
        assert page.complaints == []

    visit(work)
