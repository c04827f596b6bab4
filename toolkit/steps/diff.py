"""Diff: may the new artifact take the old one's place?"""

import contextlib
import shlex
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from engines.errors import InputError
from engines.files import digest_file
from engines.progress import QUIET, Progress
from toolkit.benchmarking.messages import Contestant
from toolkit.benchmarking.rounds import Pace
from toolkit.comparison.accuracy.shares import Share
from toolkit.comparison.measuring.plan import artifact_of, name_contestants, spelled
from toolkit.comparison.measuring.samples import known_metadata
from toolkit.comparison.records.record import DataFacts
from toolkit.data import Dataset, open_dataset
from toolkit.gate.about import About
from toolkit.gate.asking import require_judged
from toolkit.gate.baseline import Baseline, digest_of_artifact, is_baseline, require_artifact
from toolkit.gate.changes import changes_between
from toolkit.gate.judge import judge
from toolkit.gate.limits import DISTURBED, TIMED, Limits, chosen_gates
from toolkit.gate.measure import measure, record_baseline
from toolkit.gate.result import Diff, Side
from toolkit.outputs import check_replace

BATCH_SIZES = (1, 32)
"""Latency is judged at the smallest, throughput at the largest that both take."""

MOST_UNSEEN = 0.05
"""Share of changed answers that the images may leave possible, by Wilson's interval, without a warning."""


def diff(
    old: "str | PathLike[str] | Contestant",
    new: "str | PathLike[str] | Contestant",
    data: "str | PathLike[str] | Dataset",
    *,
    max_flips: float = Limits.max_flips,
    max_confident_flips: int = Limits.max_confident_flips,
    max_drop: float = Limits.max_drop,
    max_distance: float = Limits.max_distance,
    max_shift: float = Limits.max_shift,
    max_non_finite: int = Limits.max_non_finite,
    max_widened: int = Limits.max_widened,
    max_slowdown: float = Limits.max_slowdown,
    max_throughput_loss: float = Limits.max_throughput_loss,
    max_growth: float = Limits.max_growth,
    max_memory_growth: float = Limits.max_memory_growth,
    only: Sequence[str] = (),
    skip: Sequence[str] = (),
    strict: bool = False,
    images: int | None = None,
    seed: int | None = None,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    seconds: float = Pace.seconds,
    rounds: int = Pace.rounds,
    launches: int = Pace.launches,
    device: str = "auto",
    threads: int | None = None,
    trust_pickle: bool = False,
    model: str | None = None,
    progress: Progress = QUIET,
) -> Diff:
    """Hold a new artifact against the old one: an upgrade of TensorRT, driver, GPU or weights.

    Both answer the data's test split in processes of their own and then take turns; every gate is held against its
    limit. See :class:`toolkit.gate.limits.Limits` for what each limit means and its unit.

    Args:
        old: a checkpoint, graph or engine, with its backend behind an @ where it isn't the file's own
            ("model.onnx@openvino"); or the baseline (.npz) that :func:`keep_baseline` wrote of one.
        new: a checkpoint, graph or engine.
        data: a data set, or what ``open_dataset`` takes.
        only: the gates to judge; none means all. A new one that fails is stopped by "run", chosen or not.
        skip: gates to leave out.
        strict: gates that the measurement is too uncertain for count as failed.
        images: how many test images, in the classes' proportions; None takes all, or the baseline's.
        seed: of the choice of images, the disturbance and the order of turns; None takes 0, or the baseline's.
        batch_sizes: images a run, for the timing.
        seconds, rounds, launches: of the timing of each at each batch size.
        device: "auto", "cpu" or "cuda:N".
        threads: CPU threads of each; None leaves it to the backend.
        trust_pickle: load pickled modules, which runs their code.
        model: the code of networks whose checkpoints hold weights alone, as for ``toolkit.export``; it is run.
        progress: told of the work.

    Returns:
        The verdicts; ``passed`` is the answer.

    Raises:
        InputError: a file or option can't be used; the data isn't the baseline's.
        UnsupportedError: one is no classifier of pictures.
        ToolkitError: one of the two can't run here.
    """
    start = time.perf_counter()
    limits = Limits(
        max_flips=max_flips,
        max_confident_flips=max_confident_flips,
        max_drop=max_drop,
        max_distance=max_distance,
        max_shift=max_shift,
        max_non_finite=max_non_finite,
        max_widened=max_widened,
        max_slowdown=max_slowdown,
        max_throughput_loss=max_throughput_loss,
        max_growth=max_growth,
        max_memory_growth=max_memory_growth,
    )
    gates = chosen_gates(only, skip)
    check_pace(seconds, rounds, launches, batch_sizes)
    sizes = tuple(batch_sizes) if TIMED & set(gates) else ()
    options = _loading(trust_pickle=trust_pickle, model=model)
    newcomer = _contestant(new, "the new one,", device, threads, options)
    with contextlib.ExitStack() as stack:
        kept = None
        if not isinstance(old, Contestant) and is_baseline(fspath(old)):
            kept = stack.enter_context(Baseline(Path(old)))
            images, seed = _as_kept(kept, images, seed)
        else:
            former = _contestant(old, "the old one,", device, threads, options)
            former, newcomer = name_contestants((former, newcomer))
        (newcomer,) = name_contestants((newcomer,))
        dataset = _pictures(data, [newcomer] if kept else [former, newcomer], progress)
        if kept is not None:
            kept.check(dataset)
        evidence = measure(
            kept or former,
            newcomer,
            dataset,
            images=images,
            seed=seed or 0,
            batch_sizes=sizes,
            pace=Pace.of(2, seconds, rounds, launches, seed or 0),
            with_floor=bool(DISTURBED & set(gates)),
            progress=progress,
        )
    created = datetime.now(UTC).isoformat(timespec="seconds")
    before = Side(
        evidence.old,
        evidence.answered.old,
        evidence.machines[0],
        evidence.baseline or created,
        str(kept.path) if kept else None,
    )
    after = Side(evidence.new, evidence.answered.new, evidence.machines[1], created)
    words = [
        "toolkit",
        "diff",
        str(kept.path) if kept else spelled(former),
        spelled(newcomer),
        "--data",
        _source(data),
    ]
    words += [word for name in only for word in ("--only", name)] + [
        word for name in skip for word in ("--skip", name)
    ]
    words += [*_limits(limits), *(["--strict"] if strict else [])]
    words += [] if kept else _choice(images, seed)
    words += _timing(batch_sizes, seconds, rounds, launches) if sizes else []
    words += _place(device, threads, trust_pickle=trust_pickle, model=model)
    return Diff(
        created=created,
        command=shlex.join(words),
        old=before,
        new=after,
        data=evidence.answered.data,
        limits=limits,
        gates=judge(evidence, limits, gates),
        changes=changes_between(before, after, evidence.old_model, evidence.new_model),
        flips=evidence.answered.new.disagreements if evidence.answered.new else (),
        warnings=(*_few(evidence.answered.data), *evidence.warnings),
        strict=strict,
        seconds=time.perf_counter() - start,
    )


