"""Several records side by side: a GPU host's beside a laptop's. Nothing is computed across them."""

import shlex
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from toolkit.comparison.records.earlier import EARLIER
from toolkit.comparison.records.record import Comparison, DataFacts, Part, Row
from toolkit.machine import Machine

_UNIMPORTANT = ("threads",)
"""Settings whose difference says nothing: they belong to the machine."""


def merge(comparisons: Sequence[Comparison], sources: Sequence[str] = ()) -> Comparison:
    """One record with the rows of all: those of one record after those of the one before.

    Rows of a name that several records use are called by their machine too, and by their source where that is
    the same. Ratios and agreement stay those within each record. A record that is given twice counts once; one
    alone is given back as it is.

    Args:
        comparisons: at least one; merged ones give their parts.
        sources: what each is called, a file say; "record 1", ... without.

    Returns:
        A record whose ``machines``, ``conditions`` and ``parts`` belong together. ``data``, ``settings`` and
        ``reference`` are the first part's; warnings say what that isn't true of.

    Raises:
        ValueError: there is nothing to merge.
    """
    if not comparisons:
        raise ValueError("there is nothing to merge")
    named = list(zip(comparisons, sources or [f"record {i + 1}" for i in range(len(comparisons))], strict=True))
    different, warnings = _different(named)
    if len(different) == 1:
        only = different[0][0]
        return replace(only, warnings=(*only.warnings, *warnings))
    pieces = [piece for comparison, source in different for piece in _pieces(comparison, source)]
    names = _names(pieces)
    rows: list[Row] = []
    parts: list[Part] = []
    first = next((part.data for _, part in pieces if part.data), None)
    for number, (comparison, part) in enumerate(pieces):
        called = names[number]
        parts.append(replace(part, reference=None if part.reference is None else called[part.reference]))
        mine = (replace(row, name=called[row.name], machine=number) for row in comparison.rows)
        rows += [_fitting(row, part.data, first) for row in mine]
        warnings += [f"{part.source}: {warning}" for warning in comparison.warnings]
    warnings += [warning for comparison, _ in different for warning in _of_parts(comparison)]
    return Comparison(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command=shlex.join(["toolkit", "compare", "--from", *(source for _, source in different)]),
        machines=tuple(comparison.machine for comparison, _ in pieces),
        settings=parts[0].settings,
        data=first,
        reference=parts[0].reference,
        rows=tuple(rows),
        warnings=(*_doubts(pieces, parts), *warnings),
        conditions=tuple(comparison.conditions[0] for comparison, _ in pieces),
        goal=next((comparison.goal for comparison, _ in pieces if comparison.goal), None),
        pictures={image: url for comparison, part in reversed(pieces) if _same(part.data, first)
                  for image, url in comparison.pictures.items()},
        complete=all(comparison.complete for comparison, _ in pieces),
        parts=tuple(parts),
    )  # fmt: skip


def parts_of(comparison: Comparison) -> tuple[Comparison, ...]:
    """Each part of a merged record as a comparison of its own, rows named as in the whole; itself if it has none.

    Warnings, which say what is merged, stay with the whole.
    """
    if not comparison.parts:
        return (comparison,)
    return tuple(
        Comparison(
            created=part.created,
            command=part.command,
            machines=(comparison.machines[number],),
            settings=part.settings,
            data=part.data,
            reference=part.reference,
            rows=tuple(replace(row, machine=0) for row in comparison.rows if row.machine == number),
            conditions=(comparison.conditions[number],),
            goal=comparison.goal,
            pictures=comparison.pictures,
            complete=comparison.complete,
        )
        for number, part in enumerate(comparison.parts)
    )


def _of_parts(comparison: Comparison) -> list[str]:
    """The warnings of a merged record's parts, which name them; the others are found anew."""
    named = tuple(f"{part.source}: " for part in comparison.parts)
    return [warning for warning in comparison.warnings if warning.startswith(named)]


Piece = tuple[Comparison, Part]


