"""Every gate's verdict on the answers, the file and the memory."""

from collections.abc import Callable, Mapping

from toolkit.comparison import figures
from toolkit.comparison.accuracy.accuracy import Against, Share
from toolkit.gate.contract import precision_gate, tensors_gate
from toolkit.gate.evidence import Evidence
from toolkit.gate.limits import Limits
from toolkit.gate.result import Gate, Status, amount
from toolkit.gate.speed import latency_gate, throughput_gate

_FAILED_FIRST = "the new one failed before it had answered"


def judge(evidence: Evidence, limits: Limits, gates: tuple[str, ...]) -> tuple[Gate, ...]:
    """The verdicts of ``gates``, in their order; where the new one failed "run" is among them, chosen or not."""
    if evidence.failure is not None and "run" not in gates:
        gates = ("run", *gates)  # the others are skipped then, and nothing else would stop it
    return tuple(_JUDGES[name](evidence, limits) for name in gates)


def _run(evidence: Evidence, limits: Limits) -> Gate:
    if evidence.failure is not None:
        remedy = evidence.failure.remedy
        return Gate("run", "failed", evidence.failure.cause, details=(remedy,) if remedy else ())
    return Gate("run", "passed", "it opens and answers")


def _tensors(evidence: Evidence, limits: Limits) -> Gate:
    old, new = evidence.old, evidence.new
    return tensors_gate(old.opened, new.opened, evidence.old_model, evidence.new_model)


def _precision(evidence: Evidence, limits: Limits) -> Gate:
    return precision_gate(evidence.old.layers, evidence.new.layers, limits)


def _non_finite(evidence: Evidence, limits: Limits) -> Gate:
    answered = evidence.answered
    if answered.new is None:
        return Gate("non-finite", "skipped", _FAILED_FIRST)
    count, limit = answered.broken, limits.max_non_finite
    both = answered.new.non_finite - count
    text = f"{amount(count, 'images')} got NaN or infinity"
    text += f"; {amount(both, 'images')} had it before" if both else ""
    status = _held(count > limit)
    return Gate("non-finite", status, text, float(count), float(limit), unit="images")


def _logits(evidence: Evidence, limits: Limits) -> Gate:
    if (reason := _incomparable(evidence)) is not None:
        return Gate("logits", "skipped", reason)
    distance = evidence.answered.distance
    return _in_floors("logits", "moved by", distance.rms if distance else None, evidence, limits.max_distance)


def _logits_shift(evidence: Evidence, limits: Limits) -> Gate:
    if (reason := _incomparable(evidence)) is not None:
        return Gate("logits-shift", "skipped", reason)
    shift = evidence.answered.shift
    return _in_floors("logits-shift", "moved one way by", shift.rms if shift else None, evidence, limits.max_shift)


def _incomparable(evidence: Evidence) -> str | None:
    """Why the logits of the two can't be held against each other."""
    answered = evidence.answered
    if answered.new is None:
        return _FAILED_FIRST
    if answered.distance is None:
        return "the two have other numbers of classes"
    if answered.distance.rms is None:
        return "there is no image on which both gave numbers"
    return evidence.other_weights()


def _in_floors(name: str, what: str, moved: float | None, evidence: Evidence, limit: float) -> Gate:
    """A movement in units of the old one's response to a disturbance."""
    distance, floor = evidence.answered.distance, evidence.answered.floor.rms
    if distance is not None and distance.rms == 0:
        return Gate(name, "passed", "the logits are equal to the last bit", 0.0, limit, unit="x")
    if moved is None:
        return Gate(name, "undecided", "there are too few images to tell", None, limit, unit="x")
    if not floor:
        text = f"{what} {moved:.3g}, and the old one doesn't respond to a disturbance: there is no measure for it"
        return Gate(name, "undecided", text, None, limit, unit="x")
    text = f"{what} {moved:.3g} rms; one step of every pixel moves them by {floor:.3g}"
    return Gate(name, _held(moved / floor > limit), text, moved / floor, limit, unit="x")


