"""A passport: what an engine came from, what it is, where it runs and what was measured."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from engines.errors import InputError, ToolkitError
from engines.passport import Passport, find_passport
from engines.portability import reasons_not_to_run
from toolkit.inspection.measured import measured_sections
from toolkit.inspection.report import (
    Facts,
    Report,
    Table,
    flatten,
    metadata_facts,
    short_digest,
    size_text,
    tensor_facts,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

_SOURCES = {
    "plan": "the plan's own programs",
    "inspector": "TensorRT's engine inspector, after the build",
    "graph": "the graph, which is the engine",
}
_UNTOLD = frozenset({"seen"})
"""Facts of a calibration that say nothing to people: a filter that knows the images it has seen."""

_BAR = 24
"""Characters of the bar that stands for all layers."""


def inspect_passport(path: Path) -> Report:
    """Describe a passport.

    Raises:
        EngineFormatError: it is damaged or none.
    """
    passport = Passport.read(path)
    sections = passport_sections(passport)
    sections += layers_table(passport.layers)
    return Report("passport", path, tuple(sections), {"passport": passport.to_json()})


def damage_in(reasons: "Sequence[ToolkitError]") -> ToolkitError | None:
    """The reason that is the file's own fault, not this machine's: engine or passport is not what it should be."""
    return next((reason for reason in reasons if isinstance(reason, InputError)), None)


def read_beside(engine: Path) -> tuple[Passport | None, list[ToolkitError]]:
    """The passport beside an engine, and what header and passport say against running it here.

    A damaged passport is among the latter, so that the engine itself can still be described.
    """
    reasons = reasons_not_to_run(engine)
    try:
        return find_passport(engine), reasons
    except ToolkitError:
        return None, reasons


def reason_rows(reasons: list[ToolkitError]) -> list[tuple[str, str]]:
    """Each reason and its remedy, for people."""
    return [row for reason in reasons for row in (("does not run here", reason.cause), ("remedy", reason.remedy))]


def reasons_json(reasons: list[ToolkitError]) -> list[dict[str, str]]:
    """Each reason and its remedy, for programs."""
    return [{"error": type(r).__name__, "cause": r.cause, "remedy": r.remedy} for r in reasons]


def passport_sections(passport: Passport, title: str = "passport") -> list[Facts | Table]:
    """A passport with its model's metadata and what was measured; the layers' types are a section of their own."""
    return [
        passport_facts(passport, title),
        metadata_facts(passport.metadata),
        *measured_sections(passport.measurements),
    ]


def passport_facts(passport: Passport, title: str = "passport") -> Facts:
    """What a passport says, for people."""
    built_for = ", ".join(passport.compute_capabilities)
    drivers = ", ".join(
        f"{what} {version}"
        for what, version in (("NVIDIA driver", passport.driver), ("CUDA", passport.cuda))
        if version
    )
    rows = [
        ("engine", f"{passport.engine} ({size_text(passport.size)}, {short_digest(passport.digest)})"),
        ("backend", passport.backend),
        ("precision", passport.precision),
        ("built", " ".join(filter(None, (passport.created, "on", passport.gpu or "", passport.platform)))),
        *((("built with", drivers),) if drivers else ()),
        *((("compute capabilities", built_for),) if built_for else ()),
        *tensor_facts(passport.inputs, passport.outputs),
        *(
            (f"profile {number}", f"{name} {' : '.join('×'.join(map(str, shape)) for shape in shapes)}")
            for number, profile in enumerate(passport.profiles)
            for name, shapes in profile.items()
        ),
        *flatten(passport.versions, "version of "),
        *flatten(passport.sources, "made from "),
        *flatten(passport.options, "option "),
        *((("wider than asked for", ", ".join(passport.partial)),) if passport.partial else ()),
        *flatten({k: v for k, v in (passport.calibration or {}).items() if v and k not in _UNTOLD}, "calibrated: "),
        *((("build log", passport.log),) if passport.log else ()),
        ("build it again", passport.command),
    ]
    return Facts(title, tuple(rows))


def layers_table(layers: object) -> list[Facts | Table]:
    """The layer types of an engine as a table; nothing where they are unknown."""
    if not isinstance(layers, dict) or not layers.get("layers"):
        return []
    from engines.builders.audit import LayerReport

    report = LayerReport.from_json(layers)
    rows = tuple((layer.label, layer.kind, layer.type) for layer in report.heavy)
    shares = ", ".join(f"{share:.0%} {kind}" for kind, share in report.shares().items())
    source = _SOURCES.get(report.source, report.source)
    facts = Facts("layer types", (("convolutions and matrix products", shares or "none"), ("read from", source)))
    if not rows:
        return [facts]
    return [
        facts,
        shares_table([(layer.kind, layer.type) for layer in report.heavy]),
        Table("convolutions and matrix products", ("layer", "kind", "computes in"), rows),
    ]


def shares_table(layers: "Sequence[tuple[str, str]]") -> Table:
    """How many convolutions and matrix products compute in each type, the type of most layers first.

    Args:
        layers: kind ("conv", "matmul") and type of each; at least one.
    """
    counts = Counter(kind for _, kind in layers)
    rows = tuple(
        (
            kind,
            str(layers.count(("conv", kind))),
            str(layers.count(("matmul", kind))),
            f"{count / len(layers):.0%}",
            "█" * max(1, round(_BAR * count / len(layers))),
        )
        for kind, count in counts.most_common()
    )
    columns = ("computes in", "convolutions", "matrix products", "share of both", "")
    return Table("precision", columns, rows, frozenset({1, 2, 3}))
