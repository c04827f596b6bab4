"""What a build answers."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engines.builders.audit import LayerReport


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
        layers: the types of its layers.
        kept: convolutions and matrix products left in a wider type on purpose.
        notes: what else the user should know, a line each.
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
    notes: tuple[str, ...] = ()

    def summary(self) -> str:
        """One line: the file, its size, the proof."""
        heavy = self.layers.heavy
        counts = ", ".join(
            f"{sum(layer.type == name for layer in heavy)} of {len(heavy)} {name}" for name in self.layers.shares()
        )
        took = f", built in {self.seconds:.1f} s" if self.seconds else ""
        kept = f"; kept in a wider type: {', '.join(self.kept)}" if self.kept else ""
        return f"{self.engine}: {self.size / 1e6:.1f} MB{took}; convolutions and matrix products: {counts}{kept}"

    def to_json(self) -> dict[str, Any]:
        return {
            "engine": str(self.engine),
            "passport": str(self.passport),
            "typed_graph": str(self.typed_graph),
            "backend": self.backend,
            "precision": self.precision,
            "size_bytes": self.size,
            "build_seconds": self.seconds,
            "layers": self.layers.to_json(),
            "kept": list(self.kept),
            "notes": list(self.notes),
        }
