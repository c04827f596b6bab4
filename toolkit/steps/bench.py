"""Measure the speed of one artifact, or of several in turns."""

from collections.abc import Sequence
from os import PathLike

from engines.errors import InputError
from engines.progress import QUIET, Progress
from toolkit.benchmarking.messages import Contestant
from toolkit.comparison.record import Comparison
from toolkit.steps.compare import BATCH_SIZES, compare


def bench(
    artifacts: "str | PathLike[str] | Contestant | Sequence[str | PathLike[str] | Contestant]",
    *,
    batch_sizes: Sequence[int] | None = None,
    seconds: float = 1.0,
    rounds: int = 10,
    backend: str = "auto",
    device: str = "auto",
    threads: int | None = None,
    trust_pickle: bool = False,
    update_passports: bool = True,
    progress: Progress = QUIET,
) -> Comparison:
    """Time artifacts without data: :func:`toolkit.steps.compare.compare` with its accuracy left out.

    Args:
        artifacts: one path or several, each with a backend of its own behind an @ where wanted.
        batch_sizes: images a run; None takes those of 1, 8 and 32 that the artifact takes.
        seconds: timed running at each batch size.
        rounds: turns that the time is cut into.
        backend: what runs them ("openvino" for a graph), or "auto": by the file.
        device: "auto", "cpu" or "cuda:N".
        threads: CPU threads; None leaves it to the backend.
        trust_pickle: load pickled modules, which runs their code.
        update_passports: write what was measured into the passport beside each engine.
        progress: told of the work.

    Returns:
        The record; ``rows[0]`` is the artifact.

    Raises:
        InputError: a file doesn't exist, or no artifact takes a batch size that was asked for.
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
        backend=backend,
        device=device,
        threads=threads,
        trust_pickle=trust_pickle,
        update_passports=update_passports,
        progress=progress,
    )
    refused = {batch: reason for row in comparison.rows for batch, reason in row.skipped.items()}
    measured = {batch for row in comparison.rows for batch in row.speeds}
    for batch in batch_sizes or ():
        if batch in refused and batch not in measured:
            raise InputError(f"batch {batch} can't be measured: {refused[batch]}", "give other sizes with --batch")
    return comparison
