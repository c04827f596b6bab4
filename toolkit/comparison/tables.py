"""The tables of a comparison: who is right how often, how fast each is, where the time goes, what a start takes."""

from collections.abc import Callable, Sequence
from statistics import median

from rich import box
from rich.table import Table
from rich.text import Text

from toolkit.benchmarking.timing import RATIO_CONFIDENCE
from toolkit.comparison import figures
from toolkit.comparison.records.record import Comparison
from toolkit.comparison.records.row import Row, Speed

Column = tuple[str, Callable[[Row, Speed], str]]


def titled_table(title: str, *, plain: bool) -> Table:
    """A table without columns yet; ``plain`` without lines and styles, for a file or a pipe."""
    return Table(
        title=Text(title),
        title_justify="left",
        title_style="" if plain else "bold",
        header_style="" if plain else "bold",
        box=None if plain else box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 2 if plain else 1, 0, 0),
    )


def tables_of(comparison: Comparison, *, plain: bool) -> list[Table]:
    """The tables that there are figures for, of a comparison of one run."""
    rows = comparison.rows
    found = [_accuracy(comparison, plain=plain)] if any(row.accuracy for row in rows) else []
    if any(row.fidelity for row in rows):
        found.append(_fidelity(comparison, plain=plain))
    if any(row.speeds for row in rows):
        found.append(_speed(comparison, plain=plain))
    if any(speed.timing.stages for row in rows for speed in row.speeds.values()):
        found.append(_stages(rows, plain=plain))
    return [*found, _files(rows, plain=plain)]


def _accuracy(comparison: Comparison, *, plain: bool) -> Table:
    data, reference, rows = comparison.data, comparison.reference, comparison.rows
    title = f"Accuracy on {data.images:,} {data.split} {comparison.counted} of {data.name}" if data else "Accuracy"
    with_top5 = any(row.accuracy and row.accuracy.top5 for row in rows)
    table = titled_table(title, plain=plain)
    _name_column(table)
    names = ["top-1", *(["top-5"] if with_top5 else [])]
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    if reference is not None:
        table.add_column(f"same as {reference}", justify="right", overflow="fold")
        for name in ("flips", "drop, points"):
            table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        accuracy = row.accuracy
        cells = [row.name, figures.percent(accuracy.top1 if accuracy else None)]
        cells += [figures.percent(accuracy.top5 if accuracy else None)] if with_top5 else []
        if reference is not None:
            against, agreement = (accuracy.against, accuracy.agreement) if accuracy else (None, None)
            same = "reference" if row.name == reference else figures.percent_with_interval(agreement)
            flips = str(against.flips.count) if against else "-"
            cells += [same, flips, figures.points(against.drop if against else None)]
        table.add_row(*cells)
    return table


def _fidelity(comparison: Comparison, *, plain: bool) -> Table:
    """A line for each artifact and output."""
    data, rows = comparison.data, [row for row in comparison.rows if row.fidelity]
    outputs = [one for row in rows if row.fidelity for one in row.fidelity.outputs]
    on = "" if data is None else f" on {data.images:,} {data.split} samples of {data.name}"
    table = titled_table(f"Outputs against {comparison.reference or 'nothing'}{on}", plain=plain)
    _name_column(table)
    table.add_column("output", overflow="fold")
    with_same = any(one.same is not None for one in outputs)
    for name in ("SQNR dB", "cosine", "largest error", *(["same"] if with_same else [])):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        found = row.fidelity.outputs if row.fidelity else ()
        if not found:
            table.add_row(row.name, "reference" if row.name == comparison.reference else "-")
        for number, one in enumerate(found):
            cells = [row.name if not number else "", one.name, *figures.closeness(one)]
            table.add_row(*cells[: None if with_same else -1])
    return table


