"""Bars that the page draws itself: where starting takes its time, how much memory is held, what layers compute in."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from toolkit.report.artifacts import Artifact
from toolkit.report.pointers import Figures, at, element

if TYPE_CHECKING:
    from markupsafe import Markup


@dataclass(frozen=True)
class Part:
    """A part of a bar.

    Attributes:
        kind: the class that the style sheet colours.
        share: of the bar's full width, 0..1.
        name: what it is.
        figure: how much it is.
    """

    kind: str
    share: float
    name: str
    figure: "Markup"


@dataclass(frozen=True)
class Bar:
    """One artifact's bar, or one artifact's at a batch size."""

    artifact: Artifact
    parts: tuple[Part, ...]
    batch: int | None = None
    total: "Markup | None" = None


def cold_starts(artifacts: Sequence[Artifact]) -> tuple[Bar, ...]:
    """Opening and first run of each, the medians over launches, against the slowest."""
    found = []
    for artifact in artifacts:
        starts = artifact.row["cold_starts"]
        if starts:
            found.append(
                (artifact, *(statistics.median(start[name] for start in starts) for name in ("open", "first")))
            )
    longest = max((opened + first for _, opened, first in found), default=0) or 1
    return tuple(
        Bar(
            artifact,
            tuple(
                Part(name, value / longest, title, _seconds(artifact, value, name))
                for name, value, title in (("open", opened, "opening"), ("first", first, "first run"))
            ),
            total=_seconds(artifact, opened + first, "total"),
        )
        for artifact, opened, first in found
    )


def _seconds(artifact: Artifact, value: float, name: str) -> "Markup":
    return element(at(artifact.at, "cold_starts"), value, "seconds", derived=f"median {name}", unit="s")


def memory(figures: Figures, artifacts: Sequence[Artifact], key: str) -> tuple[Bar, ...]:
    """The most bytes that each held, against the one that held most; ``key`` is the row's."""
    found = [one for one in artifacts if one.row[key]]
    most = max((one.row[key] for one in found), default=1)
    return tuple(
        Bar(one, (Part("amount", one.row[key] / most, "", figures.element(at(one.at, key), "size")),))
        for one in found
    )


def stages(figures: Figures, artifacts: Sequence[Artifact]) -> tuple[Bar, ...]:
    """Where each spends its median latency: copies and the engine on the device, and all the rest on the host."""
    bars = []
    for batch in sorted({speed["batch"] for one in artifacts for speed in one.row["speed"]}):
        for artifact in artifacts:
            pointer = artifact.speed_at(batch)
            spent: Mapping[str, float] | None = figures.value(at(pointer, "stage_seconds")) if pointer else None
            if pointer is None or not spent:
                continue
            whole = figures.value(at(pointer, "latency_seconds", "p50"))
            rest = max(0.0, whole - sum(spent.values()))
            full = max(whole, sum(spent.values()))
            parts = [
                Part(
                    name,
                    spent[name] / full,
                    title,
                    figures.element(at(pointer, "stage_seconds", name), "milliseconds", "ms"),
                )
                for name, title in (("copy_in", "copy in"), ("device", "device"), ("copy_out", "copy out"))
            ]
            parts.append(
                Part("rest", rest / full, "host", element(pointer, rest, "milliseconds", derived="rest", unit="ms"))
            )
            total = figures.element(at(pointer, "latency_seconds", "p50"), "milliseconds", "ms")
            bars.append(Bar(artifact, tuple(parts), batch, total))
    return tuple(bars)


def layers(figures: Figures, artifacts: Sequence[Artifact]) -> tuple[Bar, ...]:
    """Which types the convolutions and matrix products of each compute in."""
    bars = []
    for artifact in artifacts:
        known: Mapping[str, Any] | None = artifact.row["layers"]
        if known and known["shares"]:
            parts = tuple(
                Part(
                    f"type-{kind}",
                    share,
                    kind,
                    figures.element(at(artifact.at, "layers", "shares", kind), "whole_percent"),
                )
                for kind, share in known["shares"].items()
            )
            bars.append(Bar(artifact, parts))
    return tuple(bars)
