"""The page, in a real browser."""

import asyncio
import base64
import io
from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.browser import CHROMIUM, Page, browser
from tests.tiny import tiny_images
from tests.toolkit.server.fronts import Fronts, opened, serving
from toolkit.server import page as pages

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")

ROWS = """Array.from(document.querySelectorAll('#bars .row'), row => [
  row.querySelector('.label').textContent, row.querySelector('.number').textContent,
  row.querySelector('.fill').style.width])"""

DROP = """(() => {
  const bytes = Uint8Array.from(atob('%s'), one => one.charCodeAt(0)), all = new DataTransfer();
  all.items.add(new File([bytes], '<b>odd.png</b>', {type: 'image/png'}));
  document.body.dispatchEvent(new DragEvent('drop', {dataTransfer: all, bubbles: true, cancelable: true}));
})()"""


def picture(folder: Path, number: int) -> Path:
    path = folder / f"{number}.png"
    pixels = tiny_images(number + 1)[number]
    Image.fromarray(pixels.squeeze()).save(path)
    return path


def visit(work: Callable[[Page], Awaitable[None]], address: str) -> None:
    async def main() -> None:
        async with browser() as page:
            await page.open(f"http://{address}/")
            await work(page)

    asyncio.run(main())


def said(fronts: Fronts, path: Path) -> list[list[str]]:
    """The rows that the page should show."""
    found = fronts.within(lambda: fronts.plane.classify(path.read_bytes(), model="tiny"))
    return [[one.label, f"{100 * one.probability:.1f} %"] for one in found.prediction.top]


def test_pictures_are_classified_and_everything_about_it_is_shown(fronts: Fronts, tmp_path: Path) -> None:
    first, second = picture(tmp_path, 0), picture(tmp_path, 1)
    bad = tmp_path / "bad.png"
    bad.write_bytes(first.read_bytes()[:40])

    async def work(page: Page) -> None:
        await page.until("document.getElementById('state').textContent === 'ready'")
        await page.until("document.querySelectorAll('#passport dd').length > 5")
        passport = await page.run("document.getElementById('passport').innerText")
        assert "tiny.onnx" in passport
        assert "CPUExecutionProvider" in passport

        await page.pick("#file", first)
        await page.until("document.querySelectorAll('#bars .row').length")
        rows = await page.run(ROWS)
        assert [row[:2] for row in rows] == said(fronts, first)
        widths = [float(row[2].removesuffix("%")) for row in rows]
        assert widths == pytest.approx([float(row[1].removesuffix(" %")) for row in rows], abs=0.06)
        legend = await page.run("document.getElementById('legend').innerText")
        assert "decoding and resizing" in legend
        assert "the engine" in legend
        assert await page.run("document.getElementById('preview').naturalWidth > 0")

        # Another one, dropped; its name is shown as what it is.
        await page.run(DROP % base64.b64encode(second.read_bytes()).decode())
        await page.until("document.getElementById('hint').textContent.includes('<b>odd.png</b>')")
        await page.until("!document.getElementById('answer').hidden")
        assert [row[:2] for row in await page.run(ROWS)] == said(fronts, second)
        assert page.complaints == []

        # A damaged picture: the server's words, and no answer of an earlier one beside them.
        await page.pick("#file", bad)
        await page.until("!document.getElementById('error').hidden")
        assert "image" in await page.run("document.getElementById('error').innerText")
        assert await page.run("document.getElementById('answer').hidden")

        # A model that classifies nothing says so.
        await page.run("(() => { const m = document.getElementById('model'); m.value = 'echo'; "
                       "m.dispatchEvent(new Event('change')); })()")  # fmt: skip
        await page.until("document.getElementById('error').innerText.includes('no classifier')")

        own = f"http://{fronts.http}/"
        assert [one for one in page.asked if not one.startswith((own, f"blob:{own}", "data:,"))] == []

    visit(work, fronts.http)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_nothing_is_cut_off_on_a_phone(fronts: Fronts, tmp_path: Path, dark: bool) -> None:
    shot = tmp_path / "phone.png"

    async def work(page: Page) -> None:
        await page.size(360, 740, mobile=True, dark=dark)
        await page.pick("#file", picture(tmp_path, 0))
        await page.until("document.querySelectorAll('#bars .row').length")
        await page.until("document.querySelectorAll('#passport dd').length > 5")
        assert await page.run("document.documentElement.scrollWidth") == 360
        outside = """Array.from(document.querySelectorAll('main *')).filter(one => {
          const box = one.getBoundingClientRect(); return box.width && (box.left < 0 || box.right > innerWidth + .5);
        }).map(one => one.outerHTML)"""
        assert await page.run(outside) == []
        await page.picture(shot)

    visit(work, fronts.http)
    corner = np.asarray(Image.open(io.BytesIO(shot.read_bytes())).convert("L"))[2, 2]
    assert (corner < 60) == dark


def test_a_server_with_a_token_is_asked_with_it(tmp_path: Path) -> None:
    file = picture(tmp_path, 0)

    async def work(page: Page) -> None:
        await page.until("!document.getElementById('key').hidden")
        await page.run(
            "document.getElementById('token').value = 'wrong'; document.querySelector('form button').click()"
        )
        await page.until("document.getElementById('error').innerText.includes('wrong token')")
        await page.run("document.getElementById('token').value = 'open sesame'.replace(' ', '-'); "
                       "document.querySelector('form button').click()")  # fmt: skip
        await page.until("document.getElementById('state').textContent === 'ready'")
        assert await page.run("document.getElementById('key').hidden")
        await page.pick("#file", file)
        await page.until("document.querySelectorAll('#bars .row').length")

    with serving(opened(tmp_path), token="open-sesame") as fronts:  # noqa: S106
        visit(work, fronts.http)


def test_a_server_that_is_gone_is_told(tmp_path: Path) -> None:
    file = picture(tmp_path, 0)

    async def main() -> None:
        async with browser() as page:
            with serving(opened(tmp_path)) as fronts:
                await page.open(f"http://{fronts.http}/")
                await page.until("document.getElementById('state').textContent === 'ready'")
            await page.pick("#file", file)
            await page.until("document.getElementById('error').innerText.includes('still running')")

    asyncio.run(main())


def test_only_its_own_script_and_style_may_run() -> None:
    policy = pages.headers()["content-security-policy"]
    assert policy.count("'sha256-") == 2
    assert "unsafe" not in policy
    assert b"http:" not in pages.html()
    assert b"https:" not in pages.html()
