"""Figures of matplotlib as SVG that is part of a page: its colours, its font, and a tooltip on every point.

Matplotlib knows no style sheets, so everything is drawn in sentinel colours that stand for the page's variables and
are replaced by them afterwards; light, dark and print then need no figure of their own. Text stays text.
"""

import contextlib
import io
import re
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from engines.optional import require
from toolkit.report.artifacts import COLOURS

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, SOFT, LINE, PAPER, HEAT, GOOD, BAD = (f"#fe01{number:02x}" for number in range(7))
_VARIABLES = dict(
    zip(
        (INK, SOFT, LINE, PAPER, HEAT, GOOD, BAD),
        ("ink", "soft", "line", "card", "heat", "heat-good", "heat-bad"),
        strict=True,
    )
) | {f"#fe02{number:02x}": f"c{number}" for number in range(COLOURS + 1)}

_SENTINEL = re.compile(f"(?<=: )(?:{'|'.join(_VARIABLES)})\\b")

FONT = 12.0
"""Size of text, in the figure's units: CSS pixels where it is shown at its own width."""

HALO = "halo"
"""The id of text that stands out from what it crosses."""

EDGE = 12
"""Room above and to the right of the axes, in CSS pixels: for half a label, or a marker on the edge."""

_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"


def series(colour: int) -> str:
    """The sentinel of an artifact's colour."""
    return f"#fe02{colour:02x}"


@dataclass(frozen=True)
class Size:
    """How large a figure is drawn.

    Attributes:
        name: the class that the style sheet shows it by: "wide" from a tablet's width on, "narrow" below.
        width, height: in CSS pixels.
        left, bottom: room for the labels of the axes, in CSS pixels; finding it would cost a second drawing.
    """

    name: str
    width: float
    height: float
    left: float = 56
    bottom: float = 44


@dataclass
class Canvas:
    """One figure while it is drawn: its axes, and what is said of its points."""

    figure: "Figure"
    axes: "Axes"
    size: Size
    notes: dict[str, tuple[str, Mapping[str, str]]] = field(default_factory=dict)

    def frame(self) -> tuple[float, float, float, float]:
        """Left, bottom, right and top of the axes, in CSS pixels."""
        size = self.size
        return size.left, size.bottom, size.width - EDGE, size.height - EDGE

    def note(self, text: str, **data: str) -> str:
        """The id for an artist that has ``text`` for a tooltip and ``data`` for attributes."""
        name = f"note{len(self.notes)}"
        self.notes[name] = text, data
        return name

    @property
    def narrow(self) -> bool:
        return self.size.name == "narrow"


def draw(sizes: Sequence[Size], plot: Callable[[Canvas], None], *, label: str, name: str) -> "Markup":
    """Draw the same at each size.

    Args:
        sizes: of which the style sheet shows one at a time.
        plot: draws on a canvas.
        label: what the figure shows, its main fact in words, for those who don't see it.
        name: of the figure, unique on the page.
    """
    from markupsafe import Markup

    return Markup("").join(_one(size, plot, label, f"{name}-{size.name}") for size in sizes)


def _one(size: Size, plot: Callable[[Canvas], None], label: str, prefix: str) -> "Markup":
    from markupsafe import Markup

    with _matplotlib():
        from matplotlib.figure import Figure

        figure = Figure(figsize=(size.width / 72, size.height / 72))
        width, height = size.width - size.left - EDGE, size.height - size.bottom - EDGE
        place = size.left / size.width, size.bottom / size.height, width / size.width, height / size.height
        canvas = Canvas(figure, figure.add_axes(place), size)
        _dress(canvas.axes)
        plot(canvas)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    root = ET.fromstring(file.getvalue())  # noqa: S314 - written by the lines above
    _adopt(root, prefix, canvas.notes)
    root.set("class", f"plot {size.name}")
    root.set("style", f"max-width: {size.width * 1.25:.0f}px")
    root.set("role", "img")
    root.set("aria-label", label)
    ET.register_namespace("", _SVG)
    ET.register_namespace("xlink", _XLINK)
    text = ET.tostring(root, encoding="unicode")
    return Markup(_recoloured(text))  # noqa: S704 - an XML tree written out is escaped


@contextlib.contextmanager
def _matplotlib() -> Iterator[None]:
    matplotlib: Any = require("matplotlib", "The report's plots", "report")
    settings = {
        "svg.fonttype": "none",
        "svg.hashsalt": "toolkit",
        "text.parse_math": False,
        "font.size": FONT,
        "font.family": ["DejaVu Sans"],
        "axes.unicode_minus": True,
        "path.simplify": True,
    }
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        # The page has fonts for names that matplotlib's own font lacks the letters of.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def _dress(axes: "Axes") -> None:
    """A frame that stays behind the figures."""
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(LINE)
    axes.patch.set_visible(False)
    axes.figure.patch.set_visible(False)
    axes.grid(visible=True, color=LINE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(which="both", colors=SOFT, length=0, labelsize=FONT - 1)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_color(SOFT)
        label.set_fontsize(FONT)


def _adopt(root: ET.Element, prefix: str, notes: Mapping[str, tuple[str, Mapping[str, str]]]) -> None:
    """Make the figure's tree one that can stand in a page beside others."""
    for attribute in ("width", "height", "version"):
        root.attrib.pop(attribute, None)
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in {f"{{{_SVG}}}metadata", f"{{{_SVG}}}style"}:
                parent.remove(child)
    for element in root.iter():
        name = element.get("id")
        if name is not None and name in notes:
            _annotate(element, *notes[name])
        if name == HALO:
            element.set("class", "halo")
        _rename(element, prefix)


def _annotate(element: ET.Element, text: str, data: Mapping[str, str]) -> None:
    title = ET.Element(f"{{{_SVG}}}title")
    title.text = text
    element.insert(0, title)
    element.set("class", "point")
    for key, value in data.items():
        element.set(f"data-{key}", value)


def _rename(element: ET.Element, prefix: str) -> None:
    """Begin every id, and every reference to one, with the prefix; groups need none."""
    name, link, clip = element.get("id"), element.get(f"{{{_XLINK}}}href"), element.get("clip-path")
    if name is not None:
        if element.tag in {f"{{{_SVG}}}g", f"{{{_SVG}}}text"}:
            del element.attrib["id"]
        else:
            element.set("id", f"{prefix}-{name}")
    if link is not None:
        del element.attrib[f"{{{_XLINK}}}href"]
        element.set("href", f"#{prefix}-{link[1:]}")
    if clip is not None:
        element.set("clip-path", clip.replace("url(#", f"url(#{prefix}-"))


def _recoloured(text: str) -> str:
    text = _SENTINEL.sub(lambda found: f"var(--{_VARIABLES[found[0]]})", text)
    text = re.sub(r"font: (?:[a-z]+ )*?(?:(bold|\d+) )?([\d.]+)px [^;\"]*", _font, text)  # before matplotlib 3.10
    text = re.sub(r"font-family: [^;\"]*; ", "", text)  # the page has its own
    text = re.sub(r' transform="rotate\(-0 [^"]*"', "", text)
    return re.sub(r">\s+<", "><", text)


def _font(found: "re.Match[str]") -> str:
    weight = f"font-weight: {found[1]}; " if found[1] else ""
    return f"{weight}font-size: {found[2]}px"
