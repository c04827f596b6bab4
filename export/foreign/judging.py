"""Does the master graph compute what the file computed? Judged in ONNX Runtime, against a noise that is measured.

1. The reference is the file itself: each sample alone where its batch varies, else in batches of its own size.
2. The noise floor of an output is the largest of: how far the file is from itself without ONNX Runtime's
   optimisations, which only regroup roundings; how far it is from itself where each float input is moved by half a
   unit in the last place of its type; one unit in the last place of the largest value. For a file in half
   precision: how far it is from the same graph with its constants widened to FP32 and nothing else done.
3. The master's outputs must stay within :data:`export.verification.MULTIPLE` floors of the reference at each batch
   size. For a classifier a top-1 that differs is a failure where the margin exceeds twice the noise.
4. A master that agrees at the file's own batch and not at another one has its batch baked in, or its samples depend
   on each other: an error that says so.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.errors import GraphError
from engines.progress import QUIET, Progress
from export.foreign.batch import baked
from export.foreign.running import Arrays, Runner
from export.foreign.tensors import Takes
from export.metrics import margin, snr_db
from export.onnxlib import onnx
from export.verification import MULTIPLE, Measurement, Verification

REFERENCE = "the file in ONNX Runtime"

RANDOM = "random"
"""The kind of inputs that a file may answer with NaN, so long as there are others to judge it on."""

_UNITS = {"fp32": 2.0**-23, "fp16": 2.0**-10, "bf16": 2.0**-7}

Outputs = Mapping[str, NDArray[np.float64]]


@dataclass(frozen=True)
class Trial:
    """What is judged.

    Attributes:
        name: how errors call the file.
        path: the file.
        takes: its inputs.
        precision: the shortest float type in it.
        plain: of a file in half precision the same graph in FP32, with nothing else done.
        scored: the output that holds a classifier's scores, if it is one.
    """

    name: str
    path: Path
    takes: Takes
    precision: str
    plain: onnx.ModelProto | None
    scored: str | None


def judge(
    trial: Trial,
    master: onnx.ModelProto,
    kinds: Mapping[str, Arrays],
    batch_sizes: Sequence[int],
    *,
    seed: int = 0,
    progress: Progress = QUIET,
) -> Verification:
    """Compare a master graph with the file it was made from by the rules above.

    Args:
        trial: the file.
        master: the graph.
        kinds: by kind ("random", "real") what the master takes, as many samples as the largest batch.
        batch_sizes: which to try.
        seed: of the random inputs, for the record.
        progress: told of each run.

    Returns:
        The measurements and the verdict.

    Raises:
        GraphError: rule 4, or one of the two can't be run.
        UnsupportedError: ONNX Runtime can't load one of the two.
    """
    import onnxruntime

    names = [value.name for value in master.graph.output]
    measurements, problems = list[Measurement](), list[str]()
    progress.begin("Comparing with the file", len(kinds) * (len(batch_sizes) + 1), "batches")
    try:
        references = _references(trial, names, kinds)
        with Runner(master, outputs=names) as runner:
            for kind, feeds in kinds.items():
                expected, noise = references[kind]
                progress.advance()
                if not all(np.isfinite(value).all() for value in expected.values()):
                    if kind == RANDOM and len(kinds) > 1:
                        continue
                    raise GraphError(
                        f"{trial.name} itself gives NaN or infinity for {kind} inputs",
                        "check the file, or give inputs as they will come with --data",
                    )
                for batch in batch_sizes:
                    answers = _run(trial, runner, feeds, batch)
                    problem, measured = _judge(trial, kind, batch, expected, answers, noise)
                    progress.advance()
                    problems += problem
                    measurements += measured
                    own = trial.takes.batch or 1
                    if problem and batch != own and not any(f"a batch of {own}," in text for text in problems):
                        raise _dependent(trial, problem[0])
    finally:
        progress.end()
    versions = {"onnx": str(onnx.__version__), "onnxruntime": str(onnxruntime.__version__)}
    return Verification(not problems, MULTIPLE, tuple(measurements), tuple(problems), versions, seed, REFERENCE)


def _dependent(trial: Trial, problem: str) -> GraphError:
    """Rule 4; of a file whose batch varies the network itself is at fault, not how it was exported."""
    where = f"samples depend on each other or on their place; {problem}"
    if trial.takes.batch is not None:
        return baked(trial.name, trial.takes.batch, where)
    return GraphError(
        f"in {trial.name} {where}",
        "a network that mixes the samples of a batch can't be served: mend it, and export it",
    )


def _run(trial: Trial, runner: Runner, feeds: Arrays, batch: int) -> Arrays:
    try:
        return runner.run({name: np.ascontiguousarray(value[:batch]) for name, value in feeds.items()})
    except GraphError as error:
        raise baked(trial.name, trial.takes.batch or 1, f"with a batch of {batch}, {error.cause}") from error


def _references(
    trial: Trial, names: Sequence[str], kinds: Mapping[str, Arrays]
) -> dict[str, tuple[Outputs, dict[str, float]]]:
    """By kind what the file computes, and the noise floor of each output: rules 1 and 2."""
    given = {kind: trial.takes.original(feeds) for kind, feeds in kinds.items()}
    batch = trial.takes.batch
    others: dict[str, list[Outputs]] = {kind: [] for kind in kinds}
    with Runner(trial.path, outputs=names) as runner:
        expected = {kind: _in_batches(runner, feeds, batch) for kind, feeds in given.items()}
        for kind, feeds in given.items():
            others[kind].append(_in_batches(runner, _moved(feeds, trial.precision), batch))
    with Runner(trial.path, outputs=names, optimised=False) as runner:
        for kind, feeds in given.items():
            others[kind].append(_in_batches(runner, feeds, batch))
    if trial.plain is not None:
        with Runner(trial.plain, outputs=names) as runner:
            for kind, feeds in given.items():
                wide = {
                    name: value.astype(np.float32) if _is_float(value) else value for name, value in feeds.items()
                }
                others[kind].append(_in_batches(runner, wide, batch))
    return {kind: (expected[kind], _floors(expected[kind], others[kind], trial.precision)) for kind in kinds}


def _floors(expected: Outputs, others: Sequence[Outputs], precision: str) -> dict[str, float]:
    floors = {}
    for name, value in expected.items():
        largest = float(np.abs(value[np.isfinite(value)]).max(initial=0.0))
        floor = max(largest * _UNITS[precision], float(np.finfo(np.float32).tiny))
        floors[name] = max(floor, *(_distance(value, other[name]) for other in others))
    return floors


def _in_batches(runner: Runner, feeds: Arrays, batch: int | None) -> Outputs:
    """The answers to all samples, in batches of one size; the last one is filled up with its last sample."""
    count, size = len(next(iter(feeds.values()))), batch or 1
    rows: dict[str, list[NDArray[Any]]] = {}
    for start in range(0, count, size):
        places = np.minimum(np.arange(start, start + size), count - 1)
        for name, value in runner.run(
            {key: np.ascontiguousarray(item[places]) for key, item in feeds.items()}
        ).items():
            if not value.ndim or len(value) != size:
                raise GraphError(
                    f"output '{name}' is {list(value.shape)} for a batch of {size}: its first dimension is no batch",
                    "export the network with the batch first in every output, or leave it out with --outputs",
                )
            rows.setdefault(name, []).append(value[: count - start].astype(np.float64))
    return {name: np.concatenate(parts) for name, parts in rows.items()}


def _moved(feeds: Arrays, precision: str) -> Arrays:
    """Each float moved by half a unit in the last place, up or down."""
    rng = np.random.default_rng(1)
    moved = {}
    for name, value in feeds.items():
        if not _is_float(value):
            moved[name] = value
            continue
        signs = rng.choice(np.array([-0.5, 0.5]), value.shape)
        wide = value.astype(np.float64) * (1 + signs * _UNITS[precision])
        moved[name] = wide.astype(value.dtype)
    return moved


def _is_float(value: NDArray[Any]) -> bool:
    return value.dtype.kind == "f" or value.dtype.name == "bfloat16"


def _distance(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    with np.errstate(invalid="ignore"):
        found = float(np.abs(one - other).max(initial=0.0))
    return found if np.isfinite(found) else 0.0


def _judge(
    trial: Trial, kind: str, batch: int, expected: Outputs, answers: Arrays, noise: Mapping[str, float]
) -> tuple[list[str], list[Measurement]]:
    """Rule 3: problems, and a measurement an output."""
    problems, measured = list[str](), list[Measurement]()
    for name, reference in expected.items():
        wanted = reference[:batch]
        where = f"{kind} inputs, a batch of {batch}, '{name}'"
        if answers[name].size != wanted.size or len(answers[name]) != batch:
            problems.append(f"{where}: {list(answers[name].shape)}, in the file {list(wanted.shape)}")
            continue
        values = answers[name].astype(np.float64).reshape(wanted.shape)
        if not np.isfinite(values).all():
            problems.append(f"{where}: NaN or infinity")
            continue
        distance, floor = float(np.abs(values - wanted).max(initial=0.0)), noise[name]
        snr = snr_db(wanted, values) if wanted.size else float("inf")
        flips = failures = 0
        if distance > MULTIPLE * floor:
            problems.append(
                f"{where}: {distance:.2e} from the file, {distance / floor:.3g} noise floors of {floor:.2e}; "
                f"{MULTIPLE:g} are allowed"
            )
        if name == trial.scored:
            flat, rows = values.reshape(batch, -1), wanted.reshape(batch, -1)
            flipped = flat.argmax(1) != rows.argmax(1)
            flips = int(np.count_nonzero(flipped))
            failures = int(np.count_nonzero(flipped & (margin(rows) > 2 * floor)))
            if failures:
                problems.append(f"{where}: the top-1 of {failures} differs, by more than the noise")
        output = name if len(expected) > 1 or trial.scored is None else ""
        snr_found = snr if np.isfinite(snr) else None
        measured.append(Measurement(kind, batch, distance, floor, snr_found, flips, failures, output))
    return problems, measured
