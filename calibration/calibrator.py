"""From a graph and images to a calibration table: the order of the steps, and what is measured before it is chosen.

1. A pilot of a few images shows whether the channels of some tensor are so uneven that one range can't serve them;
   then the graph is equalised (:mod:`calibration.equalise`), which changes none of its answers. Without "auto", which
   sees in step 3 that it should have been, the weights are asked too.
2. One pass over the images collects a histogram of every tensor.
3. A method chooses the ranges. "auto" measures the candidates on images that no histogram has seen. Where the best
   of them isn't good, it also tries, in this order and each where the last wasn't enough: channels that are even
   but are read by uneven weights, evened out with a second pass; clipped weights; corrected biases.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from calibration.auto import METHOD as AUTO
from calibration.auto import choose, measure
from calibration.bias import measure_biases
from calibration.collect import Statistics, TappedGraph, channel_maxima, collect
from calibration.equalise import equalise, find_factors
from calibration.feeds import Batch
from calibration.methods import methods_for
from calibration.rename import sign
from calibration.table import CalibrationTable
from calibration.trials import Trial, is_good
from engines.errors import InputError
from engines.progress import QUIET, Progress
from export.light import SplitGraph

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

Factors = Mapping[str, tuple[float, ...]]
Peaks = dict[str, NDArray[Any]]

Batches = Callable[[int, int], Iterable[Batch]]
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
    master: SplitGraph,
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
        master: the FP32 master graph, its large weights beside it; it isn't changed.
        tapped: the same graph, loaded; it is closed when it isn't needed any more.
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
    run = _Run(master, tapped.weights, batches, counted, images, settings, progress)
    names = tapped.names
    peaks = run.peaks(tapped, PILOT) if settings.equalise else {}
    factors: Factors = {}
    if any(map(_uneven, peaks.values())):
        factors = run.factors(run.peaks(tapped, PILOT_AGAIN))
    elif peaks and settings.method != AUTO:
        factors = run.factors(peaks)
    if factors:
        tapped.close()  # its weights make room for the others
        tapped = run.tapped(factors)
    statistics = run.collect(tapped, partial)
    # Evened out by powers of two it answers as it did before.
    held = _Held(tapped, batches(counted, images)) if settings.method == AUTO else None
    tapped.close()
    if held is not None:
        table = _Auto(run, held, peaks if not factors else {}).table(statistics, factors)
    else:
        table = run.table(statistics, factors)
    return sign(replace(table, images=images), names)


@dataclass
class _Run:
    """The steps, each on what the others leave.

    Attributes:
        master: the master graph.
        weights: the digest of its weights.
        batches: the images.
        counted: how many of them are counted in histograms; the others are held out.
        images: how many there are.
        settings: how.
        progress: told of every step.
    """

    master: SplitGraph
    weights: str
    batches: Batches
    counted: int
    images: int
    settings: Settings
    progress: Progress

    def peaks(self, tapped: TappedGraph, count: int) -> Peaks:
        """The largest magnitude of every channel of every tensor on the first images."""
        found: Peaks = {}
        for batch in self.batches(0, min(count, self.counted)):
            for name, values in channel_maxima(tapped, batch, tapped.groups).items():
                found[name] = values if name not in found else np.maximum(values, found[name])
        return found

    def factors(self, peaks: Peaks) -> Factors:
        """What evens out the graph's channels; empty where they are even enough."""
        return find_factors(self.master.model, peaks, self.master.arrays)

    def tapped(self, factors: Factors) -> TappedGraph:
        """The graph, evened out, and loaded."""
        arrays = self.master.arrays
        model = SplitGraph(equalise(self.master.model, factors, arrays), arrays)
        return TappedGraph(model, threads=self.settings.threads, device=self.settings.device)

    def collect(self, tapped: TappedGraph, partial: "Partial | None" = None) -> Statistics:
        """The histograms of a graph."""
        source = self.batches(partial.images if partial else 0, self.counted)
        return collect(tapped, source, progress=self.progress, total=self.counted, partial=partial)

    def shifts(self, table: CalibrationTable) -> dict[str, tuple[float, ...]]:
        """What corrects the biases."""
        batches = self.batches(0, min(BIASED, self.counted))
        return measure_biases(self.master.whole(), table, batches, threads=self.settings.threads)

    def table(self, statistics: Statistics, factors: Factors) -> CalibrationTable:
        """The table of the one method that was asked for."""
        settings = self.settings
        table = statistics.table(settings.method, precision=settings.precision)
        clip = settings.weight_clip or "max"
        table = replace(table, weights=self.weights, equalisation=factors, weight_clip=clip)
        return replace(table, biases=self.shifts(table)) if settings.correct_biases else table


