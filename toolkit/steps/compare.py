"""Compare artifacts: accuracy and speed of each, through the session that would serve it."""

import contextlib
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from engines.errors import InputError
from engines.passport import passport_path
from engines.progress import QUIET, Progress
from toolkit import machine
from toolkit.benchmarking.messages import Contestant
from toolkit.benchmarking.rounds import Pace
from toolkit.comparison.goal import Aim, Goal
from toolkit.comparison.measuring.key import key_of
from toolkit.comparison.measuring.known import goes_on
from toolkit.comparison.measuring.plan import Plan, artifact_of, name_contestants, spelled
from toolkit.comparison.measuring.run import Outcome, run
from toolkit.comparison.passports import passport_of, record_measurements
from toolkit.comparison.records.journal import Journal
from toolkit.comparison.records.record import Comparison
from toolkit.comparison.verdicts import judge
from toolkit.comparison.warn import warnings_of
from toolkit.steps.reports import Outputs

if TYPE_CHECKING:
    from toolkit.data import Dataset
    from toolkit.data.tensors import TensorDataset

BATCH_SIZES = (1, 8, 32)

_BEFORE = "before the interruption, "

Batches = Sequence[int] | Literal["sweep"]
"""Batch sizes, or "sweep": doubled from 1 on until throughput stops growing."""


def compare(
    artifacts: Sequence["str | PathLike[str] | Contestant"],
    data: "str | PathLike[str] | Dataset | TensorDataset | None",
    *,
    reference: "str | PathLike[str] | None" = None,
    batch_sizes: Batches = BATCH_SIZES,
    images: int | None = None,
    seconds: float | None = None,
    rounds: int | None = None,
    launches: int = Pace.launches,
    seed: int = 0,
    backend: str = "auto",
    device: str = "auto",
    threads: int | None = None,
    trust_pickle: bool = False,
    model: str | None = None,
    goal: Goal | Aim | None = None,
    record: "str | PathLike[str] | None" = None,
    report: "str | PathLike[str] | None" = None,
    markdown: "str | PathLike[str] | None" = None,
    csv: "str | PathLike[str] | None" = None,
    fresh: bool = False,
    force: bool = False,
    update_passports: bool = True,
    say: Callable[[str], None] = lambda line: None,
    progress: Progress = QUIET,
) -> Comparison:
    """Measure checkpoints, graphs and engines against each other.

    Each is loaded in a process of its own and answers the data's test split there; then all take turns,
    a short block each with everyone else idle, at every batch size. Latency is of one ``run`` of the
    session, from arrays in host memory to arrays in host memory; decoding and resizing are not in it.

    What is measured is kept on disk as it goes on: after an interruption the same call goes on from there.

    Args:
        artifacts: paths, with the backend behind an @ where it isn't the one that the file is made for
            ("model.onnx@openvino"), or :class:`Contestant` for one with a device of its own.
        data: a data set, or what ``open_dataset`` takes; for a network that takes tensors an ``.npz`` of them. None
            measures speed only. Of a network that isn't a classifier, "accuracy" is how near each output is to the
            reference's.
        reference: which artifact agreement and speed ratios refer to, written as among the artifacts; one not
            listed is added first. None takes the first checkpoint that runs, else the first graph, else the first
            artifact.
        batch_sizes: images a run, for the timing; an artifact that doesn't take one has the reason in its row.
            "sweep" doubles them from 1 on until throughput stops growing.
        images: how many test images, in the classes' proportions; None takes all.
        seconds: timed running of each artifact at each batch size, over all launches; None for 1, or 0.5 where more
            than four are compared.
        rounds: turns of each artifact at each batch size, over all launches; None for 40, or 20 of more than four.
        launches: how often every process is started anew; two or more even out what the place of its memory does.
        seed: of the choice of images and the order of turns.
        backend: for the artifacts given as paths that name none; "auto" takes what each file is made for.
        device: "auto", "cpu" or "cuda:N", for the artifacts given as paths.
        threads: CPU threads of each; None leaves it to the backend.
        trust_pickle: load pickled modules, which runs their code.
        model: the code of networks whose checkpoints hold weights alone, as for ``toolkit.export``; it is run.
        goal: what the recommendation is for; None balances latency and throughput, half a point lost at most.
        record: where the record goes, and is kept as it goes on; None takes the report's name with .json, and
            without a report a file in the cache folder that is gone when all is measured.
        report: an HTML page of the result.
        markdown: the same for a pull request.
        csv: a line for each artifact and batch size.
        fresh: begin anew instead of going on where an interrupted run stopped.
        force: replace output files that are of another comparison, or anything else.
        update_passports: write what was measured into the passport beside each engine.
        say: told a line when an interrupted run is taken up.
        progress: told of the work.

    Returns:
        A row for every artifact; one that this machine can't run has the reason in it.

    Raises:
        InputError: a file doesn't exist, an option makes no sense, an output can't be written, or it is there already
            and of something else.
        DataError: the data can't be used, or its classes are no artifact's.
        ToolkitError: nothing could be run, or the reference asked for can't be.
    """
    goal = Goal(goal) if isinstance(goal, str) else goal
    contestants, chosen = _contestants(
        artifacts, reference, backend, device, threads, _loading(trust_pickle=trust_pickle, model=model)
    )
    plan = Plan(
        contestants,
        batch_sizes if isinstance(batch_sizes, str) else tuple(batch_sizes),
        images=images,
        reference=chosen,
        pace=Pace.of(len(contestants), seconds, rounds, launches, seed),
    )
    plan.check()
    outputs = Outputs.of(record, report, markdown, csv)
    outputs.check(_inputs(contestants, data), force=force)
    source = ""
    if data is not None:
        from toolkit.comparison.measuring.samples import open_samples

        source = data if isinstance(data, str) else fspath(data) if isinstance(data, PathLike) else data.name
        plan = replace(plan, dataset=open_samples(data, contestants, progress))
    facts: dict[str, Any] = {
        "command": _command(plan, source, device, threads, goal, trust_pickle=trust_pickle, model=model),
        "machines": (machine.describe(),),
        "settings": plan.settings(),
        "goal": goal,
    }
    facts["key"] = key_of(plan, facts["machines"][0])
    journal = _journal(outputs.record, facts["key"], facts["command"], chosen, fresh=fresh, force=force, say=say)
    comparison = _measure(plan, facts, journal, progress)
    comparison = replace(comparison, verdicts=judge(comparison, goal))
    if update_passports:
        problems = record_measurements(comparison)
        comparison = replace(comparison, warnings=(*comparison.warnings, *problems))
    _write(comparison, outputs, journal)
    return comparison