def _speed(comparison: Comparison, *, plain: bool) -> Table:
    rows, reference = comparison.rows, comparison.reference
    columns: list[Column] = [
        ("p50 ms", lambda _, speed: figures.milliseconds(speed.timing.p50)),
        ("p95 ms", lambda _, speed: figures.milliseconds(speed.timing.p95)),
        ("p99 ms", lambda _, speed: figures.milliseconds(speed.timing.p99)),
        ("images/s", lambda _, speed: figures.rate(speed.timing.images_per_second)),
    ]
    if reference is not None:
        columns.append(("speed", lambda row, speed: "1.00x" if row.name == reference else figures.ratio(speed.ratio)))
    title = "Speed" if reference is None else f"Speed in turns, against {reference} ({RATIO_CONFIDENCE:.0%} interval)"
    table = titled_table(title, plain=plain)
    table.add_column("batch", justify="right", no_wrap=True)
    _name_column(table)
    for name, _ in columns:
        table.add_column(name, justify="right", no_wrap=True)
    for batch in sorted({batch for row in rows for batch in (*row.speeds, *row.skipped)}):
        for row in rows:
            if batch in row.speeds:
                table.add_row(str(batch), row.name, *(value(row, row.speeds[batch]) for _, value in columns))
            elif batch in row.skipped:
                table.add_row(str(batch), row.name, "-")
        table.add_section()
    return table


def _stages(rows: Sequence[Row], *, plain: bool) -> Table:
    """Where the time goes on a device: what is left of end to end is Python and the library's own."""
    table = titled_table("On the device, median ms", plain=plain)
    table.add_column("batch", justify="right", no_wrap=True)
    _name_column(table)
    for name in ("copy in", "device", "copy out", "end to end"):
        table.add_column(name, justify="right", no_wrap=True)
    for batch in sorted({batch for row in rows for batch in row.speeds}):
        for row in rows:
            timing = row.speeds[batch].timing if batch in row.speeds else None
            if timing is not None and timing.stages is not None:
                times = (timing.stages.copy_in, timing.stages.device, timing.stages.copy_out, timing.p50)
                table.add_row(str(batch), row.name, *map(figures.milliseconds, times))
        table.add_section()
    return table


def _files(rows: Sequence[Row], *, plain: bool) -> Table:
    """What runs each artifact, and what it takes to start and to hold."""
    on_device = any(row.device_memory for row in rows)
    table = titled_table("Files, cold starts and memory", plain=plain)
    _name_column(table)
    table.add_column("runs on", overflow="fold")
    table.add_column("layers", overflow="fold")
    names = ("size", "first answer s", "memory", *(["on the GPU"] if on_device else []))
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        cells = [row.name, _runs_on(row), _layers(row), figures.size(row.size), _cold_start(row)]
        cells += [_memory(row.memory)] + ([_memory(row.device_memory)] if on_device else [])
        table.add_row(*cells)
    return table


def _name_column(table: Table) -> None:
    table.add_column("artifact", overflow="fold", min_width=12)


def _runs_on(row: Row) -> str:
    if row.opened is None:
        return "not run"
    info = row.opened.info
    provider = info.provider.removesuffix("ExecutionProvider").lower()
    known = {"", info.backend, info.device, info.device.partition(":")[0]}
    extra = f" ({info.provider})" if provider not in known else ""
    return f"{info.backend} {info.device}{extra}"


def _layers(row: Row) -> str:
    """The type of its convolutions and matrix products, and of how many where others differ: "int8 6 of 8"."""
    layers = row.layers
    if layers is None:
        return "-"
    if len(layers.shares) < 2:
        return layers.precision
    return f"{layers.precision} {round(layers.shares.get(layers.precision, 0) * layers.heavy)} of {layers.heavy}"


def _cold_start(row: Row) -> str:
    """From nothing to the first answer, the median over launches."""
    if not row.cold_starts:
        return "-"
    return f"{median(start.open + start.first for start in row.cold_starts):.2f}"


def _memory(count: int | None) -> str:
    return "-" if count is None else figures.size(count)
