"""Who watches a training: the picture of its curves, TensorBoard, and the caller."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engines.errors import InputError, MissingLibraryError
from engines.progress import Progress
from export.recipe import Recipe
from toolkit.training.board import Board, Logged
from toolkit.training.curves import Curves, curves_path

if TYPE_CHECKING:
    from export.training import EpochFacts, TrainingState


class Watch:
    """Tells every watcher of each epoch.

    Args:
        output: the checkpoint, beside which the picture goes.
        title: of the picture.
        recipe: for TensorBoard's hyperparameters.
        settings: what else was asked for.
        images: to train on, an epoch.
        begun: the state that a resumed training goes on from.
        picture: whether there is one.
        tensorboard: the folder of event files; None for none.
        say: told in a line what can't be done.
        on_epoch: told of every epoch.

    Raises:
        InputError: TensorBoard's folder can't be written.
        MissingLibraryError: TensorBoard is not installed.
    """

    def __init__(
        self,
        output: Path,
        title: str,
        recipe: Recipe,
        settings: Mapping[str, Any],
        *,
        images: int,
        begun: "TrainingState | None",
        picture: bool,
        tensorboard: Path | None,
        say: Callable[[str], None],
        on_epoch: "Callable[[EpochFacts], None] | None",
    ) -> None:
        self._say, self._on_epoch, self._recipe = say, on_epoch, recipe
        self._curves: Curves | None = None
        self._history = begun.history if begun else ()
        self._board: Board | None = None
        self.picture: Path | None = None
        """The picture's file; None where there is none."""
        if picture:
            try:
                self._curves = Curves(curves_path(output), title)
                self.picture = self._curves.path
            except MissingLibraryError as error:
                say(f"no picture of the curves: {error}")
        if tensorboard is not None:
            steps = math.ceil(images / recipe.batch_size)
            facts = {**settings, **recipe.to_json()}
            self._board = Board(tensorboard, facts, steps=steps, begun=begun.epoch if begun else 0)

    def listener(self, progress: Progress) -> Progress:
        """The listener, with TensorBoard listening as well."""
        return Logged(progress, self._board, self._recipe.log_interval) if self._board else progress

    def epoch(self, facts: "EpochFacts", now: "TrainingState") -> None:
        """An epoch is over.

        Raises:
            InputError: TensorBoard's folder can't be written any more.
        """
        self._history = now.history
        if self._board:
            self._board.epoch(facts)
        self._draw(final=False)
        if self._on_epoch:
            self._on_epoch(facts)

    def close(self) -> None:
        """The training is over, or was stopped."""
        self._draw(final=True)
        if self._board:
            self._board.close()

    def _draw(self, *, final: bool) -> None:
        if self._curves is None or not self._history:
            return
        try:
            (self._curves.draw if final else self._curves.epoch)(self._history)
        except InputError as error:  # no reason to lose a training
            self._say(f"no picture of the curves: {error}")
            self._curves = self.picture = None
