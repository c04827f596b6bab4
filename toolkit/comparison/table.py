"""A comparison as text: who is right how often, who is how fast, and who can't run here."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from toolkit.comparison.accuracy import Share
from toolkit.comparison.record import Comparison, Row, Speed

if TYPE_CHECKING:
    from rich.console import RenderableType

Column = tuple[str, Callable[[Row, Speed], str]]


def render(comparison: Comparison, *, plain: bool = False) -> "RenderableType":
    """Tables of accuracy and speed, the reasons of what wasn't run, and warnings.

    At 100 columns nothing is cut: long names are folded over lines.

    Args:
        comparison: what was measured.
        plain: columns without lines or styles, for files and pipes.
    """
    parts: list[RenderableType] = []
    if comparison.data is not None:
        parts.append(_accuracy(comparison, plain=plain))
    if any(row.speeds for row in comparison.rows):
        parts.append(_speed(comparison, plain=plain))
    if any(speed.timing.stages for row in comparison.rows for speed in row.speeds.values()):
        parts.append(_stages(comparison, plain=plain))
    parts.extend(_remarks(comparison, plain=plain))
    parts.append(Text(f"Measured on {comparison.machine}.", style="" if plain else "dim"))
    spaced: list[RenderableType] = []
    for part in parts:
        spaced += [Text(), part] if spaced and isinstance(part, Table) else [part]
    return Group(*spaced)


def _accuracy(comparison: Comparison, *, plain: bool) -> Table:
    data, reference = comparison.data, comparison.reference
    assert data is not None  # noqa: S101 - asked by the caller
    rows = comparison.rows
    with_top5 = any(row.accuracy and row.accuracy.top5 for row in rows)
    with_agreement = reference is not None
    table = titled_table(f"Accuracy on {data.images} {data.split} images of {data.name}", plain=plain)
    _name_column(table, "artifact")
    table.add_column("runs on", overflow="fold")
    for name in ("size", "top-1", *(["top-5"] if with_top5 else [])):
        table.add_column(name, justify="right", no_wrap=True)
    if with_agreement:
        table.add_column(f"same as {reference}", justify="right", overflow="fold")
    for row in rows:
        accuracy = row.accuracy
        cells = [row.name, _runs_on(row), _bytes(row.size), _percent(accuracy.top1 if accuracy else None)]
        cells += [_percent(accuracy.top5 if accuracy else None)] if with_top5 else []
        if with_agreement:
            agreement = accuracy.agreement if accuracy else None
            cells.append("reference" if row.name == reference else _with_interval(agreement))
        table.add_row(*cells)
    return table


def _speed(comparison: Comparison, *, plain: bool) -> Table:
    rows, reference = comparison.rows, comparison.reference
    columns: list[Column] = [
        ("p50 ms", lambda _, speed: _milliseconds(speed.timing.p50)),
        ("p95 ms", lambda _, speed: _milliseconds(speed.timing.p95)),
        ("p99 ms", lambda _, speed: _milliseconds(speed.timing.p99)),
    ]
    columns.append(("images/s", lambda _, speed: _rate(speed.timing.images_per_second)))
    if reference is not None:
        columns.append(("speed", lambda row, speed: "1.00x" if row.name == reference else _ratio(speed)))
    title = "Speed" if reference is None else f"Speed in turns, against {reference} (95 % interval)"
    table = titled_table(title, plain=plain)
    table.add_column("batch", justify="right", no_wrap=True)
    _name_column(table, "artifact")
    for name, _ in columns:
        table.add_column(name, justify="right", no_wrap=True)
    sizes = sorted({batch for row in rows for batch in (*row.speeds, *row.skipped)})
    for batch in sizes:
        for row in rows:
            if batch in row.speeds:
                table.add_row(str(batch), row.name, *(value(row, row.speeds[batch]) for _, value in columns))
            elif batch in row.skipped:
                table.add_row(str(batch), row.name, "-")
        table.add_section()
    return table


def _stages(comparison: Comparison, *, plain: bool) -> Table:
    """Where the time goes on a device: what is left of end to end is Python and the library's own."""
    table = titled_table("On the device, median ms", plain=plain)
    table.add_column("batch", justify="right", no_wrap=True)
    _name_column(table, "artifact")
    for name in ("copy in", "device", "copy out", "end to end"):
        table.add_column(name, justify="right", no_wrap=True)
    for batch in sorted({batch for row in comparison.rows for batch in row.speeds}):
        for row in comparison.rows:
            timing = row.speeds[batch].timing if batch in row.speeds else None
            if timing is not None and timing.stages is not None:
                times = (timing.stages.copy_in, timing.stages.device, timing.stages.copy_out, timing.p50)
                table.add_row(str(batch), row.name, *map(_milliseconds, times))
        table.add_section()
    return table