def _few(data: DataFacts | None) -> list[str]:
    """A warning where so few images were asked that much could change unseen."""
    unseen = Share(0, data.images).interval[1] if data else 0.0
    if data is None or unseen <= MOST_UNSEEN:
        return []
    told = f"up to {100 * unseen:.0f} % of others like them may change though none of these does"
    return [f"{data.images} images are few: {told}"]


def keep_baseline(
    artifact: "str | PathLike[str] | Contestant",
    data: "str | PathLike[str] | Dataset",
    output: "str | PathLike[str]",
    *,
    images: int | None = None,
    seed: int = 0,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    seconds: float = Pace.seconds,
    rounds: int = Pace.rounds,
    launches: int = Pace.launches,
    device: str = "auto",
    threads: int | None = None,
    trust_pickle: bool = False,
    model: str | None = None,
    force: bool = False,
    progress: Progress = QUIET,
) -> About:
    """Keep what an artifact answers, before an upgrade after which it can't run any more.

    The options are those of :func:`diff`; an existing file is replaced where it is of the same artifact, or with
    ``force``.

    Returns:
        What was written beside the logits.

    Raises:
        InputError: a file or option can't be used.
        ToolkitError: the artifact can't run here.
    """
    check_pace(seconds, rounds, launches, batch_sizes)
    options = _loading(trust_pickle=trust_pickle, model=model)
    (contestant,) = name_contestants((_contestant(artifact, "the artifact", device, threads, options),))
    path = Path(output)
    if not is_baseline(path):
        raise InputError(f"the baseline '{path}' has another suffix than .npz", f"call it '{path}.npz'")
    check_replace(path, digest_file(Path(contestant.path)), digest_of_artifact, force=force, option="--baseline")
    dataset = _pictures(data, [contestant], progress)
    words = ["toolkit", "diff", spelled(contestant), "--data", _source(data), "--baseline", str(path)]
    words += [*_choice(images, seed), *_timing(batch_sizes, seconds, rounds, launches)]
    words += _place(device, threads, trust_pickle=trust_pickle, model=model)
    return record_baseline(
        contestant,
        dataset,
        path,
        images=images,
        seed=seed,
        batch_sizes=tuple(batch_sizes),
        pace=Pace.of(1, seconds, rounds, launches, seed),
        command=shlex.join(words),
        progress=progress,
    )


