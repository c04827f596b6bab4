"""One comparison: every artifact in processes of its own, evaluated on the same images, timed in turns."""

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from engines.errors import ToolkitError
from engines.progress import QUIET, Progress
from toolkit.benchmarking.conditions import Conditions, Watch
from toolkit.benchmarking.launches import open_all
from toolkit.benchmarking.messages import Opened
from toolkit.benchmarking.process import WorkerProcess
from toolkit.comparison.layers import layers_of
from toolkit.comparison.measuring.known import restore
from toolkit.comparison.measuring.plan import Entry, Plan
from toolkit.comparison.measuring.samples import Samples
from toolkit.comparison.measuring.speeds import launch_done, refer, time_launch
from toolkit.comparison.records.record import Comparison, DataFacts
from toolkit.comparison.records.row import ColdStart, Row

_REFERENCE_ORDER = ((".pt", ".pth", ".pkl"), (".onnx",), ("",))


@dataclass(frozen=True)
class Outcome:
    """What was measured.

    Attributes:
        rows: one a contestant, in the order of the plan.
        reference: the row that the others refer to; None when there is only one.
        data: what was evaluated; None for speed alone, and while it is being evaluated.
        pictures: images that artifacts disagree on, by index in the test split: data URLs.
        conditions: the machine while it was timed; None when nothing was.
        progress: how far the evaluation got, to take it up again; None when it is done.
        complete: everything asked for was measured.
    """

    rows: tuple[Row, ...]
    reference: str | None
    data: DataFacts | None
    pictures: Mapping[int, str] = field(default_factory=dict)
    conditions: Conditions | None = None
    progress: Mapping[str, Any] | None = None
    complete: bool = True


def run(
    plan: Plan,
    progress: Progress = QUIET,
    known: Comparison | None = None,
    keep: Callable[[Outcome], None] = lambda outcome: None,
) -> Outcome:
    """Measure every contestant of ``plan``; one that fails keeps its row with the reason.

    All processes are gone when this returns or raises, Ctrl-C included.

    Args:
        plan: what to measure.
        progress: told of the work.
        known: what an interrupted run of the same plan left: what is in it is not measured again.
        keep: called with everything so far: at most every 5 s while evaluating, after it, after every batch
            size of every launch, and after the launch.

    Raises:
        InputError: a file can't be read, or the plan makes no sense.
        ToolkitError: nothing could be run (the first artifact's reason), or the reference asked for can't be.
    """
    plan.check()
    entries = {contestant.name: Entry.of(contestant) for contestant in plan.contestants}
    for entry in entries.values():
        entry.layers = layers_of(entry.contestant.path, digest=entry.digest)
    course = _Course(plan, entries, progress, keep)
    if known is not None:
        restore(entries, known)
        course.reference, course.data, course.pictures = known.reference, known.data, dict(known.pictures)
        course.conditions, course.tallies = known.conditions[0], known.progress
    return course.run()


