"""The ranges that measure best: what every method proposes is tried on images that no histogram has seen."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration.collect import Statistics
from calibration.feeds import Batch
from calibration.methods import methods_for
from calibration.refine import Ranges, choose_ranges
from calibration.simulation import Simulation
from calibration.table import CalibrationTable
from calibration.trials import SURELY_GOOD_DB, Amax, Batches, Bench, Trial, is_good
from engines.errors import InputError
from engines.progress import QUIET, Progress
from export.digests import constant_digests
from export.graph import weights_digest
from export.light import NO_ARRAYS, Arrays, load_light
from export.onnxlib import onnx

__all__ = ["METHOD", "Choice", "Trial", "choose", "is_good", "measure"]

METHOD = "auto"
"""The method of a table that was chosen here."""


@dataclass(frozen=True)
class Choice:
    """What was chosen.

    Attributes:
        table: its ranges say which method each is from, its facts ("auto") how the methods measured, and what was
            better.
        trials: of the methods, and of what was better than all before it, in the order in which they were tried.
        chosen: that of the table.
        evaluated: how many candidates were measured.
        images: how many images the chosen one was measured on.
    """

    table: CalibrationTable
    trials: tuple[Trial, ...]
    chosen: Trial
    evaluated: int
    images: int


def measure(
    model: onnx.ModelProto | Path | str,
    table: CalibrationTable,
    held_out: Batches,
    *,
    name: str = "",
    reference: NDArray[np.float32] | None = None,
    weights: str | None = None,
    arrays: Arrays = NO_ARRAYS,
    threads: int | None = None,
) -> Trial:
    """How one table does.

    Args:
        model: the FP32 master graph, or its path.
        table: its ranges and what else decides how it is quantised.
        held_out: batches of images that the ranges were not chosen on.
        name: of the trial; the table's method unless given.
        reference: what FP32 makes of the images, float32 [N, classes]; computed unless given.
        weights: the digest of the model's weights, where it is known.
        arrays: the values of the model's stubs (:mod:`export.light`).
        threads: of ONNX Runtime; all cores unless given.
    """
    with Simulation(model, table, threads=threads, weights=weights, arrays=arrays) as simulation:
        return Bench(simulation, held_out, reference=reference).measure(name or table.method)


def choose(
    model: onnx.ModelProto | Path | str,
    statistics: Statistics,
    held_out: Batches,
    *,
    methods: Sequence[str] | None = None,
    precision: str = "int8",
    equalisation: Mapping[str, tuple[float, ...]] | None = None,
    weight_clip: str = "max",
    refine: Callable[[], bool] = lambda: True,
    data: str | None = None,
    facts: Mapping[str, Any] | None = None,
    reference: NDArray[np.float32] | None = None,
    weights: str | None = None,
    arrays: Arrays = NO_ARRAYS,
    progress: Progress = QUIET,
    threads: int | None = None,
) -> Choice:
    """Choose every tensor's range by what it does to the logits.

    Args:
        model: the FP32 master graph, or its path.
        statistics: what was collected: of ``model``, or of it with ``equalisation``.
        held_out: batches of images that the statistics have not seen, 64 or so; all of them are held in memory. Where
            the first half of the batches shows that a method is surely good, the second isn't used.
        methods: candidates; all that the precision has unless given.
        precision: "int8" or "fp8".
        equalisation: factors for the table (:mod:`calibration.equalise`).
        weight_clip: how the ranges of weights are chosen.
        refine: asked, where no method is good, whether to go on to single tensors (:mod:`calibration.refine`).
        data: the digest of the pixels that the statistics saw.
        facts: what else the table should tell.
        reference: what FP32 makes of the held-out images, float32 [N, classes]; computed unless given.
        weights: the digest of the model's weights, where it is known.
        arrays: the values of the model's stubs (:mod:`export.light`).
        progress: told of every candidate.
        threads: of ONNX Runtime; all cores unless given.

    Raises:
        InputError: no methods, or an unknown one.
        DataError: no held-out images.
        TableError: the statistics are of another graph.
    """
    names = tuple(methods_for(precision) if methods is None else methods)
    if not names:
        raise InputError("no methods to choose from", "give at least one")
    if isinstance(model, Path | str):
        loaded = load_light(model)
        model, arrays = loaded.model, loaded.arrays
    tables = {name: statistics.table(name, data=data, facts=facts, precision=precision) for name in names}
    first = tables[names[0]]
    weights = weights or weights_digest(model, constant_digests(model, arrays))
    if equalisation:
        first = replace(first, equalisation=equalisation, weights=weights)
    first = replace(first, weight_clip=weight_clip)
    progress.begin("measuring candidates", None, "candidates")
    try:
        with Simulation(model, first, threads=threads, weights=weights, arrays=arrays) as simulation:
            del model
            proposals = {name: {key: found.amax for key, found in tables[name].ranges.items()} for name in names}
            best, evaluated, images = _choose(simulation, list(held_out), reference, proposals, progress, refine)
    finally:
        progress.end()
    ranges = {
        name: replace(found, amax=best.amax[name], method=best.origins[name]) for name, found in first.ranges.items()
    }
    told = {**first.facts, METHOD: [trial.to_json() for trial in best.trials]}
    table = replace(first, ranges=ranges, method=METHOD, facts=told)
    return Choice(table, tuple(best.trials), best.trial, evaluated, images)


def _choose(
    simulation: Simulation,
    held_out: list[Batch],
    reference: NDArray[np.float32] | None,
    proposals: dict[str, Amax],
    progress: Progress,
    refine: Callable[[], bool],
) -> tuple[Ranges, int, int]:
    """The ranges, how many candidates were measured, and on how many images.

    Where half of the images leaves no doubt that the best of the methods is good, the others would only cost time.
    """
    measured, half = 0, held_out[: len(held_out) // 2]
    if half:
        images = sum(map(len, half))
        bench = Bench(simulation, half, progress, None if reference is None else reference[:images])
        best = choose_ranges(bench, proposals, lambda: False)
        if best.trial.sqnr_db >= SURELY_GOOD_DB:
            return best, bench.measured, images
        measured = bench.measured
    bench = Bench(simulation, held_out, progress, reference)
    best = choose_ranges(bench, proposals, refine)
    return best, measured + bench.measured, sum(map(len, held_out))