def _different(named: Sequence[tuple[Comparison, str]]) -> tuple[list[tuple[Comparison, str]], list[str]]:
    """Each record once, and a warning for each that comes again."""
    kept: list[tuple[Comparison, str]] = []
    warnings = []
    for comparison, source in named:
        facts = comparison.to_json()
        twin = next((other for known, other in kept if known.to_json() == facts), None)
        if twin is None:
            kept.append((comparison, source))
        else:
            again = "is given twice" if twin == source else f"is the same record as '{twin}'"
            warnings.append(f"'{source}' {again}: it is shown once")
    return kept, warnings


def _pieces(comparison: Comparison, source: str) -> list[Piece]:
    """A record and how it is described in the merged one; a merged record gives several."""
    if comparison.parts:
        return list(zip(parts_of(comparison), comparison.parts, strict=True))
    c = comparison
    return [(c, Part(source, c.created, c.command, c.settings, c.data, c.reference))]


def _names(pieces: Sequence[Piece]) -> list[dict[str, str]]:
    """For each piece: what a row was called → what it is called now."""
    listed = [row.name for comparison, _ in pieces for row in comparison.rows]
    clashing = {name for name in listed if listed.count(name) > 1}
    labels = [machine_label(comparison.machine) for comparison, _ in pieces]
    labels = [
        label if labels.count(label) == 1 else part.source for label, (_, part) in zip(labels, pieces, strict=True)
    ]
    taken: set[str] = {name for name in listed if name not in clashing}
    found = []
    for (comparison, _), label in zip(pieces, labels, strict=True):
        called = {}
        for row in comparison.rows:
            wanted = name = f"{row.name} ({label})" if row.name in clashing else row.name
            count = 1
            while row.name in clashing and name in taken:
                count += 1
                name = f"{wanted} #{count}"
            taken.add(name)
            called[row.name] = name
        found.append(called)
    return found


def machine_label(machine: Machine) -> str:
    """What a reader calls a machine: its GPUs, else its processor."""
    gpus = dict.fromkeys(str(gpu.get("name", "GPU")) for gpu in machine.gpus)
    return ", ".join(gpus) or machine.processor


def _same(one: DataFacts | None, other: DataFacts | None) -> bool:
    """Whether both are of the same images, as far as can be told: versions digest them in different ways."""
    if one is None or other is None:
        return False
    if one.digest.startswith(EARLIER) == other.digest.startswith(EARLIER):
        return one.digest == other.digest
    return replace(one, digest="") == replace(other, digest="")


def _fitting(row: Row, data: DataFacts | None, first: DataFacts | None) -> Row:
    """A row on other data than the rest says so, and leaves its pictures out: numbers are of other images there."""
    if row.accuracy is None or data is None or _same(data, first):
        return row
    note = f"was evaluated on {data.images} {data.split} images of {data.name}, not on those of the first record"
    return replace(row, accuracy=replace(row.accuracy, disagreements=()), notes=(*row.notes, note))


def _doubts(pieces: Sequence[Piece], parts: Sequence[Part]) -> list[str]:
    """What a reader of the rows side by side has to know."""
    doubts = []
    data = [part.data for part in parts if part.data]
    if any(not _same(data[0], other) for other in data[1:]):
        doubts.append("the records were made on different images: their accuracies can't be compared")
    elif len({part.digest.startswith(EARLIER) for part in data}) > 1:
        doubts.append(
            "a record of an earlier version doesn't tell whether its images were the same: accuracies may not compare"
        )
    if other := _differing([dict(part.settings) for part in parts]):
        doubts.append(f"the records were made with different settings ({', '.join(other)})")
    doubts.extend(
        f"'{part.source}' is of a run that was interrupted: figures are missing"
        for comparison, part in pieces
        if not comparison.complete
    )
    doubts.extend(
        f"speed ratios and agreement of what '{part.source}' holds refer to {part.reference}"
        for part in parts[1:]
        if part.reference is not None and part.reference != parts[0].reference
    )
    return doubts


def _differing(settings: Sequence[dict[str, Any]]) -> list[str]:
    names = dict.fromkeys(name for one in settings for name in one if name not in _UNIMPORTANT)
    return [
        name.replace("_", " ") for name in names if any(one.get(name) != settings[0].get(name) for one in settings)
    ]
