"""Measure the speed of one artifact, or of several in turns."""

from collections.abc import Callable, Sequence
from os import PathLike

from engines.errors import InputError
from engines.progress import QUIET, Progress
from toolkit.benchmarking.messages import Contestant
from toolkit.benchmarking.rounds import Pace
from toolkit.comparison.records.record import Comparison
from toolkit.steps.compare import BATCH_SIZES, Batches, compare


def bench(
    artifacts: "str | PathLike[str] | Contestant | Sequence[str | PathLike[str] | Contestant]",
    *,
    batch_sizes: Batches | None = None,
    seconds: float | None = None,
    rounds: int | None = None,
    launches: int = Pace.launches,
    backend: str = "auto",
    device: str = "auto",
    threads: int | None = None,
    trust_pickle: bool = False,
    model: str | None = None,
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
    """Time artifacts without data: :func:`toolkit.steps.compare.compare` with its accuracy left out.

    Args:
        artifacts: one path or several, each with a backend of its own behind an @ where wanted.
        batch_sizes: images a run; None takes those of 1, 8 and 32 that the artifact takes, "sweep" doubles them from
            1 on until throughput stops growing.
        seconds: timed running at each batch size, over all launches; None as for ``compare``.
        rounds: turns that the time is cut into; None as for ``compare``.
        launches: how often every process is started anew.
        backend: what runs them ("openvino" for a graph, "torch-compile" for a checkpoint), or "auto": by the file.
        device: "auto", "cpu" or "cuda:N".
        threads: CPU threads; None leaves it to the backend.
        trust_pickle: load pickled modules, which runs their code.
        model: the code of networks whose checkpoints hold weights alone, as for ``toolkit.export``; it is run.
        record, report, markdown, csv, fresh, force: as for ``compare``.
        update_passports: write what was measured into the passport beside each engine.
        say: told a line when an interrupted run is taken up.
        progress: told of the work.

    Returns:
        The record; ``rows[0]`` is the artifact.

    Raises:
        InputError: a file doesn't exist, no artifact takes a batch size that was asked for, or an output can't be
            written, or is of something else.
        ToolkitError: the first artifact's reason, when none can be run.
    """
    single = isinstance(artifacts, str | PathLike | Contestant)
    listed = [artifacts] if single else list(artifacts)  # type: ignore[arg-type]
    comparison = compare(
        listed,  # type: ignore[arg-type]
        None,
        batch_sizes=BATCH_SIZES if batch_sizes is None else batch_sizes,
        seconds=seconds,
        rounds=rounds,
        launches=launches,
        backend=backend,
        device=device,
        threads=threads,
        trust_pickle=trust_pickle,
        model=model,
        record=record,
        report=report,
        markdown=markdown,
        csv=csv,
        fresh=fresh,
        force=force,
        update_passports=update_passports,
        say=say,
        progress=progress,
    )
    refused = {batch: reason for row in comparison.rows for batch, reason in row.skipped.items()}
    measured = {batch for row in comparison.rows for batch in row.speeds}
    for batch in () if batch_sizes is None or isinstance(batch_sizes, str) else batch_sizes:
        if batch in refused and batch not in measured:
            raise InputError(f"batch {batch} can't be measured: {refused[batch]}", "give other sizes with --batch")
    return comparison
