"""The accuracy budget: the fewest layers kept unquantised, so that top-1 falls by no more than was allowed.

1. A simulation ranks the layers and finds a small set that holds the budget on training images
   (:mod:`calibration.sensitivity`). It places Q/DQ as TensorRT has it.
2. A graph for ONNX Runtime has its Q/DQ elsewhere: a layer that is kept there still reads what its predecessors
   quantised. So the set is widened, and given back what it doesn't need, on the same images and that very graph.
3. What would ship is judged on the evaluation split, which nothing was chosen on. A set that doesn't hold there is
   widened and judged again; when everything but one layer is kept and it still doesn't, there is no engine.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from engines.errors import BudgetError
from engines.progress import QUIET, Progress
from export.structure import label
from toolkit.building.judge import Judgement, Jury
from toolkit.building.report import BudgetReport
from toolkit.building.search import Keep, Search, behind_each

if TYPE_CHECKING:
    import onnx

    from calibration.budget import BudgetChoice
    from calibration.table import CalibrationTable
    from toolkit.building.pictures import Held, Pictures

GIVEN_BACK = 12
"""At most so many layers are tried to be quantised again after the set was widened."""

Make = Callable[["CalibrationTable"], Path]
"""Makes what would ship with a table, and gives the file to judge: an engine that runs here, or the graph."""

Order = Callable[[], Sequence[str]]


@dataclass(frozen=True)
class Budget:
    """What is allowed, and on which images it is searched and judged.

    Attributes:
        max_drop: points of top-1 below FP32.
        search: training images that the ranges were not chosen on.
        evaluation: images of the test split.
    """

    max_drop: float
    search: "Held"
    evaluation: "Pictures"


def hold(
    master: Path,
    model: "onnx.ModelProto",
    table: "CalibrationTable",
    budget: Budget,
    make: Make,
    *,
    proxy: bool,
    progress: Progress = QUIET,
) -> tuple["CalibrationTable", BudgetReport]:
    """Find the layers to keep.

    Args:
        master: the FP32 graph's file.
        model: its content.
        table: the ranges; layers that it keeps already stay kept.
        budget: what is allowed.
        make: makes a candidate.
        proxy: whether the simulation's Q/DQ placement is another one than that of what ships.
        progress: told of the work.

    Returns:
        The table with the layers to keep, and what was found. The last candidate made is of that table.

    Raises:
        BudgetError: nothing that was tried holds the budget; its notes say what was tried.
    """
    search = Search(model, table, budget.search, budget.max_drop, progress)
    choice = search.choice()
    if not choice.holds and not proxy:
        raise _impossible(budget, [], choice)
    nodes = [label(node) for node in model.graph.node]
    order: Order = search.order
    start = choice.keep
    if proxy:
        order = cache(lambda: behind_each(model, search.order()))
        bench = _Bench(
            Jury(master, budget.search, task="searching", progress=progress), make, table, nodes, budget.max_drop
        )
        wide = widen(start if choice.holds else (), order, bench.holds)
        if wide is None:
            raise _impossible(budget, bench.judged, choice)
        start = _give_back(wide, order, bench.holds)
    bench = _Bench(Jury(master, budget.evaluation, progress=progress), make, table, nodes, budget.max_drop)
    keep = widen(start, order, bench.holds)
    if keep is None:
        raise _impossible(budget, bench.judged, choice)
    final = replace(table, keep=bench.whole(keep))
    if bench.judged[-1].keep != final.keep:
        make(final)
    verdict = next(one for one in bench.judged if one.keep == final.keep)
    rejected = tuple(one for one in bench.judged if one.drop > budget.max_drop)
    return final, BudgetReport(budget.max_drop, verdict, len(budget.search), choice.evaluated, rejected)


class _Bench:
    """What would ship, before a jury: one set of layers after another."""

    def __init__(
        self, jury: Jury, make: Make, table: "CalibrationTable", nodes: Sequence[str], max_drop: float
    ) -> None:
        self._jury, self._make, self._table, self._nodes, self._max_drop = jury, make, table, nodes, max_drop
        self.judged: list[Judgement] = []

    def whole(self, keep: Keep) -> Keep:
        """``keep`` and what the table keeps already, in graph order."""
        together = {*self._table.keep, *keep}
        return tuple(name for name in self._nodes if name in together)

    def holds(self, keep: Keep) -> bool:
        """Whether this set holds the budget."""
        whole = self.whole(keep)
        self.judged.append(self._jury.judge(self._make(replace(self._table, keep=whole)), whole))
        return self.judged[-1].drop <= self._max_drop


def widen(keep: Keep, order: Order, holds: Callable[[Keep], bool]) -> Keep | None:
    """``keep`` with as few of the first of ``order`` as make it hold, one layer left quantised at the least.

    Args:
        keep: the set to begin with.
        order: gives all layers, the most sensitive first; asked only if ``keep`` alone doesn't hold.
        holds: the judge; asked once for each set.

    Returns:
        The set; None when even the widest doesn't hold.
    """
    if holds(keep):
        return keep
    more = [name for name in order() if name not in keep]
    most = len(more) - 1
    failed, found = 0, min(1, most)  # numbers of layers added: the largest known to fail, one to try
    while found <= failed or not holds((*keep, *more[:found])):
        if found >= most:
            return None
        failed, found = found, min(2 * found, most)
    while found - failed > 1:
        middle = (failed + found) // 2
        if holds((*keep, *more[:middle])):
            found = middle
        else:
            failed = middle
    return (*keep, *more[:found])


def _give_back(keep: Keep, order: Order, holds: Callable[[Keep], bool]) -> Keep:
    """``keep`` without the layers that it holds as well without, the least sensitive tried first."""
    if not keep:
        return keep
    for name in sorted(keep, key=order().index, reverse=True)[:GIVEN_BACK]:
        fewer = tuple(other for other in keep if other != name)
        if holds(fewer):
            keep = fewer
    return keep


def _impossible(budget: Budget, judged: Sequence[Judgement], choice: "BudgetChoice") -> BudgetError:
    """The error that says what was tried, and how far the best of it was off."""
    if judged:
        best = min(judged, key=lambda one: one.drop)
        drop, count, where = best.drop, len(best.keep), f"{best.images} images of what would ship"
        tried = [f"keeping {_names(one.keep)}: {one.drop:+.2f} points" for one in judged]
    else:
        drop, count, where = choice.drop, len(choice.keep), f"the {len(budget.search)} images searched with"
        fp32 = choice.accuracy_fp32
        tried = [f"keeping {_names(one.keep)}: {100 * (fp32 - one.accuracy):+.2f} points" for one in choice.tried]
    error = BudgetError(
        f"no choice of layers holds a drop of {budget.max_drop:g} points: the best that was found loses {drop:.2f} "
        f"with {count} layer{'' if count == 1 else 's'} kept ({where})",
        "calibrate on more images, allow more with --max-drop, or build with --fp16",
    )
    for line in tried:
        error.add_note(f"tried {line}")
    return error


def _names(keep: Sequence[str]) -> str:
    return ", ".join(keep) if keep else "no layer"
