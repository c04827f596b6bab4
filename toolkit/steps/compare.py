"""Compare artifacts: accuracy and speed of each, through the session that would serve it."""

import shlex
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from os import PathLike, fspath
from typing import TYPE_CHECKING

from engines.progress import QUIET, Progress
from toolkit import machine
from toolkit.benchmarking.messages import Contestant
from toolkit.benchmarking.rounds import Pace
from toolkit.comparison.passports import record_measurements
from toolkit.comparison.plan import Plan, artifact_of, name_contestants, spelled
from toolkit.comparison.record import Comparison
from toolkit.comparison.run import run
from toolkit.comparison.warn import warnings_of

if TYPE_CHECKING:
    from toolkit.data import Dataset

BATCH_SIZES = (1, 8, 32)


def compare(
    artifacts: Sequence["str | PathLike[str] | Contestant"],
    data: "str | PathLike[str] | Dataset | None",
    *,
    reference: "str | PathLike[str] | None" = None,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    images: int | None = None,
    seconds: float = 1.0,
    rounds: int = 10,
    seed: int = 0,
    backend: str = "auto",
    device: str = "auto",
    threads: int | None = None,
    trust_pickle: bool = False,
    update_passports: bool = True,
    progress: Progress = QUIET,
) -> Comparison:
    """Measure checkpoints, graphs and engines against each other.

    Each is loaded in a process of its own and answers the data's test split there; then all take turns,
    a short block each with everyone else idle, at every batch size. Latency is of one ``run`` of the
    session, from arrays in host memory to arrays in host memory; decoding and resizing are not in it.

    Args:
        artifacts: paths, with the backend behind an @ where it isn't the one that the file is made for
            ("model.onnx@openvino"), or :class:`Contestant` for one with a device of its own.
        data: a data set, or what ``open_dataset`` takes; None measures speed only.
        reference: which artifact agreement and speed ratios refer to, written as among the artifacts; one not
            listed is added first. None takes the first checkpoint that runs, else the first graph, else the first
            artifact.
        batch_sizes: images a run, for the timing; an artifact that doesn't take one has the reason in its row.
        images: how many test images, in the classes' proportions; None takes all.
        seconds: timed running of each artifact at each batch size.
        rounds: turns of each artifact at each batch size; 6 or more give intervals of the speed ratios.
        seed: of the choice of images and the order of turns.
        backend: for the artifacts given as paths that name none; "auto" takes what each file is made for.
        device: "auto", "cpu" or "cuda:N", for the artifacts given as paths.
        threads: CPU threads of each; None leaves it to the backend.
        trust_pickle: load pickled modules, which runs their code.
        update_passports: write what was measured into the passport beside each engine.
        progress: told of the work.

    Returns:
        A row for every artifact; one that this machine can't run has the reason in it.

    Raises:
        InputError: a file doesn't exist, or an option makes no sense.
        DataError: the data can't be used, or its classes are no artifact's.
        ToolkitError: nothing could be run, or the reference asked for can't be.
    """
    options = {"trust_pickle": True} if trust_pickle else {}

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
    chosen = next((c.name for c in named if wanted in {c.name, spelled(c)}), None)
    plan = Plan(
        named,
        tuple(batch_sizes),
        images=images,
        reference=chosen,
        pace=Pace(seconds, rounds, min(Pace.warm_seconds, seconds), seed),
    )
    plan.check()
    source = ""
    if data is not None:
        from toolkit.data import Dataset, open_dataset

        source = data.name if isinstance(data, Dataset) else fspath(data)
        # The seed is not passed on: another split than training's would evaluate on training images.
        opened = open_dataset(data, progress=progress)
        plan = replace(plan, dataset=opened)
    busy = machine.busy_cores()
    outcome = run(plan, progress)
    comparison = Comparison(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command=_command(plan, source, device, threads, trust_pickle=trust_pickle),
        machine=machine.describe(),
        settings=plan.settings(),
        data=outcome.data,
        reference=outcome.reference,
        rows=outcome.rows,
        warnings=warnings_of(outcome.rows, busy),
    )
    if update_passports:
        problems = record_measurements(comparison)
        comparison = replace(comparison, warnings=(*comparison.warnings, *problems))
    return comparison


def _command(plan: Plan, data: str, device: str, threads: int | None, *, trust_pickle: bool) -> str:
    """The command that repeats the comparison; for speed alone that is ``bench``."""
    words = ["toolkit", "compare" if data else "bench", *map(spelled, plan.contestants)]
    words += ["--data", data] if data else []
    words += ["--batch", ",".join(map(str, plan.batch_sizes))] if plan.batch_sizes != BATCH_SIZES else []
    words += ["--images", str(plan.images)] if plan.images else []
    reference = [spelled(c) for c in plan.contestants if c.name == plan.reference]
    words += ["--reference", *reference] if reference else []
    words += ["--seconds", f"{plan.pace.seconds:g}"] if plan.pace.seconds != Pace.seconds else []
    words += ["--rounds", str(plan.pace.rounds)] if plan.pace.rounds != Pace.rounds else []
    words += ["--seed", str(plan.pace.seed)] if plan.pace.seed else []
    words += ["--device", device] if device != "auto" else []
    words += ["--threads", str(threads)] if threads else []
    words += ["--trust-pickle"] if trust_pickle else []
    return shlex.join(words)
