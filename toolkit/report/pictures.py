"""The images that artifacts and reference disagree on, each with everybody's answer."""

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from toolkit.report.artifacts import Artifact
from toolkit.report.pointers import at

MOST = 24
"""Images that are shown, those first of whose answer the reference was surest."""

TINY = 64
"""Width and height up to which a PNG is."""

_PICTURE = re.compile(r"data:image/(?:png|jpeg|webp);base64,[A-Za-z0-9+/]+=*")


@dataclass
class Disputed:
    """One image.

    Attributes:
        image: its index in the test split.
        label: its true class.
        picture: a data URL; None when the record has none that is one.
        tiny: the picture has so few pixels that they are shown as what they are.
        first: pointer of the disagreement that has the reference's answer.
        answers: the artifacts that answer otherwise, and the pointer of the disagreement of each.
    """

    image: int
    label: str
    picture: str | None
    tiny: bool
    margin: float
    first: str
    answers: list[tuple[Artifact, str]] = field(default_factory=list)


def disputed(record: Mapping[str, Any], artifacts: Sequence[Artifact]) -> list[Disputed]:
    """Every image of the record's disagreements, the worst first; artifacts of different references stay apart."""
    found: dict[tuple[int | None, int], Disputed] = {}
    for artifact in artifacts:
        for number, one in enumerate((artifact.row["accuracy"] or {}).get("disagreements") or ()):
            pointer = at(artifact.at, "accuracy", "disagreements", number)
            key = artifact.reference, one["image"]
            if key not in found:
                url = record["pictures"].get(str(one["image"]))
                picture = url if url and _PICTURE.fullmatch(url) else None
                found[key] = Disputed(one["image"], one["label"], picture, _tiny(picture), one["margin"], pointer)
            found[key].answers.append((artifact, pointer))
    return sorted(found.values(), key=lambda one: (-one.margin, one.image))


def _tiny(picture: str | None) -> bool:
    """Whether it is a PNG of few pixels, by its header: width and height are bytes 16 to 24."""
    if picture is None or not picture.startswith("data:image/png"):
        return False
    start = base64.b64decode(picture.partition(",")[2][:32])
    return 0 < max(int.from_bytes(start[16:20]), int.from_bytes(start[20:24])) <= TINY
