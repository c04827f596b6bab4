"""From a graph and images to a calibration table: the order of the steps, and what is measured before it is chosen.

1. A pilot of a few images shows whether the channels of some tensor are so uneven that one range can't serve them;
   then the graph is equalised (:mod:`calibration.equalise`), which changes none of its answers.
2. One pass over the images collects a histogram of every tensor.
3. A method chooses the ranges. "auto" measures the candidates on images that no histogram has seen. Where the best
   of them isn't good, it also tries clipped weights and corrected biases, and takes what measures better.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from calibration.auto import METHOD as AUTO
from calibration.auto import choose, is_good, measure
from calibration.bias import measure_biases
from calibration.collect import Statistics, TappedGraph, channel_maxima, collect
from calibration.equalise import equalise, find_factors
from calibration.methods import methods_for
from calibration.rename import sign
from calibration.table import CalibrationTable
from engines.errors import InputError
from engines.progress import QUIET, Progress
from export.graph import load_graph, weights_digest

if TYPE_CHECKING:
    from calibration.partial import Partial

HELD_OUT = 64
"""Images, at most, on which candidates are measured; an eighth of what there is where that is less."""

PILOT = 8
"""Images that show whether channels are uneven."""

PILOT_AGAIN = 64
"""Images that the factors are taken from where they are."""

UNEVEN = 8.0
"""Channels are looked at where the largest is this much above the median; below it a tensor keeps 22 dB at least."""

BIASED = 64
"""Images that biases are corrected on."""

GAIN_DB = 0.2
"""What is kept must gain this much in signal-to-noise ratio at the logits."""

Batches = Callable[[int, int], Iterable[NDArray[Any]]]
"""``(start, stop)`` → the batches of the images from ``start`` to ``stop``, as the graph takes them."""


@dataclass(frozen=True)
class Settings:
    """How to calibrate.

    Attributes:
        method: :data:`AUTO`, or a key of :func:`calibration.methods.methods_for`.
        precision: "int8" or "fp8".
        equalise: even out channels where they need it.
        weight_clip: "max" or "mse"; None lets "auto" measure both, and is "max" with the other methods.
        correct_biases: True corrects the biases, False doesn't; None lets "auto" measure that, and is False
            with the other methods.
        threads: of ONNX Runtime; None takes all cores.
        device: "cpu", "cuda" or "auto": where activations are computed.
    """

    method: str = AUTO
    precision: str = "int8"
    equalise: bool = True
    weight_clip: str | None = None
    correct_biases: bool | None = None
    threads: int | None = None
    device: str = "cpu"

    def check(self) -> None:
        """Refuse what makes no sense.

        Raises:
            InputError: an unknown method, or fewer than one thread.
        """
        known = (AUTO, *methods_for(self.precision))
        if self.method not in known:
            raise InputError(
                f"no calibration method '{self.method}' for {self.precision}", f"methods are {', '.join(known)}"
            )
        if self.threads is not None and self.threads < 1:
            raise InputError(f"{self.threads} threads", "give 1 or more")


def held_out(images: int, method: str) -> int:
    """How many of ``images`` are kept from the histograms to measure candidates on.

    Raises:
        InputError: there are too few to hold one back.
    """
    if method != AUTO:
        return 0
    if images < 2:
        raise InputError(
            "--method auto measures on images that it holds back, and there is only one", "give 2 or more"
        )
    return max(1, min(HELD_OUT, images // 8))


def calibrate_graph(
    path: Path,
    tapped: TappedGraph,
    batches: Batches,
    images: int,
    settings: Settings,
    *,
    partial: "Partial | None" = None,
    progress: Progress = QUIET,
) -> CalibrationTable:
    """Measure a graph on images.

    Args:
        path: the FP32 master graph.
        tapped: the same graph, loaded.
        batches: the images.
        images: how many there are.
        settings: how.
        partial: what an interrupted run has collected already, and where to keep it.
        progress: told of every step.

    Returns:
        The table, with a signature for every tensor; the caller adds what it knows of the data.

    Raises:
        InputError: a setting makes no sense.
        GraphError: the graph can't be run, or its activations become NaN or infinite.
        DataError: there are no images.
    """
    settings.check()
    counted = images - held_out(images, settings.method)
    factors = _factors(path, tapped, batches, counted) if settings.equalise else {}
    if factors:
        tapped = TappedGraph(equalise(load_graph(path), factors), threads=settings.threads, device=settings.device)
    done = partial.images if partial else 0
    statistics = collect(tapped, batches(done, counted), progress=progress, total=counted, partial=partial)
    del tapped  # its weights make room for those of the graphs that follow
    if settings.method == AUTO:
        table = _measured(path, factors, statistics, batches, (counted, images), settings, progress)
    else:
        table = _chosen(path, factors, statistics, batches(0, min(BIASED, counted)), settings)
    return sign(replace(table, images=images), load_graph(path))


def _chosen(
    path: Path,
    factors: Mapping[str, tuple[float, ...]],
    statistics: Statistics,
    batches: Iterable[NDArray[Any]],
    settings: Settings,
) -> CalibrationTable:
    """The table of one method."""
    table = statistics.table(settings.method, precision=settings.precision)
    table = replace(table, equalisation=factors, weight_clip=settings.weight_clip or "max")
    if factors:
        table = replace(table, weights=weights_digest(load_graph(path)))
    if not settings.correct_biases:
        return table
    return replace(table, biases=measure_biases(load_graph(path), table, batches, threads=settings.threads))


def _measured(
    path: Path,
    factors: Mapping[str, tuple[float, ...]],
    statistics: Statistics,
    batches: Batches,
    split: tuple[int, int],
    settings: Settings,
    progress: Progress,
) -> CalibrationTable:
    """The table that measures best on the held-out images, ``split[0]`` to ``split[1]``."""
    held = list(batches(*split))
    threads = settings.threads
    choice = choose(
        path,
        statistics,
        held,
        precision=settings.precision,
        equalisation=factors,
        weight_clip=settings.weight_clip or "max",
        progress=progress,
        threads=threads,
    )
    table, best, trials = choice.table, choice.chosen, list(choice.trials)

    def attempt(name: str, candidate: CalibrationTable, *, wanted: bool = False) -> None:
        nonlocal table, best
        trial = measure(path, candidate, held, name=name, threads=threads)
        trials.append(trial)
        if wanted or trial.sqnr_db >= best.sqnr_db + GAIN_DB:
            table, best = candidate, trial

    if settings.weight_clip is None and settings.precision == "int8" and not is_good(best):
        attempt("weights clipped", replace(table, weight_clip="mse"))
    if settings.correct_biases or (settings.correct_biases is None and not is_good(best)):
        shifts = measure_biases(load_graph(path), table, batches(0, min(BIASED, split[0])), threads=threads)
        attempt("biases corrected", replace(table, biases=shifts), wanted=bool(settings.correct_biases))
    told = {"held_out": split[1] - split[0], AUTO: [trial.to_json() for trial in trials], "best": best.to_json()}
    return replace(table, facts={**table.facts, **told})


def _factors(path: Path, tapped: TappedGraph, batches: Batches, images: int) -> dict[str, tuple[float, ...]]:
    """What evens out the graph's channels; empty where they are even enough."""

    def maxima(count: int) -> dict[str, NDArray[Any]]:
        found: dict[str, NDArray[Any]] = {}
        for batch in batches(0, min(count, images)):
            for name, values in channel_maxima(tapped, batch, tapped.groups).items():
                found[name] = values if name not in found else np.maximum(values, found[name])
        return found

    if not any(map(_uneven, maxima(PILOT).values())):
        return {}
    return find_factors(load_graph(path), maxima(PILOT_AGAIN))


def _uneven(peaks: NDArray[Any]) -> bool:
    alive = peaks[peaks > 0]
    return bool(alive.size) and float(alive.max()) >= UNEVEN * float(np.median(alive))
