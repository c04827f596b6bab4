"""Whether the new one is slower, by times that were taken in turns with the old one's."""

from toolkit.benchmarking.timing import Interval, speed_ratio
from toolkit.comparison import figures
from toolkit.gate.evidence import Evidence
from toolkit.gate.limits import Limits
from toolkit.gate.result import Gate, Status

DRIFT = 0.10
"""How far a machine's own speed may have moved between a baseline and now: the interval is widened by it both ways.

Within a minute of interleaved turns heat, clocks, placement in memory and the load of others fall on both alike;
on another day they fall on one of the two.
"""


def latency_gate(evidence: Evidence, limits: Limits) -> Gate:
    """Per cent more time a run at the smallest batch size that both take."""
    return _gate("latency", evidence, limits.max_slowdown, smallest=True)


def throughput_gate(evidence: Evidence, limits: Limits) -> Gate:
    """Per cent fewer images a second at the largest batch size that both take."""
    return _gate("throughput", evidence, limits.max_throughput_loss, smallest=False)


def _gate(name: str, evidence: Evidence, limit: float, *, smallest: bool) -> Gate:
    if (reason := evidence.not_timed()) is not None:
        return Gate(name, "skipped", reason)
    sizes = sorted(evidence.old.speeds.keys() & evidence.new.speeds.keys())
    if not sizes:
        reasons = [*evidence.new.skipped.values(), *evidence.old.skipped.values()]
        return Gate(name, "skipped", reasons[0] if reasons else "there is no batch size that both were timed at")
    batch = sizes[0] if smallest else sizes[-1]
    ratio = _ratio(evidence, batch)
    old, new = (row.speeds[batch].timing for row in (evidence.old, evidence.new))
    value = _loss(ratio.value, smallest=smallest)
    if smallest:
        text = f"{figures.milliseconds(old.p50)} → {figures.milliseconds(new.p50)} ms at batch {batch}"
    else:
        text = (
            f"{figures.rate(old.images_per_second)} → {figures.rate(new.images_per_second)} images/s at batch {batch}"
        )
    text += f", {_words(value, smallest=smallest)}"
    if evidence.baseline:
        text += f"; not in turns with the baseline of {evidence.baseline}: ± {100 * DRIFT:.0f} % for that"
    if ratio.low is None or ratio.high is None:
        return Gate(name, "undecided", f"{text}; too few rounds for an interval", value, limit, None, "%")
    low, high = sorted(_loss(bound, smallest=smallest) for bound in (ratio.low, ratio.high))
    return Gate(name, _status(low, high, limit), text, value, limit, (low, high), "%")


def _ratio(evidence: Evidence, batch: int) -> Interval:
    """Above 1: the new one is faster. That of a baseline is of unpaired turns, and wider by :data:`DRIFT`."""
    found = evidence.new.speeds[batch].ratio
    if found is not None and not evidence.baseline:
        return found
    ratio = speed_ratio(evidence.old.speeds[batch].timing, evidence.new.speeds[batch].timing)
    if not evidence.baseline or ratio.low is None or ratio.high is None:
        return ratio
    return Interval(ratio.value, ratio.low / (1 + DRIFT), ratio.high * (1 + DRIFT))


def _loss(ratio: float, *, smallest: bool) -> float:
    """Per cent: more time a run, or fewer images a second."""
    return 100 * (1 / ratio - 1 if smallest else 1 - ratio)


def _words(value: float, *, smallest: bool) -> str:
    less, more = ("less time", "more time") if smallest else ("more", "fewer")
    return f"{abs(value):.1f} % {more if value > 0 else less}"


def _status(low: float, high: float, limit: float) -> Status:
    if low > limit:
        return "failed"
    return "passed" if high <= limit else "undecided"
