"""What a training came to, for people and for machines."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engines.metadata import ModelMetadata
from export.recipe import Recipe

if TYPE_CHECKING:
    from export.training import TrainingResult
    from export.training.transfer import Transfer


@dataclass(frozen=True)
class TrainReport:
    """What a training came to.

    Attributes:
        checkpoint: the file that was written.
        metadata: what it carries.
        recipe: the numbers it was trained with.
        result: history, best epoch, accuracies on the test split, seconds, precision, device.
        train_images, test_images: sizes of the two splits.
        curves: the picture of the curves; None where there is none.
        transfer: which tensors were taken over from another checkpoint; None for a training from scratch.
        qat: trained with the rounding of the INT8 graph, which the accuracies include.
        rank, processes: this process's number among those that trained together, and how many they were.
    """

    checkpoint: Path
    metadata: ModelMetadata
    recipe: Recipe
    result: "TrainingResult"
    train_images: int
    test_images: int
    curves: Path | None = None
    transfer: "Transfer | None" = None
    qat: bool = False
    rank: int = 0
    processes: int = 1

    def to_json(self) -> dict[str, Any]:
        """The same as plain values."""
        transfer = self.transfer
        return {
            "checkpoint": str(self.checkpoint),
            "metadata": self.metadata.to_json(),
            "recipe": self.recipe.to_json(),
            "train_images": self.train_images,
            "test_images": self.test_images,
            "curves": None if self.curves is None else str(self.curves),
            "transfer": None if transfer is None else {"taken": list(transfer.taken), "anew": list(transfer.left)},
            "qat": self.qat,
            "processes": self.processes,
            "waited": self.waited,
            **self.result.to_json(),
        }

    @property
    def waited(self) -> float:
        """The share of the training's time (0 to 1) in which it waited for data."""
        history = self.result.history
        seconds = sum(facts.seconds for facts in history)
        return sum(facts.waited * facts.seconds for facts in history) / seconds if seconds else 0.0

    def summary(self) -> str:
        """One line for people."""
        history, result = self.result.history, self.result
        tens, simulated = result.ten_crop_accuracy, " as INT8" if self.qat else ""
        ten = "" if tens is None else f", {100 * tens:.2f} % by ten crops"
        return (
            f"{self.checkpoint}: {self.metadata.architecture}, {len(self.metadata.labels)} classes, "
            f"{100 * result.accuracy:.2f} % of {self.test_images} test images right{simulated}{ten} "
            f"(epoch {result.best_epoch} of {len(history)}), {result.seconds:.0f} s on {result.device}"
            + (f" in {self.processes} processes" if self.processes > 1 else "")
        )


def epoch_line(facts: Any) -> str:
    """What one epoch came to (:class:`export.training.EpochFacts`), in a line."""
    waited = f", {facts.waited:.0%} of them waiting for data" if facts.waited >= 0.05 else ""
    return (
        f"epoch {facts.epoch}: loss {facts.train_loss:.4f}, accuracy {facts.train_accuracy:.2%}; "
        f"test loss {facts.test_loss:.4f}, accuracy {facts.test_accuracy:.2%}; "
        f"learning rate {facts.learning_rate:.3g}; {facts.seconds:.1f} s{waited}"
    )
