"""What is another than before around the two: libraries, driver, GPU, provider, weights, how they were built."""

from collections.abc import Mapping
from typing import Any

from engines.metadata import ModelMetadata
from toolkit.comparison.records.row import Row
from toolkit.gate.result import Change, Side

_PASSPORT = ("precision", "gpu", "driver", "cuda", "platform", "command")


def changes_between(
    old: Side, new: Side, old_model: ModelMetadata | None, new_model: ModelMetadata | None
) -> tuple[Change, ...]:
    """Every fact that differs, in the order in which one looks for a cause."""
    facts = [_facts(side, model) for side, model in ((old, old_model), (new, new_model))]
    if old.row.passport and new.row.passport:  # of one alone everything would be a change
        facts = [known | _passport(side.row.passport or {}) for known, side in zip(facts, (old, new), strict=True)]
    names = dict.fromkeys([*facts[0], *facts[1]])
    return tuple(
        Change(name, facts[0].get(name, "-"), facts[1].get(name, "-"))
        for name in names
        if facts[0].get(name) != facts[1].get(name)
    )


def _facts(side: Side, model: ModelMetadata | None) -> dict[str, str]:
    row, machine = side.row, side.machine
    facts: dict[str, Any] = {"file": row.digest[:19], **_session(row)}
    facts |= {
        "GPU": ", ".join(str(gpu.get("name")) for gpu in machine.gpus),
        "driver": ", ".join(sorted({str(gpu.get("driver")) for gpu in machine.gpus if gpu.get("driver")})),
        "processor": machine.processor,
        "cores": f"{machine.cores:g}",
        "system": machine.system,
        "python": machine.python,
    }
    facts |= {f"installed {name}": version for name, version in machine.libraries.items()}
    if model is not None:
        facts |= {"architecture": model.architecture, "weights": model.origin.get("weights", "")[:19]}
    return _told(facts)


def _told(facts: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(value) for name, value in facts.items() if value is not None and value != ""}


def _session(row: Row) -> dict[str, Any]:
    if row.opened is None:
        return {}
    info = row.opened.info
    versions = {f"runs with {name}": version for name, version in info.versions.items()}
    return {"backend": info.backend, "device": info.device, "provider": info.provider, **versions}


def _passport(passport: Mapping[str, Any]) -> dict[str, str]:
    """What the build says of itself."""
    facts = {f"built: {name}": passport.get(name) for name in _PASSPORT}
    facts |= {f"built with {name}": version for name, version in (passport.get("versions") or {}).items()}
    facts |= {f"built from {name}": str(digest)[:19] for name, digest in (passport.get("sources") or {}).items()}
    facts |= {f"built: {name}": value for name, value in (passport.get("options") or {}).items()}
    return _told(facts)
