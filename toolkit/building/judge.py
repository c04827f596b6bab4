"""How much accuracy a quantised graph or engine loses against the FP32 master, image by image, as it ships."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.progress import QUIET, Progress
from toolkit.benchmarking.messages import Contestant
from toolkit.benchmarking.worker import Worker
from toolkit.building.pictures import Held, Pictures


@dataclass(frozen=True)
class Judgement:
    """What one candidate got right of the images that FP32 was asked too.

    Attributes:
        keep: the layers that it keeps unquantised.
        images: how many were asked.
        right_fp32: how many FP32 got right.
        lost: right in FP32 and wrong here.
        gained: wrong in FP32 and right here.
        judged: what was run, on what: "model.int8.ort.onnx on onnxruntime cpu".
    """

    keep: tuple[str, ...]
    images: int
    right_fp32: int
    lost: int
    gained: int
    judged: str

    @property
    def accuracy_fp32(self) -> float:
        """Top-1 of the FP32 master, from 0 to 1."""
        return self.right_fp32 / self.images

    @property
    def accuracy(self) -> float:
        """Top-1 of the candidate, from 0 to 1."""
        return (self.right_fp32 - self.lost + self.gained) / self.images

    @property
    def drop(self) -> float:
        """Points of top-1 that the candidate is worse than FP32; negative where it is better."""
        return 100 * (self.lost - self.gained) / self.images

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of :attr:`drop`, in points: of a difference between answers to the same images.

        Source: A. Agresti, Y. Min, "Simple improved confidence intervals for comparing matched proportions",
        Statistics in Medicine 24 (2005): Wald's interval with half an image added to each of the four counts.
        """
        z = NormalDist().inv_cdf(0.975)
        total, lost, gained = self.images + 2, self.lost + 0.5, self.gained + 0.5
        centre = (lost - gained) / total
        spread = z * float(np.sqrt(lost + gained - (lost - gained) ** 2 / total)) / total
        return 100 * max(-1.0, centre - spread), 100 * min(1.0, centre + spread)

    def said(self) -> str:
        """The drop and its interval, for people."""
        low, high = self.interval
        return f"{self.drop:.2f} points on {self.images} images (95 % interval {low:.2f} to {high:.2f})"

    def to_json(self) -> dict[str, Any]:
        """Rates from 0 to 1, drops in points."""
        low, high = self.interval
        return {
            "keep": list(self.keep),
            "drop": self.drop,
            "low": low,
            "high": high,
            "images": self.images,
            "accuracy_fp32": self.accuracy_fp32,
            "accuracy": self.accuracy,
            "lost": self.lost,
            "gained": self.gained,
            "judged": self.judged,
        }


class Jury:
    """Fixed images, and which of them the FP32 master gets right.

    Args:
        master: the FP32 graph's file.
        pictures: the images.
        threads: CPU threads.
        task: what a listener is told: "judging".
        progress: told of every batch.
    """

    def __init__(
        self,
        master: Path,
        pictures: Pictures | Held,
        *,
        threads: int | None = None,
        task: str = "judging",
        progress: Progress = QUIET,
    ) -> None:
        self._pictures, self._threads, self._task, self._progress = pictures, threads, task, progress
        self._right, _ = self._ask(master, "FP32")

    def __len__(self) -> int:
        return len(self._right)

    def judge(self, candidate: Path, keep: Sequence[str] = ()) -> Judgement:
        """Ask a graph or engine, through the session that would serve it.

        Raises:
            ToolkitError: it can't be run here, or failed.
        """
        right, info = self._ask(
            candidate, f"{len(keep)} layer{'s' * (len(keep) > 1)} kept" if keep else "all layers quantised"
        )
        return Judgement(
            tuple(keep),
            len(right),
            int(self._right.sum()),
            int((self._right & ~right).sum()),
            int((right & ~self._right).sum()),
            f"{candidate.name} on {info}",
        )

    def _ask(self, path: Path, what: str) -> tuple[NDArray[np.bool_], str]:
        """Which images are answered right, bool [N]; and what answered."""
        right: list[NDArray[np.bool_]] = []
        normalise = None if self._pictures.uint8 else self._pictures.preprocess
        worker = Worker()
        self._progress.begin(f"{self._task}: {what}", len(self._pictures), "images")
        try:
            info = worker.open(Contestant(str(path), path.name, threads=self._threads)).info
            for pixels, labels in self._pictures.pixels():
                logits = worker.logits(pixels, normalise)
                # NaN and infinity are wrong by definition, whatever argmax makes of them.
                right.append(np.isfinite(logits).all(axis=1) & (logits.argmax(axis=1) == labels))
                self._progress.advance(len(pixels))
        finally:
            self._progress.end()
            worker.close()
        return np.concatenate(right), f"{info.backend} {info.device}"
