"""A training on a terminal: a bar, and the curves of loss and accuracy as they grow."""

import time
from typing import TYPE_CHECKING, Any

from toolkit.training.plot import Curve, bounds, plot

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.text import Text

    from export.training import EpochFacts

ROWS = 5
MOST = 60
"""Characters a plot is wide at most."""

STYLES = ("bright_black", "blue")
"""Of train and test."""


class Display:
    """A :class:`engines.progress.Progress` that draws on a terminal while a training goes on.

    Args:
        console: where to.
    """

    def __init__(self, console: "Console") -> None:
        from rich.live import Live
        from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        self.console = console
        self._bars = Bars(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]} {task.fields[rate]}{task.fields[facts]}"),
            TimeRemainingColumn(compact=True),
            console=console,
        )
        self._task: Any = None
        self._epochs = 1
        self.loss: tuple[list[tuple[float, float]], ...] = ([], [])
        self.accuracy: tuple[list[tuple[float, float]], ...] = ([], [])
        self._live = Live(console=console, get_renderable=self._shown, refresh_per_second=8, transient=True)

    def begin(self, task: str, total: int | None = None, unit: str = "") -> None:
        self.end()
        self._name, self._done, self._start, self._facts = task, 0, time.monotonic(), dict[str, object]()
        self._task = self._bars.add_task(task, total=total, unit=unit, facts="", rate="")
        self._live.start()

    def advance(self, steps: int = 1, **facts: object) -> None:
        if self._task is None:
            return
        self._done += steps
        self._facts.update(facts)
        rate = self._done / max(time.monotonic() - self._start, 1e-6)
        self._bars.update(self._task, advance=steps, facts=_text(self._facts), rate=f"{rate:.3g}/s")
        epoch = facts.get("epoch")
        if isinstance(epoch, str) and "/" in epoch:
            self._epochs = int(epoch.partition("/")[2])

    def epoch(self, facts: "EpochFacts") -> None:
        """An epoch is over."""
        self._epochs = max(self._epochs, facts.epoch)
        for curves, train, test in (
            (self.loss, facts.train_loss, facts.test_loss),
            (self.accuracy, 100 * facts.train_accuracy, 100 * facts.test_accuracy),
        ):
            curves[0].append((facts.epoch, train))
            curves[1].append((facts.epoch, test))
        self._live.refresh()

    def end(self) -> None:
        if self._task is None:
            return
        self._live.stop()
        self._bars.remove_task(self._task)
        self._task = None
        self.console.print(
            f"{self._name}: {time.monotonic() - self._start:.1f} s{_text(self._facts)}", highlight=False
        )

    def _shown(self) -> "RenderableType":
        from rich.console import Group

        if not self.loss[0]:
            return self._bars
        return Group(panel(self.loss, self.accuracy, self._epochs, self.console.width), self._bars)


def panel(loss: tuple[Curve, ...], accuracy: tuple[Curve, ...], epochs: int, columns: int) -> "Text":
    """Loss to the left and accuracy to the right, :data:`ROWS` lines of plot under a line of title.

    Args:
        loss, accuracy: train and test, (epoch, value).
        epochs: of the whole training.
        columns: of the terminal; below 60 only accuracy is shown.
    """
    from rich.text import Text

    parts = [("loss", loss, ".3g"), ("accuracy, %", accuracy, ".1f")]
    if columns < 60:
        parts = parts[1:]
    width = min((columns - 2) // len(parts) - 10, MOST)
    lines = [Text() for _ in range(ROWS + 1)]
    for title, curves, form in parts:
        low, high = bounds(curves)
        lines[0].append(f"{'':8}").append(title, "bold")
        for name, style in zip(("train", "test"), STYLES, strict=True):
            lines[0].append(f"  ━ {name}", style)
        lines[0].append(" " * max(width + 2 - len(title) - 17, 0))
        rows = plot(curves, max(width, 10), ROWS, x=(1, max(epochs, 2)), y=(low, high))
        for number, row in enumerate(rows):
            edge = {0: high, ROWS - 1: low}.get(number)
            lines[number + 1].append(f"{'' if edge is None else format(edge, form):>6} ", "bright_black")
            lines[number + 1].append("│", "bright_black")
            for character, owner in row:
                lines[number + 1].append(character, STYLES[owner] if owner >= 0 else "")
            lines[number + 1].append("  ")
    return Text("\n").join(lines)


def _text(facts: dict[str, object]) -> str:
    shown = (
        f"{name.replace('_', ' ')} {value:.4g}" if isinstance(value, float) else f"{name.replace('_', ' ')} {value}"
        for name, value in facts.items()
        if value != "" and name != "learning_rate"  # which the lines of the epochs tell, and the bar has no room for
    )
    return "".join(f", {text}" for text in shown)
