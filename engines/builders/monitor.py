"""The builder's own progress, given on to a listener, and the way to stop it."""

import threading
from typing import Any

from engines.progress import Progress

_TOTAL = 100


class Phases:
    """Nested phases of a build as one monotonous percentage.

    A phase has a number of steps, and each may contain phases; how long they take is unknown, so a step counts the
    same whatever it holds. Called by the builder from any of its threads.

    Args:
        progress: told of whole per cents; its own errors stop the build and are raised after it.
        cancel: set it to make the builder give up at its next step.
    """

    def __init__(self, progress: Progress, cancel: threading.Event) -> None:
        self._progress = progress
        self._cancel = cancel
        self._lock = threading.RLock()
        self._phases: dict[str, tuple[str | None, int]] = {}
        self._done: dict[str, int] = {}
        self._shown = 0
        self.failure: BaseException | None = None

    def start(self, name: str, parent: str | None, steps: int) -> None:
        """A phase of ``steps`` begins inside ``parent``."""
        with self._lock:
            self._phases[name] = (parent, max(1, steps))
            self._done[name] = 0
            self._tell(name)

    def step(self, name: str, index: int) -> bool:
        """Step ``index`` of a phase is done; whether the builder shall go on."""
        with self._lock:
            if name in self._done:
                self._done[name] = max(self._done[name], index + 1)
            self._tell(name)
            return not self._cancel.is_set() and self.failure is None

    def finish(self, name: str) -> None:
        """A phase is over."""
        with self._lock:
            self._phases.pop(name, None)
            self._done.pop(name, None)

    def complete(self) -> None:
        """The build succeeded: show what is left."""
        if self._shown < _TOTAL and self.failure is None:
            self._progress.advance(_TOTAL - self._shown)
            self._shown = _TOTAL

    def fraction(self) -> float:
        """How much of the outermost phase is done, from 0 to 1."""
        with self._lock:
            roots = [name for name, (parent, _) in self._phases.items() if parent is None]
            return self._fraction(roots[0]) if roots else 0.0

    def _fraction(self, name: str) -> float:
        steps = self._phases[name][1]
        inner = [child for child, (parent, _) in self._phases.items() if parent == name]
        begun = sum(self._fraction(child) for child in inner) / len(inner) if inner else 0.0
        return min(1.0, (self._done[name] + begun) / steps)

    def _tell(self, phase: str) -> None:
        # An exception must not cross the C++ builder, so it waits until the build is over.
        try:
            if self.failure is None and (whole := int(self.fraction() * _TOTAL)) > self._shown:
                self._progress.advance(whole - self._shown, phase=phase)
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
