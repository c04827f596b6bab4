"""What a caller relies on: names, shapes and types of the tensors, classes, preprocessing; and the layers' types."""

from collections.abc import Mapping, Sequence

from engines.metadata import ModelMetadata
from engines.tensors import TensorSpec
from toolkit.benchmarking.messages import Opened
from toolkit.comparison.layers import WIDTHS, Layers
from toolkit.gate.limits import Limits
from toolkit.gate.result import Gate, Status

_SHOWN = 3


def tensors_gate(
    old: Opened | None, new: Opened | None, old_model: ModelMetadata | None, new_model: ModelMetadata | None
) -> Gate:
    """Whether a caller of the old one can call the new one unchanged."""
    if old is None or new is None:
        return Gate("tensors", "skipped", "the tensors of one of the two aren't known")
    found = [
        *_tensors("input", old.inputs, new.inputs),
        *_tensors("output", old.outputs, new.outputs),
        *_batches(old, new),
        *_model(old_model, new_model),
    ]
    if found:
        return Gate("tensors", "failed", listed(found), float(len(found)), 0.0, unit="changes", details=tuple(found))
    return Gate(
        "tensors", "passed", "the same names, shapes, types, classes and preprocessing", 0.0, 0.0, None, "changes"
    )


def precision_gate(old: Layers | None, new: Layers | None, limits: Limits) -> Gate:
    """Whether convolutions and matrix products compute in a wider type than before."""
    if old is None or new is None:
        which = "either" if old is None and new is None else "the old one" if old is None else "the new one"
        return Gate("precision", "skipped", f"the layers' types of {which} aren't known")
    if not old.heavy or not new.heavy:
        same = old.precision == new.precision
        if same or _width(new.precision) < _width(old.precision):
            return Gate(
                "precision", "passed", f"{old.precision} → {new.precision} by the weights", 0.0, 0.0, None, "layers"
            )
        text = f"the weights were {old.precision} and are {new.precision}"
        return Gate("precision", "failed", text, 1.0, 0.0, None, "layers", (text,))
    shares = (
        f"{_shares(old.shares)} → {_shares(new.shares)}"
        if old.shares != new.shares
        else f"{_shares(new.shares)}, as before"
    )
    wider, names = _widened(old, new)
    unfused = [name for name in new.unfused if name not in old.unfused]
    text = f"{shares}; wider: {listed(names)}" if names else shares
    text += f"; quantised, but computed in float: {listed(unfused)}" if unfused else ""
    count, limit = float(wider + len(unfused)), float(limits.max_widened)
    status: Status = "failed" if count > limit else "passed"
    return Gate("precision", status, text, count, limit, unit="layers", details=(*names, *unfused))


def listed(found: Sequence[str]) -> str:
    """The first few, and how many more there are."""
    more = len(found) - _SHOWN
    return "; ".join(found[:_SHOWN]) + (f"; and {more} more" if more > 0 else "")


def _widened(old: Layers, new: Layers) -> tuple[int, list[str]]:
    """How many layers got wider, and the names of those that are wider than their engine's precision and weren't.

    Builders fuse and rename layers, so that the number comes from the shares: as many layers as more of
    the new one's lie above a type than of the old one's, for the type where that is the most.
    """
    most = 0.0
    for width in sorted(set(WIDTHS.values())):
        above = [sum(share for kind, share in one.shares.items() if _width(kind) > width) for one in (old, new)]
        most = max(most, above[1] - above[0])
    names = [name for name in new.float_layers if name not in old.float_layers]
    return max(round(most * new.heavy), 1 if most > 0 else 0), names if most > 0 else []


def _width(kind: str) -> int:
    return WIDTHS.get(kind, max(WIDTHS.values()) + 1)


def _shares(shares: Mapping[str, float]) -> str:
    return ", ".join(f"{100 * share:.0f} % {kind}" for kind, share in shares.items())


def _tensors(role: str, old: Sequence[TensorSpec], new: Sequence[TensorSpec]) -> list[str]:
    before, after = ({spec.name: spec for spec in specs} for specs in (old, new))
    found = [f"{role} '{name}' is gone" for name in before if name not in after]
    found += [f"{role} '{name}' is new" for name in after if name not in before]
    for name in before.keys() & after.keys():
        was, now = before[name], after[name]
        if was.dtype != now.dtype:
            found.append(f"{role} '{name}' was {was.dtype} and is {now.dtype}")
        if _shape(was) != _shape(now):
            found.append(f"{role} '{name}' was {list(was.shape)} and is {list(now.shape)}")
    return sorted(found)


def _shape(spec: TensorSpec) -> tuple[int | None, ...]:
    """Whatever a varying dimension is called, and a fixed batch is judged by what it refuses."""
    return tuple(size if isinstance(size, int) and number else None for number, size in enumerate(spec.shape))


def _batches(old: Opened, new: Opened) -> list[str]:
    """Batches that the old one takes and the new one refuses."""
    if new.fixed_batch is not None:
        if old.fixed_batch == new.fixed_batch:
            return []
        took = "any batch" if old.fixed_batch is None else f"batches of exactly {old.fixed_batch}"
        return [f"took {took} and takes batches of exactly {new.fixed_batch}"]
    was, now = old.fixed_batch or old.info.max_batch, new.info.max_batch
    if now is not None and (was is None or now < was):
        return [f"took batches {'of any size' if was is None else f'up to {was}'} and takes them up to {now}"]
    return []


def _model(old: ModelMetadata | None, new: ModelMetadata | None) -> list[str]:
    if old is None or new is None:
        return []
    found = []
    if old.labels != new.labels:
        found.append(_labels(old.labels, new.labels))
    if old.uint8_input != new.uint8_input:
        takes = {True: "raw pixels", False: "normalised values"}
        found.append(f"took {takes[old.uint8_input]} and takes {takes[new.uint8_input]}")
    was, now = old.preprocess.to_json(), new.preprocess.to_json()
    found += [
        f"preprocessing: {name} was {was.get(name)} and is {now.get(name)}"
        for name in sorted(was.keys() | now.keys())
        if was.get(name) != now.get(name)
    ]
    return found


def _labels(old: Sequence[str], new: Sequence[str]) -> str:
    if len(old) != len(new):
        return f"had {len(old)} classes and has {len(new)}"
    if set(old) == set(new):
        return "the same classes in another order"
    number = next(number for number, (was, now) in enumerate(zip(old, new, strict=True)) if was != now)
    return f"class {number} was '{old[number]}' and is '{new[number]}'"
