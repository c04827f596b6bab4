"""From an old and a new artifact to the evidence: both answer the same pictures, then take turns."""

import contextlib
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from engines.errors import RunError, ToolkitError, UnsupportedError
from engines.metadata import ModelMetadata
from engines.passport import find_passport
from engines.progress import Progress
from toolkit import machine
from toolkit.benchmarking.conditions import Conditions
from toolkit.benchmarking.messages import Contestant, Opened
from toolkit.benchmarking.process import WorkerProcess
from toolkit.benchmarking.rounds import Pace
from toolkit.comparison.layers import layers_of
from toolkit.comparison.measuring.candidate import require_metadata
from toolkit.comparison.measuring.plan import Entry, Plan
from toolkit.comparison.measuring.run import run
from toolkit.comparison.records.row import Row
from toolkit.comparison.warn import warnings_of
from toolkit.data import Dataset
from toolkit.gate.about import About, labels_digest
from toolkit.gate.asking import Answered, Old, Running, ask, require_judged
from toolkit.gate.baseline import Baseline
from toolkit.gate.distance import Distance
from toolkit.gate.evidence import Evidence
from toolkit.gate.keeping import writing


def measure(
    old: Contestant | Baseline,
    new: Contestant,
    dataset: Dataset,
    *,
    images: int | None,
    seed: int,
    batch_sizes: tuple[int, ...],
    pace: Pace,
    with_floor: bool,
    progress: Progress,
) -> Evidence:
    """Everything that the gates need.

    Args:
        old: an artifact that runs here, or what one answered elsewhere or earlier.
        new: an artifact.
        dataset: its test split is answered.
        images: how many of it; None for all.
        seed: of the choice of pictures and of the disturbance.
        batch_sizes: to time; none times nothing.
        pace: how long to time.
        with_floor: measure the old one's response to a disturbance.
        progress: told of the work.

    Raises:
        InputError: a file can't be read, or carries no labels, or the data isn't the baseline's.
        UnsupportedError: one is no classifier of pictures.
        ToolkitError: one can't run here. A new one that opens and then fails is in the evidence.
    """
    here = machine.describe()
    busy = machine.busy_cores() if batch_sizes else None
    contestants = (new,) if isinstance(old, Baseline) else (old, new)
    entries = {contestant.name: Entry.of(contestant) for contestant in contestants}
    newcomer = entries[new.name]
    with contextlib.ExitStack() as stack:
        answered, models = _answers(
            old, newcomer, entries, stack, dataset, images=images, seed=seed, with_floor=with_floor, progress=progress
        )
    conditions = None
    rows = {name: entry.row() for name, entry in entries.items()}
    failure = newcomer.error
    if batch_sizes and failure is None:
        try:
            plan = Plan(contestants, batch_sizes, reference=contestants[0].name, pace=pace)
            outcome = run(plan, progress)
            rows, conditions = {row.name: row for row in outcome.rows}, outcome.conditions
        except RunError as error:
            failure = error
        else:
            stopped = rows[new.name].failure
            failure = RunError(stopped.cause, stopped.remedy) if stopped else None
    kept = old.about if isinstance(old, Baseline) else None
    doubts = kept.warnings if kept and batch_sizes else ()
    return Evidence(
        old=kept.row if kept else _completed(rows[old.name]),
        new=_completed(rows[new.name]),
        old_model=models[0],
        new_model=models[1],
        answered=answered,
        failure=failure,
        machines=(kept.machine if kept else here, here),
        threads=(kept.threads if kept else new.threads, new.threads),
        baseline=kept.created if kept else "",
        warnings=(
            *(f"when the baseline was written, {warning}" for warning in doubts),
            *_warnings(tuple(rows.values()), busy, conditions),
        ),
    )


