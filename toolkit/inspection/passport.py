"""A passport: what an engine came from, what it is, where it runs and what was measured."""

from pathlib import Path

from engines.errors import ToolkitError
from engines.passport import Passport, find_passport
from engines.portability import reasons_not_to_run
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


def inspect_passport(path: Path) -> Report:
    """Describe a passport.

    Raises:
        EngineFormatError: it is damaged or none.
    """
    passport = Passport.read(path)
    sections: list[Facts | Table] = [passport_facts(passport), metadata_facts(passport.metadata)]
    sections += layers_table(passport.layers)
    return Report("passport", path, tuple(sections), {"passport": passport.to_json()})


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


def passport_facts(passport: Passport) -> Facts:
    """What a passport says, for people."""
    built_for = ", ".join(passport.compute_capabilities)
    rows = [
        ("engine", f"{passport.engine} ({size_text(passport.size)}, {short_digest(passport.digest)})"),
        ("backend", passport.backend),
        ("precision", passport.precision),
        ("built", " ".join(filter(None, (passport.created, "on", passport.gpu or "", passport.platform)))),
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
        *flatten(passport.measurements, "measured "),
        ("build it again", passport.command),
    ]
    return Facts("passport", tuple(rows))


def layers_table(layers: object) -> list[Facts | Table]:
    """The layer types of an engine as a table; nothing where they are unknown."""
    if not isinstance(layers, dict) or not layers.get("layers"):
        return []
    from engines.builders.audit import LayerReport

    report = LayerReport.from_json(layers)
    shares = ", ".join(f"{share:.0%} {kind}" for kind, share in report.shares().items())
    rows = tuple((layer.label, layer.kind, layer.type) for layer in report.heavy)
    return [
        Facts("layer types", (("convolutions and matrix products", shares or "none"), ("read from", report.source))),
        Table("convolutions and matrix products", ("layer", "kind", "computes in"), rows),
    ]
