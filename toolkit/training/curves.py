"""The curves of a training as a picture beside its checkpoint."""

import io
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engines.files import write_atomically
from engines.optional import require

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from export.training import EpochFacts

INK, SOFT, GRID, PAPER = "#1f2430", "#6b7280", "#e5e7eb", "#ffffff"
TRAIN, TEST, RATE = "#9aa5b8", "#2563eb", "#b45309"
SHARE = 0.05
"""Of a training's time, what drawing may take at most; the last picture is always drawn."""

USUAL = 0.3
"""Seconds that the first drawing is expected to take."""


def curves_path(checkpoint: Path) -> Path:
    """Where the picture of ``checkpoint`` goes: ``model.pt`` → ``model.curves.png``."""
    return checkpoint.with_name(f"{checkpoint.name.removesuffix(checkpoint.suffix)}.curves.png")


class Curves:
    """Keeps the picture up to date while a training goes on.

    Args:
        path: see :func:`curves_path`.
        title: what was trained on what.

    Raises:
        MissingLibraryError: matplotlib is not installed.
    """

    def __init__(self, path: Path, title: str) -> None:
        require("matplotlib", "The picture of a training's curves", "report")
        self.path, self.title = path, title
        self._drawn, self._cost = time.monotonic(), USUAL

    def epoch(self, history: "Sequence[EpochFacts]") -> None:
        """Draw after an epoch, unless the last drawing's cost would then weigh too much.

        Raises:
            InputError: the file can't be written.
        """
        if time.monotonic() - self._drawn >= self._cost / SHARE:
            self.draw(history)

    def draw(self, history: "Sequence[EpochFacts]") -> None:
        """Draw now, whole or not at all.

        Raises:
            InputError: the file can't be written.
        """
        start = time.monotonic()
        write_atomically(self.path, picture(history, self.title))
        self._drawn = time.monotonic()
        self._cost = self._drawn - start


def picture(history: "Sequence[EpochFacts]", title: str) -> bytes:
    """Loss, accuracy and learning rate over the epochs, as a PNG; the best epoch is marked.

    Raises:
        MissingLibraryError: matplotlib is not installed.
    """
    matplotlib = require("matplotlib", "The picture of a training's curves", "report")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from export.training import best_epoch

    best = best_epoch(history)
    epochs = [facts.epoch for facts in history]
    style: dict[str, Any] = {
        "font.family": "DejaVu Sans", "font.size": 10, "text.color": INK, "axes.labelcolor": SOFT,
        "xtick.color": SOFT, "ytick.color": SOFT, "axes.edgecolor": GRID, "axes.spines.top": False,
        "axes.spines.right": False, "axes.grid": True, "axes.axisbelow": True, "grid.color": GRID,
        "grid.linewidth": 0.8, "lines.linewidth": 1.8, "figure.facecolor": PAPER, "axes.facecolor": PAPER,
    }  # fmt: skip
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(10, 5), dpi=120, layout="constrained")
        canvas = FigureCanvasAgg(figure)
        grid = figure.add_gridspec(2, 2, height_ratios=(3.2, 1))
        loss, accuracy = figure.add_subplot(grid[0, 0]), figure.add_subplot(grid[0, 1])
        rate = figure.add_subplot(grid[1, :])
        _pair(loss, epochs, [f.train_loss for f in history], [f.test_loss for f in history], best.test_loss, best)
        _pair(
            accuracy,
            epochs,
            [100 * f.train_accuracy for f in history],
            [100 * f.test_accuracy for f in history],
            100 * best.test_accuracy,
            best,
        )
        accuracy.set_ylim(top=min(accuracy.get_ylim()[1], 101))
        _title(loss, "Loss", f"best epoch {best.epoch}: {best.test_loss:.4f} on the test split")
        _title(
            accuracy, "Accuracy, %", f"best epoch {best.epoch}: {100 * best.test_accuracy:.2f} % of the test split"
        )
        rate.plot(epochs, [f.learning_rate for f in history], color=RATE, marker=_marker(epochs), markersize=3.5)
        rate.set_ylim(bottom=0, top=1.1 * max(f.learning_rate for f in history) or 1)
        rate.ticklabel_format(axis="y", style="sci", scilimits=(-2, 4), useMathText=True)
        _title(rate, "Learning rate at the end of each epoch", "")
        rate.set_xlabel("epoch")
        for axes in (loss, accuracy, rate):
            _epochs(axes, epochs)
        figure.suptitle(title, x=0.012, ha="left", fontsize=12, fontweight="bold")
        buffer = io.BytesIO()
        canvas.print_png(buffer)  # type: ignore[no-untyped-call]
    return buffer.getvalue()


def _pair(
    axes: "Axes", epochs: list[int], train: list[float], test: list[float], value: float, best: "EpochFacts"
) -> None:
    axes.plot(epochs, train, color=TRAIN, marker=_marker(epochs), markersize=3.5, label="train")
    axes.plot(epochs, test, color=TEST, marker=_marker(epochs), markersize=3.5, label="test")
    axes.axvline(best.epoch, color=SOFT, linewidth=0.9, linestyle=(0, (4, 3)))
    axes.plot([best.epoch], [value], "o", color=TEST, markersize=8, markeredgecolor=PAPER, markeredgewidth=1.5)
    axes.legend(frameon=False, loc="best", labelcolor=INK, handlelength=1.4)


def _title(axes: "Axes", title: str, note: str) -> None:
    axes.set_title(title, loc="left", fontsize=10.5, color=INK)
    if note:
        axes.set_title(note, loc="right", fontsize=9, color=SOFT)


def _epochs(axes: "Axes", epochs: list[int]) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(nbins=12, integer=True, min_n_ticks=1))
    axes.set_xlim(epochs[0] - 0.5, epochs[-1] + 0.5)


def _marker(epochs: list[int]) -> str:
    return "o" if len(epochs) <= 40 else ""
