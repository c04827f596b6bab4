"""The builder's own progress, given on to a listener in plain words, and the way to stop it."""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from engines.progress import Progress

_TOTAL = 100

_PLAIN = {
    "Cloning network graph": "preparing the network",
    "Preparing graph for optimization": "preparing the network",
    "Building engine from subgraph": "compiling",
    "Optimizing graph": "fusing layers",
    "Computing profile costs": "choosing kernels",
    "Timing tactics": "timing kernels",
    "Timing graph nodes": "timing kernels",
    "Timing tensor reformats": "timing changes of layout",
    "Computing reformatting costs": "timing changes of layout",
    "Determining refit engines": "compiling kernels",
}
"""The libraries' names of phases in plain words; one that isn't here is told in the library's."""

READING, AUDITING = "reading the graph", "reading back the layers"

# A phase's steps count the same, whatever they hold; but of these phases one child takes nearly all the time, so the
# other steps share what it leaves. The share is a guess on the safe side: it only shapes the bar and its ETA.
_LONG = 0.9
LONGEST: Mapping[str, Mapping[str, str]] = {
    "tensorrt": {
        "Building engine": "Building engine from subgraph",
        "Building engine from subgraph": "Computing profile costs",
        "Computing profile costs": "Timing tactics",
        "Timing tactics": "Timing graph nodes",
    },
    "tensorrt-rtx": {  # compiles instead of timing: seen in 1.7
        "Building engine": "Building engine from subgraph",
        "Building engine from subgraph": "Computing profile costs",
        "Computing profile costs": "Determining refit engines",
    },
}
"""Backend → phase → the child phase that takes nearly all its time."""

_PER_PROFILE = "Computing profile costs"
_BEAT = 2.0
"""Seconds after which a listener hears that the build goes on, though no step was done."""


@dataclass
class _Phase:
    """A phase that has begun.

    Attributes:
        parent: the phase that it is in.
        steps: how many it has.
        done: how many of them are done.
        long_done: how many times the child that takes nearly all the time is over.
    """

    parent: str | None
    steps: int
    done: int = 0
    long_done: int = 0


class Phases:
    """Nested phases of a build as one monotonous percentage, and the time that each kind took.

    Called by the builder from any of its threads.

    Args:
        progress: told of whole per cents and of the phase; its own errors stop the build and are raised after it.
        cancel: set it to make the builder give up at its next step.
        longest: phase → the child that takes nearly all its time, from :data:`LONGEST`.
        clock: seconds; given by tests.

    Attributes:
        failure: the listener's own error, to be raised when the build is over.
        profiles: how many optimisation profiles are built: kernels are chosen for each.
    """

    def __init__(
        self,
        progress: Progress,
        cancel: threading.Event,
        longest: Mapping[str, str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._progress = progress
        self._cancel = cancel
        self._longest = longest or {}
        self._clock = clock
        self._lock = threading.RLock()
        self._phases: dict[str, _Phase] = {}
        self._shown = 0
        self._now, self._since = "", clock()
        self._told = self._since
        self._seconds: dict[str, float] = {}
        self.failure: BaseException | None = None
        self.profiles = 1

    def enter(self, words: str) -> None:
        """What comes now isn't a phase of the builder's: parsing, the audit."""
        with self._lock:
            self._switch(words)
            self._tell(always=True)

    def start(self, name: str, parent: str | None, steps: int) -> None:
        """A phase of ``steps`` begins inside ``parent``."""
        with self._lock:
            self._phases[name] = _Phase(parent, max(1, steps))
            self._switch(self._words(name))
            self._tell()

    def step(self, name: str, index: int) -> bool:
        """Step ``index`` of a phase is done; whether the builder shall go on."""
        with self._lock:
            if name in self._phases:
                self._phases[name].done = max(self._phases[name].done, index + 1)
            self._tell()
            return not self._cancel.is_set() and self.failure is None

    def finish(self, name: str) -> None:
        """A phase is over."""
        with self._lock:
            phase = self._phases.pop(name, None)
            parent = phase.parent if phase else None
            if parent is not None and parent in self._phases:
                self._phases[parent].long_done += self._longest.get(parent) == name
                self._switch(self._words(parent))

    def beat(self) -> None:
        """Tell the listener that the build goes on, where it heard nothing for a while."""
        with self._lock:
            if self._clock() - self._told >= _BEAT:
                self._tell(always=True)

    def complete(self) -> dict[str, float]:
        """The build succeeded: show what is left.

        Returns:
            Seconds by phase in plain words, in the order in which they began.
        """
        with self._lock:
            self._switch("")
            if self._shown < _TOTAL and self.failure is None:
                self._progress.advance(_TOTAL - self._shown, phase="")
                self._shown = _TOTAL
            return dict(self._seconds)

    def fraction(self) -> float:
        """How much of the outermost phase is done, from 0 to 1."""
        with self._lock:
            roots = [name for name, phase in self._phases.items() if phase.parent is None]
            return self._fraction(roots[0]) if roots else 0.0

    def _fraction(self, name: str) -> float:
        phase, long = self._phases[name], self._longest.get(name)
        inner = [child for child, other in self._phases.items() if other.parent == name and child != long]
        begun = sum(map(self._fraction, inner)) / len(inner) if inner else 0.0
        steps = min(1.0, (phase.done + begun) / phase.steps)
        if long is None:
            return steps
        count = max(1, self.profiles if name == _PER_PROFILE else 1)
        running = self._fraction(long) if long in self._phases else 0.0
        return (1 - _LONG) * steps + _LONG * min(1.0, (phase.long_done + running) / count)

    def _words(self, name: str) -> str:
        phase = self._phases[name]
        if phase.parent is None:  # the outermost has no work of its own but the first and the last
            return "writing the plan" if phase.long_done else "preparing the network"
        words = _PLAIN.get(name, name.lower())
        costs = self._phases.get(_PER_PROFILE)
        if self.profiles > 1 and costs is not None:
            return f"{words}, profile {min(costs.long_done + 1, self.profiles)} of {self.profiles}"
        return words

    def _switch(self, words: str) -> None:
        """From now on the time is that of ``words``."""
        now = self._clock()
        if self._now:
            kind = self._now.partition(", profile ")[0]
            self._seconds[kind] = self._seconds.get(kind, 0.0) + now - self._since
        self._now, self._since = words, now

    def _tell(self, *, always: bool = False) -> None:
        # An exception must not cross the C++ builder, so it waits until the build is over.
        try:
            whole = max(self._shown, int(self.fraction() * _TOTAL))
            if self.failure is None and (always or whole > self._shown):
                self._told = self._clock()
                self._progress.advance(whole - self._shown, phase=self._now)
                self._shown = whole
        except BaseException as error:
            self.failure = error


def progress_monitor(trt: Any, phases: Phases) -> Any:
    """An ``IProgressMonitor`` of the library ``trt`` that reports to ``phases``."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # the libraries have no types
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)  # the base is C++ and has to be called by name

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            phases.start(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            return phases.step(phase_name, step)

        def phase_finish(self, phase_name: str) -> None:
            phases.finish(phase_name)

    return Monitor()