def _flips(evidence: Evidence, limits: Limits) -> Gate:
    against = _against(evidence)
    if isinstance(against, str):
        return Gate("flips", "skipped", against)
    new, limit = evidence.answered.new, limits.max_flips
    neither = new.non_finite - evidence.answered.broken if new else 0  # had no top-1 class, and has none
    flips = Share(against.flips.count - neither, against.flips.total)
    low, high = flips.interval
    text = f"{flips.count} of {amount(flips.total, 'images')} changed the top-1 class"
    status = _held(100 * flips.rate > limit)
    return Gate("flips", status, text, 100 * flips.rate, limit, (100 * low, 100 * high), "%")


def _confident_flips(evidence: Evidence, limits: Limits) -> Gate:
    against = _against(evidence)
    if isinstance(against, str):
        return Gate("confident-flips", "skipped", against)
    count, limit = against.confident, limits.max_confident_flips
    text = f"{amount(count, 'images')} flipped that the old one was sure of (margin above 0.5)"
    status = _held(count > limit)
    return Gate("confident-flips", status, text, float(count), float(limit), unit="images")


def _accuracy(evidence: Evidence, limits: Limits) -> Gate:
    """Failed only when it is proven: of a few hundred images that flip at random, two net lost are chance.

    Passed when no more was lost on these very images than the limit, though the interval of a small test split
    reaches beyond it: it would even for two copies of one file. Between the two it is undecided.
    """
    against = _against(evidence)
    old, new, limit = evidence.answered.old, evidence.answered.new, limits.max_drop
    if isinstance(against, str) or old is None or new is None:
        return Gate("accuracy", "skipped", against if isinstance(against, str) else _FAILED_FIRST)
    drop = 100 * against.drop.value
    low, high = (None if bound is None else 100 * bound for bound in (against.drop.low, against.drop.high))
    text = (
        f"top-1 {figures.percent(old.top1)} → {figures.percent(new.top1)}: "
        f"{amount(against.hurt, 'images')} lost, {against.helped} won"
    )
    interval = None if low is None or high is None else (low, high)
    if drop <= limit + 1e-9:
        return Gate("accuracy", "passed", text, drop, limit, interval, "points")
    if low is not None and low > limit:
        return Gate("accuracy", "failed", text, drop, limit, interval, "points")
    text += f"; {drop:.2f} points are over the limit of {limit:g}, and may be chance on so few images"
    return Gate("accuracy", "undecided", text, drop, limit, interval, "points")


def _size(evidence: Evidence, limits: Limits) -> Gate:
    old, new = evidence.old.size, evidence.new.size
    growth = 100 * (new / max(1, old) - 1)
    text = f"{figures.size(old)} → {figures.size(new)}"
    status = _held(growth > limits.max_growth)
    return Gate("size", status, text, growth, limits.max_growth, unit="%")


def _memory(evidence: Evidence, limits: Limits) -> Gate:
    """The worse of host and GPU."""
    if (reason := evidence.not_timed()) is not None:
        return Gate("memory", "skipped", reason)
    old, new = evidence.old, evidence.new
    pairs = {"host": (old.memory, new.memory), "GPU": (old.device_memory, new.device_memory)}
    known = {name: (was, now) for name, (was, now) in pairs.items() if was and now}
    if not known:
        return Gate("memory", "skipped", "the system doesn't tell how much either held")
    growths = {name: 100 * (now / was - 1) for name, (was, now) in known.items()}
    growth = max(growths.values())
    text = "; ".join(f"{name} {figures.size(was)} → {figures.size(now)}" for name, (was, now) in known.items())
    status = _held(growth > limits.max_memory_growth)
    return Gate("memory", status, text, growth, limits.max_memory_growth, unit="%")


def _against(evidence: Evidence) -> Against | str:
    """The answers against the old one's, or why there is no telling."""
    new = evidence.answered.new
    if new is None:
        return _FAILED_FIRST
    return new.against or "the two have other numbers of classes"


def _held(beyond: bool) -> Status:
    return "failed" if beyond else "passed"


_JUDGES: Mapping[str, Callable[[Evidence, Limits], Gate]] = {
    "run": _run,
    "tensors": _tensors,
    "precision": _precision,
    "non-finite": _non_finite,
    "logits": _logits,
    "logits-shift": _logits_shift,
    "flips": _flips,
    "confident-flips": _confident_flips,
    "accuracy": _accuracy,
    "latency": latency_gate,
    "throughput": throughput_gate,
    "size": _size,
    "memory": _memory,
}