def check_pace(seconds: float, rounds: int, launches: int, batch_sizes: Sequence[int]) -> None:
    """Refuse a timing that makes no sense.

    Raises:
        InputError: a number is out of its range.
    """
    if rounds < 1 or launches < 1 or not 0 < seconds < float("inf"):
        raise InputError("there is no time to measure in", "give --seconds above 0, --rounds and --launches from 1")
    if not batch_sizes or min(batch_sizes) < 1:
        raise InputError("there is no batch size to time", "batch sizes start at 1")


def _pictures(
    data: "str | PathLike[str] | Dataset", contestants: Sequence[Contestant], progress: Progress
) -> Dataset:
    """The data; before an .npz, which may hold tensors, the networks are asked whether they take those."""
    if not isinstance(data, Dataset) and Path(data).suffix == ".npz":
        for contestant in contestants:
            if (metadata := known_metadata(contestant)) is not None:
                require_judged(contestant.name, metadata)
    return open_dataset(data, progress=progress)


def _contestant(
    artifact: "str | PathLike[str] | Contestant", role: str, device: str, threads: int | None, options: dict[str, Any]
) -> Contestant:
    if isinstance(artifact, Contestant):
        return artifact
    require_artifact(fspath(artifact), role)
    path, backend = artifact_of(fspath(artifact))
    return Contestant(path, backend=backend, device=device, threads=threads, options=options)


def _as_kept(kept: Baseline, images: int | None, seed: int | None) -> tuple[int, int]:
    """The choice of images that a baseline was written with.

    Raises:
        InputError: another one is asked for.
    """
    data = kept.about.data
    for option, asked, was in (("--images", images, data.images), ("--seed", seed, data.seed)):
        if asked is not None and asked != was:
            raise InputError(
                f"'{kept.path}' was written with {option} {was}, not {asked}", f"leave {option} out, or give {was}"
            )
    return data.images, data.seed


def _source(data: "str | PathLike[str] | Dataset") -> str:
    return data.name if isinstance(data, Dataset) else fspath(data)


def _limits(limits: Limits) -> list[str]:
    """The options of the limits that aren't the defaults."""
    changed = asdict(limits).items() - asdict(Limits()).items()
    return [word for name, value in sorted(changed) for word in ("--" + name.replace("_", "-"), f"{value:g}")]


def _choice(images: int | None, seed: int | None) -> list[str]:
    return [*(["--images", str(images)] if images else []), *(["--seed", str(seed)] if seed else [])]


def _timing(batch_sizes: Sequence[int], seconds: float, rounds: int, launches: int) -> list[str]:
    words = [] if tuple(batch_sizes) == BATCH_SIZES else ["--batch", ",".join(map(str, batch_sizes))]
    words += [] if seconds == Pace.seconds else ["--seconds", f"{seconds:g}"]
    words += [] if rounds == Pace.rounds else ["--rounds", str(rounds)]
    return words + ([] if launches == Pace.launches else ["--launches", str(launches)])


def _loading(*, trust_pickle: bool, model: str | None) -> dict[str, Any]:
    """What checkpoints are opened with, where it isn't the usual."""
    return {**({"trust_pickle": True} if trust_pickle else {}), **({"model": model} if model else {})}


def _place(device: str, threads: int | None, *, trust_pickle: bool, model: str | None) -> list[str]:
    words = [] if device == "auto" else ["--device", device]
    words += ["--threads", str(threads)] if threads else []
    words += ["--trust-pickle"] if trust_pickle else []
    return words + (["--model", model] if model else [])
