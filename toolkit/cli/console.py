"""What commands share: results to stdout, progress and notes to stderr."""

import contextlib
import json
import sys
import time
from collections.abc import Iterator
from typing import Any

import click

from engines.progress import Progress


def out(content: object = "") -> None:
    """Print a result, text or a rich renderable, to stdout."""
    if isinstance(content, str):
        click.echo(content)
    else:
        from rich.console import Console

        terminal = sys.stdout.isatty()
        Console(file=sys.stdout, width=None if terminal else 140, highlight=False, soft_wrap=False).print(content)


def emit_json(value: object) -> None:
    """Print one machine-readable object to stdout."""
    click.echo(json.dumps(value, indent=2, sort_keys=False, ensure_ascii=False, allow_nan=False))


def note(text: str) -> None:
    """Print a line about the work, not its result, to stderr."""
    click.echo(text, err=True)


@contextlib.contextmanager
def progress() -> Iterator[Progress]:
    """A listener that draws a bar with a rate and an ETA on a terminal, and plain lines elsewhere."""
    listener = _Bars() if sys.stderr.isatty() else _Lines()
    try:
        yield listener
    finally:
        listener.end()


class _Lines:
    """A line when a task begins, one every ten seconds, one when it ends."""

    interval = 10.0

    def __init__(self) -> None:
        self._task = ""

    def begin(self, task: str, total: int | None = None, unit: str = "") -> None:
        self.end()
        self._task, self._total, self._unit, self._done = task, total, unit, 0
        self._facts: dict[str, object] = {}
        self._start = self._last = time.monotonic()
        note(f"{task} ...")

    def advance(self, steps: int = 1, **facts: object) -> None:
        if not self._task:
            return
        self._done += steps
        self._facts.update(facts)
        now = time.monotonic()
        if now - self._last >= self.interval:
            self._last = now
            rate = self._done / (now - self._start)
            of = f"/{self._total}" if self._total else ""
            eta = f", {(self._total - self._done) / rate:.0f} s left" if self._total and rate else ""
            speed = "" if self._unit == "%" else f", {rate:.3g}/s"
            note(f"{self._task}: {self._done}{of} {self._unit}{_facts(self._facts)}{speed}{eta}")

    def end(self) -> None:
        if self._task:
            seconds = time.monotonic() - self._start
            note(f"{self._task}: {seconds:.1f} s{_facts(self._facts)}")
            self._task = ""


class _Bars:
    """A rich bar a task; a finished task leaves one line."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        self._bars = RichProgress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]} {task.fields[rate]}{task.fields[facts]}"),
            TimeRemainingColumn(compact=True),
            console=Console(stderr=True),
            transient=True,
        )
        self._id: Any = None

    def begin(self, task: str, total: int | None = None, unit: str = "") -> None:
        self.end()
        self._task, self._facts, self._done, self._unit = task, dict[str, object](), 0, unit
        self._start = time.monotonic()
        self._bars.start()
        self._id = self._bars.add_task(task, total=total, unit=unit, facts="", rate="")

    def advance(self, steps: int = 1, **facts: object) -> None:
        if self._id is None:
            return
        self._done += steps
        self._facts.update(facts)
        rate = self._done / max(time.monotonic() - self._start, 1e-6)
        speed, shown = f"{rate:.3g}/s", _facts(self._facts)
        if self._unit == "%":  # nobody counts in per cents a second
            speed, shown = "", shown.removeprefix(", ")
        self._bars.update(self._id, advance=steps, facts=shown, rate=speed)

    def end(self) -> None:
        if self._id is None:
            return
        self._bars.remove_task(self._id)
        self._bars.stop()
        self._id = None
        note(f"{self._task}: {time.monotonic() - self._start:.1f} s{_facts(self._facts)}")


def _facts(facts: dict[str, object]) -> str:
    shown = (
        f"{name.replace('_', ' ')} {value:.4g}" if isinstance(value, float) else f"{name.replace('_', ' ')} {value}"
        for name, value in facts.items()
        if value != ""  # a phase that is over
    )
    return "".join(f", {text}" for text in shown)