def _remarks(comparison: Comparison, *, plain: bool) -> list[Text]:
    lines: list[Text] = []

    def add(head: str, text: str, style: str) -> None:
        lines.append(Text.assemble((head, "" if plain else style), text))

    for row in comparison.rows:
        if row.failure is not None:
            remedy = f" ({row.failure.remedy})" if row.failure.remedy else ""
            add("stopped: " if row.opened else "not run: ", f"{row.name}: {row.failure.cause}{remedy}", "red")
    for row in comparison.rows:
        skipped: dict[str, list[int]] = {}
        for batch, reason in row.skipped.items():
            skipped.setdefault(reason, []).append(batch)
        for reason, batches in skipped.items():
            add("not taken: ", f"{row.name} at batch {', '.join(map(str, batches))}: {reason}", "yellow")
        for note in row.notes:
            add("note: ", f"{row.name} {note}", "yellow")
    for warning in comparison.warnings:
        add("warning: ", warning, "yellow")
    return lines


def titled_table(title: str, *, plain: bool) -> Table:
    """A table without columns yet; ``plain`` without lines and styles, for a file or a pipe."""
    return Table(
        title=title,
        title_justify="left",
        title_style="" if plain else "bold",
        header_style="" if plain else "bold",
        box=None if plain else box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 2 if plain else 1, 0, 0),
    )


def _name_column(table: Table, title: str) -> None:
    table.add_column(title, overflow="fold", min_width=12)


def _runs_on(row: Row) -> str:
    if row.opened is None:
        return "not run"
    info = row.opened.info
    provider = info.provider.removesuffix("ExecutionProvider").lower()
    known = {"", info.backend, info.device, info.device.partition(":")[0]}
    extra = f" ({info.provider})" if provider not in known else ""
    return f"{info.backend} {info.device}{extra}"


def _percent(share: Share | None) -> str:
    return f"{100 * share.rate:.2f} %" if share else "-"


def _with_interval(share: Share | None) -> str:
    if share is None:
        return "-"
    low, high = share.interval
    return f"{100 * share.rate:.2f} % ({100 * low:.1f}–{100 * high:.1f})"


def _ratio(speed: Speed) -> str:
    ratio = speed.ratio
    if ratio is None:
        return "-"
    if ratio.low is None or ratio.high is None:
        return f"{ratio.value:.2f}x"
    return f"{ratio.value:.2f}x ({ratio.low:.2f}–{ratio.high:.2f})"


def _milliseconds(seconds: float) -> str:
    """Three significant digits, and never an exponent."""
    value = 1000 * seconds
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _bytes(size: int) -> str:
    """Decimal units, as disks are sold and file managers show: 1 MB is a million bytes."""
    scale: Sequence[tuple[str, float]] = (("GB", 1e9), ("MB", 1e6), ("kB", 1e3))
    for unit, factor in scale:
        if size >= factor:
            return f"{size / factor:.3g} {unit}" if size < 100 * factor else f"{size / factor:.0f} {unit}"
    return f"{size} B"
