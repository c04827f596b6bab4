"""One comparison: every artifact opened in a process of its own, evaluated on the same images, timed in turns."""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass

from engines.errors import InputError, ToolkitError
from engines.metadata import ModelMetadata
from engines.progress import QUIET, Progress
from toolkit.benchmarking.process import WorkerProcess
from toolkit.benchmarking.rounds import take_turns
from toolkit.benchmarking.timing import speed_ratio
from toolkit.comparison.plan import Entry, Plan
from toolkit.comparison.record import DataFacts, Row, Speed

_REFERENCE_ORDER = ((".pt", ".pth", ".pkl"), (".onnx",), ("",))


@dataclass(frozen=True)
class Outcome:
    """What was measured.

    Attributes:
        rows: one a contestant, in the order of the plan.
        reference: the row that the others refer to; None when there is only one.
        data: what was evaluated; None for speed alone.
    """

    rows: tuple[Row, ...]
    reference: str | None
    data: DataFacts | None


def run(plan: Plan, progress: Progress = QUIET) -> Outcome:
    """Measure every contestant of ``plan``; one that fails keeps its row with the reason.

    All processes are gone when this returns or raises, Ctrl-C included.

    Raises:
        InputError: a file can't be read, or the plan makes no sense.
        ToolkitError: nothing could be run (the first artifact's reason), or the reference asked for can't be.
    """
    plan.check()
    entries = {contestant.name: Entry.of(contestant) for contestant in plan.contestants}
    with contextlib.ExitStack() as stack:
        workers = _open(entries, stack, progress)
        reference = _reference(plan, entries)
        _lend_metadata(entries, reference)
        data = None
        if plan.dataset is not None:
            from toolkit.comparison.evaluate import evaluate

            data = evaluate(plan, plan.dataset, entries, workers, reference=reference, progress=progress)
            reference = _reference(plan, entries)
        if plan.batch_sizes:
            _time(plan, entries, workers, reference, progress)
        for entry in _running(entries):
            with contextlib.suppress(ToolkitError):
                entry.memory = workers[entry.name].memory()
    _reference(plan, entries)
    return Outcome(tuple(entry.row() for entry in entries.values()), reference if len(entries) > 1 else None, data)


def _running(entries: Mapping[str, Entry]) -> list[Entry]:
    return [entry for entry in entries.values() if entry.runs]


def _open(entries: Mapping[str, Entry], stack: contextlib.ExitStack, progress: Progress) -> dict[str, WorkerProcess]:
    """Open one after the other, so that the seconds that each takes are its own."""
    workers = {}
    progress.begin("Opening", len(entries), "artifacts")
    for name, entry in entries.items():
        worker = stack.enter_context(WorkerProcess(entry.contestant))
        try:
            entry.opened = worker.open()
            entry.metadata = entry.opened.metadata
            workers[name] = worker
        except ToolkitError as error:
            entry.error = error
            worker.close()
        progress.advance()
    progress.end()
    return workers


def _reference(plan: Plan, entries: Mapping[str, Entry]) -> str:
    """The one asked for, else the first checkpoint that runs, else the first graph, else the first artifact.

    Raises:
        ToolkitError: the one asked for doesn't run, or none does.
    """
    if plan.reference is not None:
        if error := entries[plan.reference].error:
            raise error
        return plan.reference
    for suffixes in _REFERENCE_ORDER:
        for entry in _running(entries):
            if entry.contestant.path.lower().endswith(suffixes):
                return entry.name
    raise next(entry.error for entry in entries.values() if entry.error is not None)


def _lend_metadata(entries: Mapping[str, Entry], reference: str) -> None:
    """A foreign engine that takes the reference's input is taken to be of the reference's model."""
    known = entries[reference].metadata
    if known is None:
        return
    spec = known.preprocess
    for entry in _running(entries):
        if entry.metadata is not None or entry.opened is None:
            continue
        first = entry.opened.inputs[0]
        raw = first.dtype == "uint8" and first.shape[1:] == (spec.height, spec.width, spec.channels)
        if raw or first.shape[1:] == (spec.channels, spec.height, spec.width):
            entry.metadata = ModelMetadata(known.architecture, known.labels, spec, raw, known.origin)
            entry.notes.append(f"carries no metadata: labels and preprocessing are those of {reference}")


def _time(
    plan: Plan,
    entries: Mapping[str, Entry],
    workers: Mapping[str, WorkerProcess],
    reference: str,
    progress: Progress,
) -> None:
    """Time every running artifact at every batch size that it takes.

    An engine that takes one batch size only adds that to the sizes, for its rivals too.
    """
    fixed = [entry.opened.fixed_batch for entry in _running(entries) if entry.opened]
    sizes = tuple(dict.fromkeys([*plan.batch_sizes, *(size for size in fixed if size)]))

    progress.begin("Timing", plan.pace.rounds * len(sizes) * len(_running(entries)), "turns")
    for batch in sizes:
        taking: dict[str, WorkerProcess] = {}
        for entry in _running(entries):
            reason = entry.opened.refuses(batch) if entry.opened else None
            if reason is None:
                taking[entry.name] = workers[entry.name]
            else:
                entry.skipped[batch] = reason

        def failed(name: str, error: ToolkitError, batch: int = batch) -> None:
            if isinstance(error, InputError):  # a good engine whose profile has no such batch
                entries[name].skipped[batch] = error.cause
            else:
                entries[name].error = error

        timings = take_turns(taking, batch, plan.pace, failed, progress.advance)
        base = timings.get(reference)
        for name, timing in timings.items():
            ratio = speed_ratio(base, timing) if base and name != reference else None
            entries[name].speeds[batch] = Speed(timing, ratio)
    progress.end()
