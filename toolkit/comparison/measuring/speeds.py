"""The timing of one launch: every running artifact, in turns, at every batch size that it takes."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path

from engines.errors import InputError, ToolkitError
from engines.progress import Progress
from toolkit.benchmarking.process import WorkerProcess
from toolkit.benchmarking.rounds import launch_turns
from toolkit.benchmarking.saturation import Sweep
from toolkit.benchmarking.timing import Timing, speed_ratio
from toolkit.comparison.measuring.plan import Entry, Plan
from toolkit.comparison.records.row import Speed

_ROOM = 0.5
"""Share of the available memory that the next larger batch may take."""


def time_launch(
    plan: Plan,
    entries: Mapping[str, Entry],
    workers: Mapping[str, WorkerProcess],
    launch: int,
    progress: Progress,
    measured: Callable[[int], None],
) -> None:
    """Add this launch's turns to what the entries have; sizes that all have them of already are left out.

    An engine that takes one batch size only adds that to the sizes, for its rivals too.

    Args:
        plan: what to measure.
        entries: by name; one that fails gets the error, or the reason why it doesn't take a size.
        workers: of those that run.
        launch: from 0.
        progress: told of the work.
        measured: called with each size after it.
    """
    going = {name: worker for name, worker in workers.items() if entries[name].runs}
    warm: set[str] = set()
    progress.begin(
        f"Timing, launch {launch + 1} of {plan.pace.starts}" if plan.pace.starts > 1 else "Timing",
        None
        if plan.batch_sizes == "sweep"
        else plan.pace.rounds_of(launch) * len(_asked(plan, entries)) * len(going),
        "turns",
    )
    for batch in _sizes(plan, entries, going, launch):
        taking = _taking(entries, going, batch)
        if not taking or all(_launches(entries[name], batch) > launch for name in taking):
            continue
        _time_size(plan, entries, going, taking, batch, launch, progress, warm=warm)
        warm.update(taking)
        measured(batch)
    progress.end()


def launch_done(plan: Plan, entries: Mapping[str, Entry], launch: int) -> bool:
    """Whether an interrupted run has left nothing of this launch to measure."""
    running = [entry for entry in entries.values() if entry.runs]
    if not running:
        return False
    if isinstance(plan.batch_sizes, str):
        # Where a sweep ends is known for sure when a later launch has begun.
        if not launch:
            return any(_launches(entry, size) > 1 for entry in running for size in entry.speeds)
        sizes: Iterable[int] = {size for entry in running for size in entry.speeds}
        if not sizes:
            return False
    else:
        sizes = _asked(plan, entries)
    return all(_launches(entry, size) > launch or size in entry.skipped for entry in running for size in sizes)


def refer(entries: Mapping[str, Entry], reference: str | None, batch: int | None = None) -> None:
    """Give every entry its speed against the reference's, at one batch size or at all."""
    base = entries[reference].speeds if reference is not None else {}
    for name, entry in entries.items():
        for size, speed in entry.speeds.items():
            if batch in {None, size}:
                other = base.get(size) if name != reference else None
                ratio = speed_ratio(other.timing, speed.timing) if other and _share_rounds(other, speed) else None
                entry.speeds[size] = Speed(speed.timing, ratio)


def _asked(plan: Plan, entries: Mapping[str, Entry]) -> tuple[int, ...]:
    """The sizes of the plan, and those of engines that take one size only."""
    fixed = [entry.opened.fixed_batch for entry in entries.values() if entry.runs and entry.opened]
    asked = () if isinstance(plan.batch_sizes, str) else plan.batch_sizes
    return tuple(dict.fromkeys([*asked, *(size for size in fixed if size)]))


def _sizes(
    plan: Plan, entries: Mapping[str, Entry], going: Mapping[str, WorkerProcess], launch: int
) -> Iterator[int]:
    """The sizes of a launch; a sweep's first launch finds them as it goes on, and the others follow it."""
    swept: list[int] = []
    if plan.batch_sizes == "sweep":
        if launch:
            swept = sorted({size for entry in entries.values() for size in entry.speeds})
            yield from swept
        else:
            for size in _sweep(entries, going):
                swept.append(size)
                yield size
    yield from (size for size in _asked(plan, entries) if size not in swept)


def _sweep(entries: Mapping[str, Entry], going: Mapping[str, WorkerProcess]) -> Iterator[int]:
    sweep = Sweep()
    held = 0
    while (size := sweep.size) is not None:
        yield size
        # Of a run that is continued the first launch alone decides, as it would have then.
        timings = {
            name: first
            for name in going
            if size in entries[name].speeds
            and (first := entries[name].speeds[size].timing.first_launches(1)) is not None
        }
        before, held = held, sum(_memory(worker) for worker in going.values())
        available = _available()
        room = available is None or not before or 2 * max(0, held - before) < _ROOM * available
        sweep.measured(timings, room=room)


def _taking(entries: Mapping[str, Entry], going: Mapping[str, WorkerProcess], batch: int) -> dict[str, WorkerProcess]:
    taking = {}
    for name, worker in going.items():
        entry = entries[name]
        reason = entry.opened.refuses(batch) if entry.opened else None
        if reason is not None:
            entry.skipped[batch] = reason
        elif batch not in entry.skipped:
            taking[name] = worker
    return taking


def _time_size(
    plan: Plan,
    entries: Mapping[str, Entry],
    going: dict[str, WorkerProcess],
    taking: Mapping[str, WorkerProcess],
    batch: int,
    launch: int,
    progress: Progress,
    *,
    warm: Collection[str],
) -> None:
    def failed(name: str, error: ToolkitError) -> None:
        entry = entries[name]
        smaller = any(size < batch and _launches(entry, size) > launch for size in entry.speeds)
        if isinstance(error, InputError) or (plan.batch_sizes == "sweep" and smaller):
            # A good engine whose profile has no such batch, or memory that is too small for it.
            entry.skipped[batch] = error.cause
        else:
            entry.error = error
        if entry.error is not None or not going[name].alive:
            del going[name]

    turns = launch_turns(taking, batch, plan.pace, failed, progress.advance, launch, warm=warm)
    for name, blocks in turns.items():
        speed = entries[name].speeds.get(batch)
        before = speed.timing.first_launches(launch) if speed else None
        entries[name].speeds[batch] = Speed(Timing.of(batch, [blocks], before))


def _launches(entry: Entry, batch: int) -> int:
    return len(entry.speeds[batch].timing.launches) if batch in entry.speeds else 0


def _share_rounds(one: Speed, other: Speed) -> bool:
    launches = zip(one.timing.launches, other.timing.launches, strict=False)
    return any(a and b for first, second in launches for a, b in zip(first, second, strict=False))


def _memory(worker: WorkerProcess) -> int:
    try:
        return worker.memory() or 0
    except ToolkitError:
        return 0


def _available() -> int | None:
    """Bytes that processes can still take; None where the system doesn't tell."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("MemAvailable:")).split()[1]) * 1024
    except (OSError, ValueError, StopIteration):
        return None
