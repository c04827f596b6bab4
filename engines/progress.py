"""How long work reports its progress without knowing who listens."""

from typing import Protocol


class Progress(Protocol):
    """A listener for the progress of long work; the command line draws it, a library user may log it."""

    def begin(self, task: str, total: int | None = None, unit: str = "") -> None:
        """A task of ``total`` steps (None: unknown) begins; ``unit`` names a step ("images")."""

    def advance(self, steps: int = 1, **facts: object) -> None:
        """``steps`` more are done; ``facts`` are figures worth showing (loss, accuracy)."""

    def end(self) -> None:
        """The task is over, done or not."""


class _Quiet:
    def begin(self, task: str, total: int | None = None, unit: str = "") -> None:
        pass

    def advance(self, steps: int = 1, **facts: object) -> None:
        pass

    def end(self) -> None:
        pass


QUIET: Progress = _Quiet()
"""A listener that shows nothing: the default everywhere."""
