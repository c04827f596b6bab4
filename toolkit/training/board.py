"""The figures of a training for TensorBoard."""

import contextlib
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engines.errors import InputError
from engines.optional import require
from engines.progress import Progress

if TYPE_CHECKING:
    from export.training import EpochFacts

METRICS = ("accuracy/test", "loss/test")
"""What TensorBoard's table of hyperparameters shows beside them."""


class Board:
    """Writes scalars to a folder of event files, all over the number of steps.

    Args:
        folder: made if it doesn't exist; a resumed training goes on in it.
        settings: recipe and options, as text and as hyperparameters.
        steps: of an epoch.
        begun: how many epochs are finished already: what an interrupted one had written past them is dropped.

    Raises:
        InputError: the folder can't be made or written.
        MissingLibraryError: TensorBoard is not installed.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], *, steps: int, begun: int = 0) -> None:
        summary = _library()
        self.folder, self.steps = folder, steps
        check_folder(folder)
        try:
            self._writer = summary.SummaryWriter(str(folder), purge_step=begun * steps + 1 if begun else None)
        except OSError as error:
            raise _unwritable(folder, error) from error
        if not begun:
            rows = [f"| {name} | {value} |" for name, value in settings.items()]
            self._writer.add_text("settings", "\n".join(["| option | value |", "| --- | --- |", *rows]), 0)
            plain = {
                key: value if isinstance(value, bool | int | float | str) else str(value)
                for key, value in settings.items()
            }
            from torch.utils.tensorboard.summary import hparams

            for part in hparams(plain, dict.fromkeys(METRICS, 0.0)):  # type: ignore[no-untyped-call]
                self._writer._get_file_writer().add_summary(part)

    def step(self, step: int, loss: float, accuracy: float, rate: float | None) -> None:
        """What a report within an epoch says, after so many steps of the training."""
        self._write({"steps/loss": loss, "steps/accuracy": accuracy, "steps/learning_rate": rate}, step)

    def epoch(self, facts: "EpochFacts") -> None:
        """The figures of a finished epoch, after its last step."""
        values = {
            "loss/train": facts.train_loss,
            "loss/test": facts.test_loss,
            "accuracy/train": facts.train_accuracy,
            "accuracy/test": facts.test_accuracy,
            "epoch/learning_rate": facts.learning_rate,
            "epoch/seconds": facts.seconds,
            "epoch/waited": facts.waited,
        }
        self._write(values, facts.epoch * self.steps)
        with self._refusals():
            self._writer.flush()

    def close(self) -> None:
        """Write what is left."""
        with self._refusals():
            self._writer.close()

    def _write(self, values: Mapping[str, float | None], step: int) -> None:
        with self._refusals():
            for name, value in values.items():
                if value is not None:
                    self._writer.add_scalar(name, value, step)

    @contextlib.contextmanager
    def _refusals(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise _unwritable(self.folder, error) from error


class Logged:
    """Passes progress on, and what a training says between epochs to a :class:`Board` as well.

    Args:
        progress: the listener.
        board: where the figures go.
        interval: steps between two reports.
    """

    def __init__(self, progress: Progress, board: Board, interval: int) -> None:
        self._progress, self._board, self._interval = progress, board, interval
        self._epoch, self._reports = 0, 0

    def begin(self, task: str, total: int | None = None, unit: str = "") -> None:
        self._progress.begin(task, total, unit)

    def advance(self, steps: int = 1, **facts: object) -> None:
        self._progress.advance(steps, **facts)
        epoch, loss, accuracy = facts.get("epoch"), facts.get("loss"), facts.get("accuracy")
        if not (isinstance(epoch, str) and isinstance(loss, float) and isinstance(accuracy, float)):
            return
        number = int(epoch.partition("/")[0])
        self._reports = self._reports + 1 if number == self._epoch else 0
        self._epoch = number
        rate = facts.get("learning_rate")
        done = (number - 1) * self._board.steps + self._reports * self._interval + 1
        self._board.step(done, loss, accuracy, rate if isinstance(rate, float) else None)

    def end(self) -> None:
        self._progress.end()


def check_folder(folder: Path) -> None:
    """Refuse a folder that can't take event files, and a machine without TensorBoard, before any work.

    Raises:
        InputError: the folder can't be made or written.
        MissingLibraryError: TensorBoard is not installed.
    """
    _library()
    if folder.exists() and not folder.is_dir():
        raise InputError(f"'{folder}' is a file, not a folder for TensorBoard", "give --tensorboard a folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise _unwritable(folder, error) from error


def _library() -> Any:
    require("tensorboard", "Logging to TensorBoard", "tensorboard")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its protocol buffers and its own dependencies warn of their age
        return require("torch.utils.tensorboard", "Logging to TensorBoard", "tensorboard")


def _unwritable(folder: Path, error: OSError) -> InputError:
    return InputError(
        f"can't write to the folder '{folder}': {error.strerror or error}", "give --tensorboard another folder"
    )