def _write(comparison: Comparison, outputs: Outputs, journal: Journal) -> None:
    """Write the record, then what is drawn from it, so that nothing need be measured again when that fails."""
    if journal.lasting:
        journal.write(comparison)
    try:
        outputs.write(comparison)
    except InputError as error:
        again = f"write it again from what was measured: `toolkit compare --from {journal.path} ...`"
        raise InputError(error.cause, again if journal.lasting else error.remedy) from error
    journal.finish()


def _loading(*, trust_pickle: bool, model: str | None) -> dict[str, Any]:
    """What checkpoints are opened with, where it isn't the usual."""
    return {**({"trust_pickle": True} if trust_pickle else {}), **({"model": model} if model else {})}


def _contestants(
    artifacts: Sequence["str | PathLike[str] | Contestant"],
    reference: "str | PathLike[str] | None",
    backend: str,
    device: str,
    threads: int | None,
    options: dict[str, Any],
) -> tuple[tuple[Contestant, ...], str | None]:
    """What is compared, and the name of what the rest is held against; None for the first that fits."""

    def contestant(artifact: "str | PathLike[str] | Contestant") -> Contestant:
        if isinstance(artifact, Contestant):
            return artifact
        path, asked = artifact_of(fspath(artifact))
        return Contestant(
            path, backend=backend if asked == "auto" else asked, device=device, threads=threads, options=options
        )

    listed = [contestant(artifact) for artifact in artifacts]
    wanted = None if reference is None else fspath(reference)
    if wanted is not None and wanted not in {c.name for c in listed}:
        added = contestant(wanted)
        wanted = spelled(added)
        if wanted not in {spelled(c) for c in listed}:
            listed.insert(0, added)
    named = name_contestants(listed)
    return named, next((c.name for c in named if wanted in {c.name, spelled(c)}), None)


def _inputs(
    contestants: Sequence[Contestant], data: "str | PathLike[str] | Dataset | TensorDataset | None"
) -> list[str]:
    """The files that no output may replace: what is compared, the passports beside it, and the data."""
    paths = [Path(contestant.path) for contestant in contestants]
    paths += [passport_path(path) for path in paths]
    paths += [Path(data)] if isinstance(data, str | PathLike) else []
    return [str(path) for path in paths if path.is_file()]


