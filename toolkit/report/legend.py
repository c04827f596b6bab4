"""The marker of an artifact as a small picture, the same as in the plots."""

import re
from typing import TYPE_CHECKING

from toolkit.report.artifacts import Artifact

if TYPE_CHECKING:
    from markupsafe import Markup

_SHAPES = {
    "o": '<circle cx="8" cy="8" r="5.5"/>',
    "s": '<path d="M3 3h10v10H3z"/>',
    "^": '<path d="M8 2l6.2 11H1.8z"/>',
    "D": '<path d="M8 1l7 7-7 7-7-7z"/>',
    "v": '<path d="M8 14L1.8 3h12.4z"/>',
    "P": '<path d="M5.8 2h4.4v3.8H14v4.4h-3.8V14H5.8v-3.8H2V5.8h3.8z"/>',
    "X": '<path d="M5 2l3 3 3-3 3 3-3 3 3 3-3 3-3-3-3 3-3-3 3-3-3-3z"/>',
    "h": '<path d="M8 1.5l5.8 3.2v6.6L8 14.5l-5.8-3.2V4.7z"/>',
    "p": '<path d="M8 1.5l6.3 4.7-2.4 7.6H4.1L1.7 6.2z"/>',
    "<": '<path d="M2 8l11-6.2v12.4z"/>',
    ">": '<path d="M14 8L3 1.8v12.4z"/>',
    "d": '<path d="M8 1l4.6 7L8 15 3.4 8z"/>',
    "*": '<path d="M8 1l1.7 5h5l-4 3 1.5 5L8 11l-4.200 3 1.500-5-4-3h5z"/>',
}


def symbol(artifact: Artifact) -> "Markup":
    """The artifact's marker in its colour: hollow when it is dominated, as in the plots."""
    from markupsafe import Markup

    return Markup(
        '<svg class="symbol" viewBox="0 0 16 16" aria-hidden="true" style="--c: var(--c{})"{}>{}</svg>'
    ).format(
        artifact.colour,
        Markup(' data-hollow=""') if artifact.dominated else "",
        Markup(_SHAPES[artifact.marker]),  # noqa: S704 - one of the shapes above
    )


def wrapped(name: str) -> "Markup":
    """A name that is broken over lines at its dots, dashes and slashes rather than in a word."""
    from markupsafe import Markup

    return Markup("<wbr>").join(re.split(r"(?<=[._/@-])(?=\w)", name))
