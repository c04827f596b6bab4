"""What a build answers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engines.builders.audit import LayerReport
from toolkit.building.judge import Judgement
from toolkit.building.latency import Latency

_LONG = 30.0
"""Seconds of a build above which it is worth a line where they went."""
_PHASES_TOLD = 3


@dataclass(frozen=True)
class BudgetReport:
    """How an accuracy budget was held.

    Attributes:
        max_drop: points of top-1 that were allowed.
        judged: what ships, on the evaluation split.
        searched: training images that the layers were chosen on.
        tried: sets of layers that the search simulated.
        rejected: what held on those images and not on the evaluation split.
        latency: FP32, everything quantised, and what ships; empty where it wasn't measured.
    """

    max_drop: float
    judged: Judgement
    searched: int
    tried: int
    rejected: tuple[Judgement, ...] = ()
    latency: tuple[Latency, ...] = ()

    def lines(self) -> list[str]:
        """What a user wants to read of it."""
        judged, kept = self.judged, ", ".join(self.judged.keep)
        share, share_fp32 = 100 * judged.accuracy, 100 * judged.accuracy_fp32
        lines = [
            f"accuracy: {share:.2f} %, in FP32 {share_fp32:.2f} %: a drop of {judged.said()}",
            f"judged: {judged.judged}; the drop allowed is {self.max_drop:g}",
            f"kept for it: {kept}" if kept else "no layer had to be kept for it",
            *(
                f"not enough on the evaluation split: {', '.join(one.keep) or 'nothing'} kept: {one.said()}"
                for one in self.rejected
            ),
        ]
        if self.latency:
            figures = (f"{one.variant} {1000 * one.seconds:.3g} ms{_ratio(one)}" for one in self.latency)
            lines.append(f"latency at batch {self.latency[0].batch}: {'; '.join(figures)}")
        return lines

    def facts(self) -> dict[str, Any]:
        """What a passport keeps of it; drops in points of top-1."""
        return {
            "max_drop": self.max_drop,
            **self.judged.to_json(),
            "search_images": self.searched,
            "p50_seconds": {one.variant: one.seconds for one in self.latency},
        }

    def to_json(self) -> dict[str, Any]:
        """Drops in points of top-1, times in seconds."""
        return {
            "max_drop": self.max_drop,
            **self.judged.to_json(),
            "search": {"images": self.searched, "sets_tried": self.tried},
            "rejected": [one.to_json() for one in self.rejected],
            "latency": [one.to_json() for one in self.latency],
        }


def _ratio(latency: Latency) -> str:
    if latency.ratio is None:
        return ""
    low, high = latency.ratio.low, latency.ratio.high
    between = f", {low:.2f}–{high:.2f}" if low is not None and high is not None else ""
    return f" (speed {latency.ratio.value:.2f}x{between})"


@dataclass(frozen=True)
class BuildReport:
    """An engine on disk and the proof of its precision.

    Attributes:
        engine: the engine's file.
        passport: its passport's file.
        typed_graph: the graph that it was built from.
        backend: the key in the table of backends that runs it.
        precision: as asked, and audited.
        size: of the engine in bytes.
        seconds: that the builder took; 0 for a graph that is its own engine.
        cached: whether it was built before, and taken from the cache.
        layers: the types of its layers.
        kept: convolutions and matrix products left in a wider type on purpose.
        partial: layers of a wider type than asked for that ``allow_partial`` let pass, in words.
        log: the builder's log; None for a graph that is its own engine.
        phases: seconds that the builder took by phase, in plain words.
        notes: what else the user should know, a line each.
        budget: how the accuracy budget was held; None where none was given.
        table: the calibration table that holds the layers kept for it.
    """

    engine: Path
    passport: Path
    typed_graph: Path
    backend: str
    precision: str
    size: int
    seconds: float
    layers: LayerReport
    kept: tuple[str, ...] = ()
    partial: tuple[str, ...] = ()
    log: Path | None = None
    phases: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    budget: BudgetReport | None = None
    table: Path | None = None
    cached: bool = False

    def summary(self) -> str:
        """One line: the file, its size, the proof."""
        heavy = self.layers.heavy
        counts = ", ".join(
            f"{sum(layer.type == name for layer in heavy)} of {len(heavy)} {name}" for name in self.layers.shares()
        )
        took = f", built in {self.seconds:.1f} s" if self.seconds else ""
        took = ", from the cache" if self.cached else took
        kept = f"; kept in a wider type: {', '.join(self.kept)}" if self.kept else ""
        return f"{self.engine}: {self.size / 1e6:.1f} MB{took}; convolutions and matrix products: {counts}{kept}"

    def remarks(self) -> list[str]:
        """What else the user should know, a line each: first what the engine isn't, though it was asked for."""
        lines = []
        if self.partial:
            lines.append(f"not {self.precision} in the engine, allowed by --allow-partial: {', '.join(self.partial)}")
        slowest = sorted(self.phases.items(), key=lambda item: -item[1])[:_PHASES_TOLD]
        if self.seconds >= _LONG and not self.cached:
            lines.append("most time went into " + ", ".join(f"{name} ({took:.0f} s)" for name, took in slowest))
        return [*lines, *self.notes]

    def to_json(self) -> dict[str, Any]:
        return {
            "engine": str(self.engine),
            "passport": str(self.passport),
            "typed_graph": str(self.typed_graph),
            "backend": self.backend,
            "precision": self.precision,
            "size_bytes": self.size,
            "build_seconds": self.seconds,
            "cached": self.cached,
            "layers": self.layers.to_json(),
            "kept": list(self.kept),
            "partial": list(self.partial),
            "log": self.log and str(self.log),
            "phases": {name: round(seconds, 6) for name, seconds in self.phases.items()},
            "notes": list(self.notes),
            "budget": self.budget and self.budget.to_json(),
            "table": self.table and str(self.table),
        }