def _journal(
    record: Path | None,
    key: str,
    command: str,
    reference: str | None,
    *,
    fresh: bool,
    force: bool,
    say: Callable[[str], None],
) -> Journal:
    """Where the record is kept, with what an interrupted run left there."""
    if record is not None:
        journal = Journal.at(record, key, command, fresh=fresh, force=force)
    else:
        journal = Journal.in_cache(key, command, fresh=fresh)
    if journal.known is not None and not goes_on(journal.known, reference):
        journal.known = None
    if journal.stale:
        say(f"'{journal.place}' is of an interrupted run, but a file or this machine has changed: it begins anew")
    elif journal.known is not None:
        known = journal.known
        done = ["evaluated"] if known.data else []
        done += [f"{known.progress.get('images', 0)} images evaluated"] if known.progress else []
        timed = dict.fromkeys(str(batch) for row in known.rows for batch in row.speeds)
        done += [f"timed at batch {', '.join(timed)}"] if timed else []
        found = f" ({'; '.join(done)})" if done else ""
        say(f"an interrupted run of {known.created} is continued{found}; --fresh begins anew")
    return journal


def _measure(plan: Plan, facts: Mapping[str, Any], journal: Journal, progress: Progress) -> Comparison:
    """Run the plan; what is measured goes into the journal as it comes."""
    busy = machine.busy_cores()
    passports: dict[str, Any] = {}

    def comparison_of(outcome: Outcome) -> Comparison:
        for row in outcome.rows:
            if row.name not in passports:
                passports[row.name] = passport_of(row)
        known = journal.known
        again = known is not None and outcome.conditions is not known.conditions[0]
        return Comparison(
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            data=outcome.data,
            reference=outcome.reference,
            rows=tuple(replace(row, passport=passports[row.name]) for row in outcome.rows),
            warnings=(*_earlier(known if again else None), *warnings_of(outcome.rows, busy, outcome.conditions)),
            conditions=(outcome.conditions,),
            pictures=outcome.pictures,
            complete=outcome.complete,
            progress=outcome.progress,
            **facts,
        )

    with _told(journal):
        return comparison_of(
            run(plan, progress, journal.known, lambda outcome: journal.write(comparison_of(outcome)))
        )


def _earlier(known: Comparison | None) -> tuple[str, ...]:
    """What cast doubt on the first part of a run that was interrupted; the second has conditions of its own."""
    if known is None:
        return ()
    kept = [warning for warning in known.warnings if warning.startswith(_BEFORE)]
    return (*kept, *(_BEFORE + warning for warning in warnings_of((), None, known.conditions[0])))


@contextlib.contextmanager
def _told(journal: Journal) -> Iterator[None]:
    """Say with an interruption what is kept."""
    try:
        yield
    except KeyboardInterrupt as error:
        if journal.written or journal.known is not None:
            where = f" in '{journal.place}'" if journal.lasting else ""
            error.add_note(f"what was measured is kept{where}, and the same command goes on from there")
        raise


def _command(
    plan: Plan,
    data: str,
    device: str,
    threads: int | None,
    goal: Goal | None,
    *,
    trust_pickle: bool,
    model: str | None,
) -> str:
    """The command that repeats the comparison; for speed alone that is ``bench``."""
    words = ["toolkit", "compare" if data else "bench", *map(spelled, plan.contestants)]
    words += ["--data", data] if data else []
    if isinstance(plan.batch_sizes, str):
        words += ["--batch", plan.batch_sizes]
    elif plan.batch_sizes != BATCH_SIZES:
        words += ["--batch", ",".join(map(str, plan.batch_sizes))]
    words += ["--images", str(plan.images)] if plan.images else []
    reference = [spelled(c) for c in plan.contestants if c.name == plan.reference]
    words += ["--reference", *reference] if reference else []
    usual = Pace.of(len(plan.contestants))
    words += ["--seconds", f"{plan.pace.seconds:g}"] if plan.pace.seconds != usual.seconds else []
    words += ["--rounds", str(plan.pace.rounds)] if plan.pace.rounds != usual.rounds else []
    words += ["--launches", str(plan.pace.launches)] if plan.pace.launches != Pace.launches else []
    words += ["--seed", str(plan.pace.seed)] if plan.pace.seed else []
    words += ["--device", device] if device != "auto" else []
    words += ["--threads", str(threads)] if threads else []
    words += ["--trust-pickle"] if trust_pickle else []
    words += ["--model", model] if model else []
    if goal is not None:
        words += ["--goal", goal.aim]
        words += ["--max-drop", f"{goal.max_drop:g}"] if goal.max_drop != Goal.max_drop else []
    return shlex.join(words)