def record_baseline(
    artifact: Contestant,
    dataset: Dataset,
    path: Path,
    *,
    images: int | None,
    seed: int,
    batch_sizes: tuple[int, ...],
    pace: Pace,
    command: str,
    progress: Progress,
) -> About:
    """Let an artifact answer and take its times, and keep both in a file.

    The arguments are those of :func:`measure`; ``command`` is what wrote the file.

    Raises:
        InputError: the artifact carries no labels, or the file can't be written.
        UnsupportedError: it is no classifier of pictures.
        ToolkitError: the artifact fails.
    """
    count = min(images or len(dataset.test), len(dataset.test))
    with writing(path, count) as writer:
        with WorkerProcess(artifact) as worker:
            progress.begin("Opening", 1, "artifacts")
            metadata = require_metadata(artifact.name, opened(worker, old=False).metadata)
            require_judged(artifact.name, metadata)
            progress.end()
            running = Running(artifact.name, metadata, worker)
            answered = ask(
                dataset, running, None, images=images, seed=seed, with_floor=True, keep=writer.keep, progress=progress
            )
        plan = Plan((artifact,), batch_sizes, pace=pace)
        busy = machine.busy_cores()
        outcome = run(plan, progress)
        row = _completed(outcome.rows[0])
        if row.failure is not None:
            raise RunError(row.failure.cause, row.failure.remedy)
        assert answered.data is not None  # noqa: S101 - it answered
        about = About(
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            command=command,
            row=row,
            metadata=metadata,
            machine=machine.describe(),
            data=answered.data,
            labels=labels_digest(dataset),
            floor=answered.floor,
            threads=artifact.threads,
            settings=plan.settings(),
            warnings=_warnings(outcome.rows, busy, outcome.conditions),
        )
        writer.conclude(about)
    return about


def opened(worker: WorkerProcess, *, old: bool) -> Opened:
    """Open an artifact; of an old one that can't run here any more the remedy is a baseline.

    Raises:
        ToolkitError: it can't be opened.
    """
    try:
        return worker.open()
    except UnsupportedError as error:
        if old:
            name = worker.contestant.path
            error.remedy = (
                f"keep what it answers before an upgrade: toolkit diff {name} --data DATA --baseline FILE.npz"
            )
        raise


def _warnings(rows: tuple[Row, ...], busy: float | None, conditions: Conditions | None) -> tuple[str, ...]:
    """What casts doubt on the times, and what ran elsewhere than was asked for."""
    elsewhere = [f"{row.name}: {line}" for row in rows if row.proof for line in row.proof.fallbacks]
    return (*warnings_of(rows, busy, conditions), *elsewhere)


def _completed(row: Row) -> Row:
    """The row with the types of its layers and its passport, where they can be told."""
    passport = row.passport
    if passport is None:
        with contextlib.suppress(ToolkitError):
            found = find_passport(Path(row.path))
            passport = found.to_json() if found is not None and found.digest == row.digest else None
    if passport is not None:
        passport = {name: value for name, value in passport.items() if name not in {"measurements", "layers"}}
    return replace(row, layers=row.layers or layers_of(row.path, digest=row.digest), passport=passport)


_Models = tuple[ModelMetadata | None, ModelMetadata | None]


def _answers(
    old: Contestant | Baseline,
    newcomer: Entry,
    entries: Mapping[str, Entry],
    stack: contextlib.ExitStack,
    dataset: Dataset,
    *,
    images: int | None,
    seed: int,
    with_floor: bool,
    progress: Progress,
) -> tuple[Answered, _Models]:
    """Open what is to be opened and put the pictures to both; an error of the new one goes into its entry."""
    workers: dict[str, WorkerProcess] = {}
    progress.begin("Opening", len(entries), "artifacts")
    for name, entry in entries.items():
        workers[name] = stack.enter_context(WorkerProcess(entry.contestant))
        try:
            entry.opened = opened(workers[name], old=entry is not newcomer)
        except RunError as error:
            if entry is not newcomer:
                raise
            entry.error = error
        progress.advance()
    progress.end()
    after = _metadata(newcomer)
    before = old.metadata if isinstance(old, Baseline) else _metadata(entries[old.name])
    if newcomer.error is not None:
        return Answered(None, None, None, None, Distance()), (before, None)
    # Of two that are held against each other one may be a plain plan, without a passport.
    before = require_metadata(old.name, before or after)
    after = after or before
    for name, metadata in ((old.name, before), (newcomer.name, after)):
        require_judged(name, metadata)
    source: Old = old if isinstance(old, Baseline) else Running(old.name, before, workers[old.name])
    answered = ask(
        dataset,
        source,
        Running(newcomer.name, after, workers[newcomer.name]),
        images=images,
        seed=seed,
        with_floor=with_floor,
        progress=progress,
    )
    newcomer.error = answered.failure
    return answered, (before, after)


def _metadata(entry: Entry) -> ModelMetadata | None:
    return entry.opened.metadata if entry.opened else None