class _Held:
    """The held-out images, and what FP32 makes of them.

    Attributes:
        batches: the images.
        logits: float32 [N, classes], or [N, values] of a network that isn't a classifier.
    """

    def __init__(self, tapped: TappedGraph, batches: Iterable[Batch]) -> None:
        self.batches = list(batches)
        self.logits = np.concatenate([tapped.answers(batch) for batch in self.batches])


class _Auto:
    """Measures candidates on the held-out images, and keeps the best.

    Args:
        run: the steps.
        held: the held-out images.
        peaks: of the channels, if it is still open whether to even them out.
    """

    def __init__(self, run: _Run, held: _Held, peaks: Peaks) -> None:
        self._run, self._held, self._peaks = run, held, peaks
        self._images = 0
        self._trials: list[Trial] = []
        self._best: tuple[CalibrationTable, Trial] | None = None

    def table(self, statistics: Statistics, factors: Factors) -> CalibrationTable:
        """The table that measures best."""
        settings = self._run.settings
        uneven: Factors = {}

        def refine() -> bool:
            """Whether no weights are uneven that the pilot, which sees channels only, didn't tell of."""
            nonlocal uneven
            uneven = self._run.factors(self._peaks) if self._peaks else {}
            return not uneven

        self._choose(statistics, factors, refine)
        if uneven:
            tapped = self._run.tapped(uneven)
            statistics = self._run.collect(tapped)
            tapped.close()
            self._choose(statistics, uneven)
        if settings.weight_clip is None and settings.precision == "int8" and not self._good():
            self._attempt("weights clipped", replace(self._chosen[0], weight_clip="mse"))
        if settings.correct_biases or (settings.correct_biases is None and not self._good()):
            table = self._chosen[0]
            corrected = replace(table, biases=self._run.shifts(table))
            self._attempt("biases corrected", corrected, wanted=bool(settings.correct_biases))
        table, best = self._chosen
        trials = [trial.to_json() for trial in self._trials]
        told = {"held_out": self._images, AUTO: trials, "best": best.to_json()}
        return replace(table, facts={**table.facts, **told})

    @property
    def _chosen(self) -> tuple[CalibrationTable, Trial]:
        if self._best is None:
            raise AssertionError("asked before anything was chosen")
        return self._best

    def _good(self) -> bool:
        return is_good(self._chosen[1])

    def _choose(self, statistics: Statistics, factors: Factors, refine: Callable[[], bool] = lambda: True) -> None:
        settings = self._run.settings
        choice = choose(
            self._run.master.model,
            statistics,
            self._held.batches,
            precision=settings.precision,
            equalisation=factors,
            weight_clip=settings.weight_clip or "max",
            refine=refine,
            reference=self._held.logits,
            weights=self._run.weights,
            arrays=self._run.master.arrays,
            progress=self._run.progress,
            threads=settings.threads,
        )
        self._images = choice.images
        self._trials += choice.trials
        self._take(choice.table, choice.chosen)

    def _attempt(self, name: str, table: CalibrationTable, *, wanted: bool = False) -> None:
        run, held = self._run, self._held
        trial = measure(
            run.master.model,
            table,
            held.batches,
            name=name,
            reference=held.logits,
            weights=run.weights,
            arrays=run.master.arrays,
            threads=run.settings.threads,
        )
        self._trials.append(trial)
        self._take(table, trial, wanted=wanted)

    def _take(self, table: CalibrationTable, trial: Trial, *, wanted: bool = False) -> None:
        if wanted or self._best is None or trial.sqnr_db >= self._best[1].sqnr_db + GAIN_DB:
            self._best = table, trial


def _uneven(peaks: NDArray[Any]) -> bool:
    alive = peaks[peaks > 0]
    return bool(alive.size) and float(alive.max()) >= UNEVEN * float(np.median(alive))