class _Course:
    """The comparison as it goes on: what it has measured, and what is left to do."""

    def __init__(
        self, plan: Plan, entries: dict[str, Entry], progress: Progress, keep: Callable[[Outcome], None]
    ) -> None:
        self.plan, self.entries, self.progress, self._keep = plan, entries, progress, keep
        self.reference: str | None = None
        self.data: DataFacts | None = None
        self.pictures: dict[int, str] = {}
        self.conditions: Conditions | None = None
        self.tallies: Mapping[str, Any] | None = None
        self._workers: Mapping[str, WorkerProcess] = {}
        self._stack = contextlib.ExitStack()
        self._watch: Watch | None = None
        self._samples = Samples(plan)

    def run(self) -> Outcome:
        """All launches, one after the other."""
        pace = self.plan.pace
        with self._stack:
            launches = pace.starts if self.plan.batch_sizes else 1
            for launch in range(launches):
                evaluated = self.plan.dataset is None or self.data is not None
                # Between the last turn and its end an interrupted run hasn't asked yet what ran.
                proven = launch < launches - 1 or all(entry.proof for entry in _running(self.entries))
                if evaluated and proven and launch_done(self.plan, self.entries, launch):
                    continue
                with contextlib.ExitStack() as stack:
                    self._launch(launch, stack)
                self._workers = {}
        self.reference = _reference(self.plan, self.entries)
        refer(self.entries, self.reference)
        return self._outcome(complete=True)

    def _launch(self, launch: int, stack: contextlib.ExitStack) -> None:
        workers = self._workers = self._open(launch, stack)
        self.reference = _reference(self.plan, self.entries)
        _lend_metadata(self.entries, self.reference)
        if self.plan.dataset is not None and self.data is None:
            self._evaluate()
            self.reference = _reference(self.plan, self.entries)
        if self.plan.batch_sizes and not launch_done(self.plan, self.entries, launch):
            self._samples.feed(self.entries, workers)
            if self._watch is None:
                self._watch = self._stack.enter_context(Watch(self._pids))
            time_launch(self.plan, self.entries, workers, launch, self.progress, self._measured)
        for entry in _running(self.entries):
            with contextlib.suppress(ToolkitError):
                worker = workers[entry.name]
                entry.memory = max(entry.memory or 0, worker.memory() or 0) or None
                entry.device_memory = max(entry.device_memory or 0, worker.device_memory() or 0) or None
                if entry.proof is None:
                    entry.proof = worker.proof()
        self._keep_now()

    def _open(self, launch: int, stack: contextlib.ExitStack) -> dict[str, WorkerProcess]:
        def opened(name: str, found: Opened) -> None:
            entry = self.entries[name]
            entry.opened = found
            entry.metadata = found.metadata
            entry.architecture = found.metadata.architecture if found.metadata else None
            entry.cold_starts.append(ColdStart(found.open_seconds, found.first_seconds))
            for note in found.notes:
                entry.note(note)
            self.progress.advance()

        def failed(name: str, error: ToolkitError) -> None:
            self.entries[name].error = error
            self.progress.advance()

        wanted = [entry.contestant for entry in self.entries.values() if entry.error is None]
        self.progress.begin("Opening", len(wanted), "artifacts")
        workers = open_all(wanted, launch, stack, opened, failed)
        self.progress.end()
        return workers

    def _evaluate(self) -> None:
        from toolkit.comparison.measuring.evaluate import evaluate
        from toolkit.comparison.measuring.outputs import evaluate_outputs, is_plain_classifier
        from toolkit.data.tensors import TensorDataset

        def keep(tallies: Mapping[str, Any]) -> None:
            self.tallies = tallies
            self._keep_now()

        assert self.plan.dataset is not None  # noqa: S101 - asked by the caller
        assert self.reference is not None  # noqa: S101 - chosen before
        data, reference = self.plan.dataset, self.reference
        if isinstance(data, TensorDataset) or not is_plain_classifier(self.entries[reference].metadata):
            done = evaluate_outputs(
                self.plan, data, self.entries, self._workers, reference=reference, progress=self.progress
            )
        else:
            done = evaluate(
                self.plan,
                data,
                self.entries,
                self._workers,
                reference=reference,
                progress=self.progress,
                known=self.tallies,
                keep=keep,
            )
        self.data, self.pictures, self.tallies = done.data, dict(done.pictures), None
        self._keep_now()

    def _pids(self) -> list[int]:
        return [worker.pid for worker in self._workers.values()]

    def _measured(self, batch: int) -> None:
        refer(self.entries, self.reference, batch)
        self._keep_now()

    def _keep_now(self) -> None:
        self._keep(self._outcome(complete=False))

    def _outcome(self, *, complete: bool) -> Outcome:
        return Outcome(
            rows=tuple(entry.row() for entry in self.entries.values()),
            reference=self.reference if len(self.entries) > 1 else None,
            data=self.data,
            pictures=dict(self.pictures),
            conditions=self._watch.result() if self._watch is not None else self.conditions,
            progress=self.tallies,
            complete=complete,
        )


def _running(entries: Mapping[str, Entry]) -> list[Entry]:
    return [entry for entry in entries.values() if entry.runs]


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
    for entry in _running(entries):
        if entry.metadata is not None or entry.opened is None:
            continue
        if known.pictures is None:
            if entry.opened.inputs == known.taken:
                entry.metadata = known
                entry.note(f"carries no metadata: it is taken to be of the network of {reference}")
            continue
        spec, first = known.pictures, entry.opened.inputs[0]
        raw = first.dtype == "uint8" and first.shape[1:] == (spec.height, spec.width, spec.channels)
        if raw or first.shape[1:] == (spec.channels, spec.height, spec.width):
            entry.metadata = replace(known, uint8_input=raw)
            entry.note(f"carries no metadata: labels and preprocessing are those of {reference}")
