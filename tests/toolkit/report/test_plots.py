"""What plots are made of: the frontier, ticks, curves, labels that keep clear of each other."""

import random
import re

import numpy as np
import pytest

from toolkit.report.plots.canvas import Canvas, Size, draw, series
from toolkit.report.plots.distribution import STEPS, steps
from toolkit.report.plots.labels import Label, place
from toolkit.report.plots.pareto import frontier
from toolkit.report.plots.scales import plain, round_values


def test_the_frontier_is_what_no_other_beats():
    rng = random.Random(0)
    for _ in range(200):
        points = [(rng.randint(1, 6), rng.randint(1, 6)) for _ in range(rng.randint(1, 9))]
        kept = frontier(points)
        for number, (latency, accuracy) in enumerate(points):
            beaten = any(
                a <= latency and b >= accuracy and ((a, b) != (latency, accuracy) or other < number)
                for other, (a, b) in enumerate(points)
                if other != number
            )
            assert (number in kept) != beaten


@pytest.mark.parametrize(("low", "high"), [(0.11, 0.19), (3.0, 9.9), (0.3, 412.0), (1.0, 1e9), (7.1, 7.2)])
def test_ticks_are_few_and_inside(low, high):
    for most in (4, 7):
        values = round_values(low, high, most)
        assert len(values) <= most
        assert all(low * 0.999 <= value <= high * 1.001 for value in values)
    assert "e" not in plain(high)


def test_a_curve_keeps_its_ends_whatever_its_length():
    for count in (2, STEPS, 5000):
        runs = np.sort(np.random.default_rng(0).gamma(2, 1, count))
        times, shares = steps(runs)
        assert len(times) == len(shares) <= STEPS + 1
        assert (times[0], times[-1]) == (runs[0], runs[-1])
        assert (shares[0], shares[-1]) == (0, 1)
        assert np.array_equal(shares[1:], np.searchsorted(runs, times[1:], "right") / count)


def test_names_cover_neither_each_other_nor_a_point():
    labels = [Label(f"artifact number {i}", i % 4, i // 4, strong=i == 5) for i in range(12)]
    placed = []

    def plot(canvas: Canvas) -> None:
        canvas.axes.set_xlim(-1, 4)
        canvas.axes.set_ylim(-1, 3)
        place(canvas, labels)
        placed.extend(canvas.axes.texts)

    draw([Size("one", 420, 260)], plot, label="x", name="x")
    assert "artifact number 5" in [text.get_text() for text in placed]
    assert 4 <= len(placed) <= 12
    corners = []
    for text in placed:
        x = (text.xy[0] + 1) / 5 * (420 - 56 - 12) + 56 + text.xyann[0]
        y = (text.xy[1] + 1) / 4 * (260 - 44 - 12) + 44 + text.xyann[1]
        width = 0.5 * text.get_fontsize() * len(text.get_text())
        left = x - {"left": 0, "right": width, "center": width / 2}[text.get_ha()]
        corners.append((left, y, left + width, y + text.get_fontsize() * 0.7))
    for number, one in enumerate(corners):
        for other in corners[number + 1 :]:
            assert one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]


def test_a_figure_is_the_pages_text_colours_and_ids():
    def plot(canvas: Canvas) -> None:
        canvas.axes.plot(1, 1, "o", color=series(3), gid=canvas.note('a "point" <b> & more', record="rows/0"))
        canvas.axes.set_xlabel("latency $x$, ms")

    found = draw([Size("wide", 300, 200), Size("narrow", 200, 200)], plot, label='what "it" shows', name="some")
    assert found == draw(
        [Size("wide", 300, 200), Size("narrow", 200, 200)], plot, label='what "it" shows', name="some"
    )
    assert ">latency $x$, ms</text>" in found
    assert "font-family" not in found
    assert found.count('<title>a "point" &lt;b&gt; &amp; more</title>') == 2
    assert found.count('data-record="rows/0"') == 2
    assert "var(--c3)" in found
    assert "var(--soft)" in found
    assert not re.search(r"#[0-9a-f]{6}", re.sub(r"#(some)-\w+-\w+", "", found))
    ids = re.findall(r' id="([^"]+)"', found)
    assert len(ids) == len(set(ids)) > 0
    assert all(one.startswith(("some-wide-", "some-narrow-")) for one in ids)


def test_a_name_that_looks_like_a_colour_stays_a_name():
    names = ("#fe0100", "#fe01ff")

    def plot(canvas: Canvas) -> None:
        for number, name in enumerate(names):
            canvas.axes.text(0.1, 0.1 + 0.5 * number, name, color=series(1))

    drawn = str(draw([Size("one", 200, 200)], plot, label=names[0], name="x"))
    assert all(f">{name}<" in drawn for name in names)
    assert "var(--c1)" in drawn
    assert not re.search(r": #fe0[12]", drawn)
