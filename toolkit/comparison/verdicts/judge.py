"""All verdicts on a comparison, the recommendation first."""

from collections.abc import Iterator

from toolkit.comparison.goal import Goal
from toolkit.comparison.records.record import Comparison, Row, Verdict
from toolkit.comparison.verdicts.dominance import dominated
from toolkit.comparison.verdicts.doubts import doubts
from toolkit.comparison.verdicts.explain import no_faster
from toolkit.comparison.verdicts.measured import Measured
from toolkit.comparison.verdicts.recommend import recommendation

_GPU_BACKENDS = ("tensorrt", "tensorrt-rtx")


def judge(comparison: Comparison, goal: Goal | None = None) -> tuple[Verdict, ...]:
    """What the figures of a comparison mean.

    Rows are held against each other only where they took turns: in one run on one machine. A merged record has a
    recommendation for each of its machines.

    Args:
        comparison: what was measured.
        goal: what the recommendation is for; None takes the comparison's, or the fastest that loses at most half a
            point.

    Returns:
        By kind: "recommended", "no-faster", "dominated", then what is said of answers ("not-finite", "less-accurate",
        "overconfident", "underconfident", "confident-flips"), then "not-measured".
    """
    goal = goal or comparison.goal
    measured = Measured(comparison)
    found: list[Verdict] = []
    for rows in measured.groups():
        several = len(rows) > 1
        best = recommendation(measured, rows, goal) if several else None
        found += [best] if best else []
        found += no_faster(measured, rows)
        found += dominated(measured, rows)
        for row in rows:
            found += doubts(measured, row)
    found += _not_measured(comparison)
    order = {kind: number for number, kind in enumerate(("recommended", "no-faster", "dominated"))}
    last = {"not-measured": len(order) + 1}
    return tuple(sorted(found, key=lambda verdict: {**order, **last}.get(verdict.kind, len(order))))


def _not_measured(comparison: Comparison) -> Iterator[Verdict]:
    measured_elsewhere = {row.digest for row in comparison.rows if row.failure is None and row.opened}
    for row in comparison.rows:
        if row.failure is None:
            continue
        remedy = row.failure.remedy
        if _wants_a_gpu(comparison, row):
            if row.digest in measured_elsewhere:
                remedy = "another machine of this record ran it"
            else:
                remedy = (
                    "on a machine with a GPU: `toolkit compare ENGINE... --data DATA --record gpu.json`; then here, "
                    "both records side by side: `toolkit compare --from THIS.json gpu.json`"
                )
        text = f"{'stopped' if row.opened else 'not run'}: {row.failure.cause}" + (f" ({remedy})" if remedy else "")
        facts = {"cause": row.failure.cause, "remedy": remedy, "opened": row.opened is not None}
        yield Verdict("not-measured", row.name, text, facts)


def _wants_a_gpu(comparison: Comparison, row: Row) -> bool:
    """Whether it is an engine of NVIDIA's libraries on a machine without a GPU."""
    if row.opened is not None or comparison.machines[row.machine].gpus:
        return False
    backend = (row.passport or {}).get("backend", "")
    return backend in _GPU_BACKENDS or row.path.lower().endswith((".engine", ".plan", ".trt"))
