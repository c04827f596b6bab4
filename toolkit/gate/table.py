"""A diff as text: every gate's verdict, what changed around the two, the worst flips."""

from typing import TYPE_CHECKING

from rich.console import Group
from rich.table import Table
from rich.text import Text

from toolkit.comparison.tables import titled_table
from toolkit.gate.result import Diff, Status

if TYPE_CHECKING:
    from rich.console import RenderableType

_STYLES: dict[Status, str] = {"passed": "green", "failed": "bold red", "undecided": "yellow", "skipped": "dim"}


def render(diff: Diff, *, plain: bool = False) -> "RenderableType":
    """The gates, the changes, the flips, and one line of conclusion.

    Args:
        diff: what was found.
        plain: columns without lines or styles, for files and pipes.
    """
    parts: list[RenderableType] = [_gates(diff, plain=plain)]
    if diff.changes:
        parts += [Text(), _changes(diff, plain=plain)]
    if diff.flips:
        parts += [Text(), _flips(diff, plain=plain)]
    parts.append(Text())
    for gate in diff.gates:
        if gate.status == "undecided" and not diff.strict:
            parts.append(
                _line("warning: ", f"{gate.name} is undecided and lets pass: {gate.text}", "yellow", plain=plain)
            )
        parts += [_line(f"{gate.name}: ", detail, "", plain=plain) for detail in gate.details if gate in diff.broken]
    parts += [_line("warning: ", warning, "yellow", plain=plain) for warning in diff.warnings]
    verdict = "passed: " if diff.passed else "failed: "
    text = f"{diff.new.name} may {'' if diff.passed else 'not '}take the place of {diff.old.name}"
    parts.append(_line(verdict, text, _STYLES["passed" if diff.passed else "failed"], plain=plain))
    return Group(*parts)


def _gates(diff: Diff, *, plain: bool) -> Table:
    data = f" on {diff.data.images} {diff.data.split} images of {diff.data.name}" if diff.data else ""
    table = titled_table(f"{diff.old.name} → {diff.new.name}{data}", plain=plain)
    table.add_column("gate", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    table.add_column("found", justify="right", overflow="fold")
    table.add_column("limit", justify="right", no_wrap=True)
    table.add_column("", overflow="fold")
    for gate in diff.gates:
        verdict = Text(gate.status, style="" if plain else _STYLES[gate.status])
        table.add_row(gate.name, verdict, gate.found, gate.allowed, Text(gate.text))
    return table


def _changes(diff: Diff, *, plain: bool) -> Table:
    table = titled_table("Changed around them", plain=plain)
    for name in ("what", "old", "new"):
        table.add_column(name, overflow="fold")
    for change in diff.changes:
        table.add_row(*map(Text, (change.what, change.old, change.new)))
    return table


def _flips(diff: Diff, *, plain: bool) -> Table:
    table = titled_table("The flips that the old one was surest of", plain=plain)
    for name in ("image", "label", "old answer", "new answer", "margin"):
        table.add_column(name, justify="right" if name in {"image", "margin"} else "left", overflow="fold")
    for flip in diff.flips:
        answer = "-" if flip.answer is None else f"{flip.answer} {_percent(flip.answer_probability or 0)}"
        before = f"{flip.reference} {_percent(flip.reference_probability)}"
        table.add_row(str(flip.image), Text(flip.label), Text(before), Text(answer), f"{flip.margin:.3f}")
    return table


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _line(head: str, text: str, style: str, *, plain: bool) -> Text:
    return Text.assemble((head, "" if plain else style), text)
