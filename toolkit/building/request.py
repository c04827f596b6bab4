"""What a build was asked about ranges and accuracy, and what of it makes no sense."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from engines.errors import InputError
from toolkit.building.choose import QUANTISED

if TYPE_CHECKING:
    from toolkit.data.dataset import Dataset


@dataclass(frozen=True)
class RangesRequest:
    """Where ranges come from, and how accurate the engine must be.

    Attributes:
        table: a calibration table; None takes the one beside the graph, unless there is data.
        data: calibrates where no table is given; what an accuracy budget is measured on in any case.
        method: how ranges are chosen from the data.
        images: how many are calibrated on.
        seed: of the choices of images.
        keep: layers that stay unquantised, by node or module.
        max_drop: points of top-1 that the engine may be worse than FP32; None allows any.
        search_images: training images that layers are chosen on.
        eval_images: test images that the result is judged on; None takes all.
    """

    table: Path | None = None
    data: "str | Path | Dataset | None" = None
    method: str = "auto"
    images: int = 512
    seed: int = 0
    keep: tuple[str, ...] = ()
    max_drop: float | None = None
    search_images: int = 512
    eval_images: int | None = None

    @property
    def measures_only(self) -> bool:
        """Whether ranges are measured, and nothing else decides about the graph."""
        return self.data is not None and self.table is None and self.max_drop is None

    def check(self, precision: str) -> None:
        """Refuse what makes no sense, before any file is read.

        Raises:
            InputError: naming it.
        """
        if precision not in QUANTISED:
            self._refuse_for(precision)
        if self.search_images < 1 or (self.eval_images is not None and self.eval_images < 1):
            raise InputError("an accuracy budget on no images", "give 1 or more of --search-images and --eval-images")
        if self.max_drop is None:
            if self.table is not None and self.data is not None:
                raise InputError(
                    "a table and data are given", "give --table to use its ranges, or --data to measure new ones"
                )
            return
        if not math.isfinite(self.max_drop) or self.max_drop < 0:
            raise InputError(
                f"a drop of {self.max_drop:g} points makes no budget", "give --max-drop 0 or more, such as 0.5"
            )
        if self.data is None:
            raise InputError(
                "an accuracy budget is measured on labelled images, and none are given", "give --data DATA"
            )

    def refuse_typed(self, path: Path) -> None:
        """Refuse a graph that is typed already together with anything that would type it.

        Raises:
            InputError: something was asked for.
        """
        if self.table is not None or self.data is not None or self.keep:
            raise InputError(f"'{path}' is quantised already", "give the master graph to calibrate it anew")

    def _refuse_for(self, precision: str) -> None:
        if self.max_drop is not None:
            raise InputError(
                f"--max-drop chooses layers to keep unquantised, and {precision} quantises none",
                "leave it out, or ask --int8 or --fp8",
            )
        if self.keep:
            raise InputError(
                f"--keep keeps layers unquantised, and {precision} quantises none",
                "leave it out, or ask --int8 or --fp8",
            )
        if self.data is not None or self.table is not None:
            raise InputError(
                f"{precision} needs no calibration, but data or a table is given",
                "leave it out, or ask --int8 or --fp8",
            )
