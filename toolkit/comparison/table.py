"""A comparison as text: its tables, what they mean, why something wasn't measured, and what casts doubt on it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Group
from rich.table import Table
from rich.text import Text

from toolkit.comparison import figures
from toolkit.comparison.records.merging import machine_label, parts_of
from toolkit.comparison.records.record import Comparison, Verdict
from toolkit.comparison.tables import tables_of, titled_table

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["render", "titled_table"]

_HEADS = {
    "recommended": ("recommended", "bold green"),
    "no-faster": ("no faster", "yellow"),
    "dominated": ("dominated", "yellow"),
    "less-accurate": ("less accurate", "yellow"),
    "not-finite": ("not finite", "red"),
    "not-measured": ("", "red"),
}
"""How a kind of verdict is headed; others by their own names. One that wasn't measured says so itself."""


def render(comparison: Comparison, *, plain: bool = False) -> "RenderableType":
    """Tables of accuracy, speed, and starts, then verdicts, the reasons of what wasn't run, notes and warnings.

    A merged record has the tables of each of its runs. At 100 columns nothing is cut: long names are folded over
    lines.

    Args:
        comparison: what was measured.
        plain: columns without lines or styles, for files and pipes.
    """
    parts: list[RenderableType] = []
    for one in parts_of(comparison):
        if comparison.parts:
            parts.append(Text(f"On {one.machine}", style="" if plain else "bold underline"))
        parts += tables_of(one, plain=plain)
    parts += _Lines(plain=plain).of(comparison)
    if not comparison.parts:
        parts.append(Text(f"Measured on {comparison.machine}.", style="" if plain else "dim"))
    spaced: list[RenderableType] = []
    for number, part in enumerate(parts):
        if number and (isinstance(part, Table) or isinstance(parts[number - 1], Table)):
            spaced.append(Text())
        spaced.append(part)
    return Group(*spaced)


class _Lines:
    """The lines below the tables, each with what it is in front."""

    def __init__(self, *, plain: bool) -> None:
        self._plain = plain
        self._lines: list[Text] = []

    def of(self, comparison: Comparison) -> list[Text]:
        if not comparison.complete:
            self._add("interrupted: ", "not everything was measured; the same command goes on from here", "bold red")
        self._verdicts(comparison)
        judged = {verdict.subject for verdict in comparison.verdicts if verdict.kind == "not-measured"}
        for row in comparison.rows:
            if row.failure is not None and row.name not in judged:
                remedy = f" ({row.failure.remedy})" if row.failure.remedy else ""
                head = "stopped: " if row.opened else "not run: "
                self._add(head, f"{row.name}: {row.failure.cause}{remedy}", "red")
        for row in comparison.rows:
            if row.proof is not None and row.proof.fallbacks:
                self._add("ran elsewhere: ", f"{row.name}: {figures.listed(row.proof.fallbacks, 3)}", "yellow")
        for row in comparison.rows:
            skipped: dict[str, list[int]] = {}
            for batch, reason in row.skipped.items():
                skipped.setdefault(reason, []).append(batch)
            for reason, batches in skipped.items():
                self._add("not taken: ", f"{row.name} at batch {', '.join(map(str, batches))}: {reason}", "yellow")
            for note in row.notes:
                self._add("note: ", f"{row.name} {note}", "yellow")
        for warning in comparison.warnings:
            self._add("warning: ", warning, "yellow")
        return self._lines

    def _verdicts(self, comparison: Comparison) -> None:
        for verdicts in _same(comparison.verdicts):
            verdict = verdicts[0]
            head, style = _HEADS.get(verdict.kind, (verdict.kind.replace("-", " "), "yellow"))
            if verdict.kind == "recommended" and comparison.parts and verdict.subject:
                head += f" on {machine_label(comparison.machines[comparison.row(verdict.subject).machine])}"
            names = ", ".join(one.subject for one in verdicts if one.subject)
            text = verdict.text
            if not head:
                head, _, text = text.partition(": ")
            self._add(f"{head}: ", f"{names}: {text}" if names else text, style)

    def _add(self, head: str, text: str, style: str) -> None:
        self._lines.append(Text.assemble((head, "" if self._plain else style), text))


def _same(verdicts: Sequence[Verdict]) -> list[list[Verdict]]:
    """Verdicts of the same words on several rows together, in the order of the first."""
    found: dict[tuple[str, str], list[Verdict]] = {}
    for verdict in verdicts:
        found.setdefault((verdict.kind, verdict.text), []).append(verdict)
    return list(found.values())
