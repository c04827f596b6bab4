"""The report: one file that needs nothing else, light and dark, on a screen of any width and on paper."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engines.files import write_atomically
from engines.optional import require
from toolkit.benchmarking.timing import RATIO_CONFIDENCE
from toolkit.comparison.records.record import Comparison
from toolkit.report import bars, classes, pictures
from toolkit.report.artifacts import Artifact, artifacts_of
from toolkit.report.facts import Facts
from toolkit.report.legend import symbol, wrapped
from toolkit.report.plots import distribution, pareto, reliability, speed
from toolkit.report.pointers import Figures, at

if TYPE_CHECKING:
    from os import PathLike

    import jinja2

MOST_DIAGRAMS = 6
"""Artifacts that have a reliability diagram; of more, the reference, the recommended and the least calibrated."""


def write_report(comparison: Comparison, path: "str | PathLike[str]") -> None:
    """Write the report, one self-contained HTML file, whole or not at all.

    Raises:
        InputError: the file can't be written.
        MissingLibraryError: matplotlib or Jinja2 isn't installed.
    """
    write_atomically(Path(path), page(comparison))


def page(comparison: Comparison) -> str:
    """The report as HTML; the same record gives the same text."""
    record = comparison.to_json()
    figures, artifacts = Figures(record), artifacts_of(record)
    ran = [one for one in artifacts if one.ran]
    facts = Facts(record, artifacts)
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            at=at,
            ci=figures.interval,
            n=figures.element,
            symbol=symbol,
            wrapped=wrapped,
            value=figures.value,
            ratio_confidence=f"{100 * RATIO_CONFIDENCE:g}",
            record=record,
            facts=facts,
            artifacts=artifacts,
            ran=ran,
            pareto=pareto.pareto(figures, ran, facts.batch) if facts.batch else None,
            latency=speed.latency(figures, ran),
            throughput=speed.throughput(figures, ran),
            distribution=distribution.distribution(figures, ran, facts.batch) if facts.batch else None,
            cold_starts=(cold_starts := bars.cold_starts(artifacts)),
            starts={bar.artifact.index: bar.total for bar in cold_starts},
            memory=bars.memory(figures, artifacts, "peak_resident_bytes"),
            device_memory=bars.memory(figures, artifacts, "peak_device_bytes"),
            stages=bars.stages(figures, ran),
            layers=bars.layers(figures, artifacts),
            class_table=classes.class_table(ran),
            confusions=classes.confusions(ran),
            calibrated=(calibrated := [one for one in ran if (one.row["accuracy"] or {}).get("confidence")]),
            diagrams=[(one, reliability.reliability(figures, one)) for one in _diagrammed(calibrated)],
            disputed=pictures.disputed(record, ran),
            most_disputed=pictures.MOST,
        )
    )


def _diagrammed(artifacts: Sequence[Artifact]) -> list[Artifact]:
    def importance(one: Artifact) -> tuple[bool, bool, float]:
        return one.is_reference, one.recommended, one.row["accuracy"]["confidence"]["ece"]

    chosen = sorted(artifacts, key=importance, reverse=True)[:MOST_DIAGRAMS]
    return [one for one in artifacts if one in chosen]


@cache
def _environment() -> "jinja2.Environment":
    library: Any = require("jinja2", "The report", "report")
    environment: jinja2.Environment = library.Environment(
        loader=library.PackageLoader("toolkit.report"),
        autoescape=True,
        undefined=library.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment
