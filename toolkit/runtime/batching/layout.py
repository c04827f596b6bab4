"""What one sample is to an engine: requests are checked against it, and batches laid out by it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from engines.errors import InputError, RunError, UnsupportedError
from engines.sessions.base import Session
from engines.sessions.slots import numpy_type
from engines.tensors import Array, TensorSpec
from toolkit.runtime.batching.answer import Answer, Result


@dataclass(frozen=True)
class Sample:
    """One input's part in a sample.

    Attributes:
        name: the input's name.
        dtype: its type.
        shape: without the batch.
    """

    name: str
    dtype: "np.dtype[Any]"
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.dtype.name} {list(self.shape)}"


@dataclass(frozen=True)
class Layout:
    """An engine's inputs and outputs with the batch taken off.

    Attributes:
        samples: of every input, in the engine's order.
        outputs: their names, in the engine's order.
    """

    samples: tuple[Sample, ...]
    outputs: tuple[str, ...]

    def accept(self, given: Any, max_batch: int) -> tuple[tuple[Array, ...], int, bool]:
        """Check a request.

        Args:
            given: an array for the only input, or a mapping of input to array; every array is one sample without
                the batch axis, or every one has it.
            max_batch: samples that it may have.

        Returns:
            Its arrays in the engine's order, views of what was given, those of a single sample without the batch
            axis; how many samples there are; and whether the batch axis was missing.

        Raises:
            InputError: it doesn't fit.
        """
        first = self.samples[0]
        if type(given) is np.ndarray and len(self.samples) == 1:
            # The usual case, by itself because it costs half.
            if given.shape == first.shape and given.dtype is first.dtype:
                return (given,), 1, True
            arrays: tuple[Any, ...] = (given,)
        else:
            arrays = self._of_inputs(given)
        count: int | None = None
        for at, (array, sample) in enumerate(zip(arrays, self.samples, strict=True)):
            # A type's name takes longer to tell than all the rest here.
            if not isinstance(array, np.ndarray) or (
                array.dtype is not sample.dtype and array.dtype.name != sample.dtype.name
            ):
                found = array.dtype.name if isinstance(array, np.ndarray) else type(array).__name__
                raise InputError(f"input {sample.name} is {found}, not {sample.dtype.name}", f"give {sample}")
            several = array.ndim == len(sample.shape) + 1
            if array.shape[several:] != sample.shape:
                raise InputError(
                    f"input {sample.name} has shape {list(array.shape)}",
                    f"give one sample, {sample}, or several with the batch before that",
                )
            have = int(array.shape[0]) if several else 0
            if at and have != count:
                raise InputError(
                    f"input {sample.name} has {_samples(have)}, input {first.name} {_samples(count or 0)}",
                    "give every input the same samples",
                )
            if several and not 1 <= have <= max_batch:
                raise InputError(
                    f"input {sample.name} has {have} samples",
                    f"give 1 to {max_batch} in one request",
                )
            count = have
        # Subclasses of arrays may have ways of their own to be copied.
        plain = tuple(map(np.asarray, arrays))
        if count == 1:
            return tuple(array[0, ...] for array in plain), 1, False
        return plain, count or 1, not count

    def share(self, outputs: Mapping[str, Array], batch: Sequence[Answer], size: int) -> list[Result]:
        """Each request's part of a batch's outputs, copied once and as a whole.

        Args:
            outputs: by name, [size, ...].
            batch: what was run.
            size: samples that were run, with those that only filled a fixed batch.

        Raises:
            RunError: an output isn't an answer a sample.
        """
        owned = {}
        for name in self.outputs:
            if outputs[name].shape[:1] != (size,):
                raise RunError(
                    f"the output '{name}' has shape {list(outputs[name].shape)} for a batch of {size}",
                    "only engines with one answer a sample can be batched",
                )
            owned[name] = outputs[name].copy()
        if all(answer.single for answer in batch) and all(array.ndim > 1 for array in owned.values()):
            if len(owned) == 1:
                ((name, array),) = owned.items()
                return [{name: row} for row in array[: len(batch)]]
            rows = zip(*(array[: len(batch)] for array in owned.values()), strict=True)
            return [dict(zip(self.outputs, row, strict=True)) for row in rows]
        results, at = [], 0
        for answer in batch:
            part: Any = (at, ...) if answer.single else slice(at, at + answer.count)
            results.append({name: array[part] for name, array in owned.items()})
            at += answer.count
        return results

    def _of_inputs(self, given: Any) -> tuple[Any, ...]:
        names = [sample.name for sample in self.samples]
        if not isinstance(given, Mapping):
            if len(names) == 1:
                return (given,)
            raise InputError(
                f"one value for {len(names)} inputs", f"give a mapping of input to array: {self._takes()}"
            )
        if missing := sorted(set(names) - given.keys()):
            raise InputError(f"no value for input {', '.join(missing)}", f"inputs are {self._takes()}")
        if unknown := sorted(map(str, given.keys() - set(names))):
            raise InputError(f"unknown input {', '.join(unknown)}", f"inputs are {self._takes()}")
        return tuple(given[name] for name in names)

    def _takes(self) -> str:
        return "; ".join(f"{sample.name}: {sample}" for sample in self.samples)


def layout_of(session: Session) -> tuple[Layout, int | None]:
    """A session's layout, and the batch size that it is fixed to; None where it takes several.

    Raises:
        UnsupportedError: an input or output has no batch, or an input varies in more than its batch.
    """
    specs = (*session.inputs, *session.outputs)
    if not session.inputs:
        raise UnsupportedError("the engine has no inputs", "only engines with inputs can be batched")
    size = session.inputs[0].shape[0] if session.inputs[0].shape else 1
    for spec in specs:
        own = spec.shape[0] if spec.shape else "nothing"
        # Libraries name a free dimension of an output as they like.
        fits = own == size or (spec in session.outputs and isinstance(size, str) and isinstance(own, str))
        if not spec.shape or not fits:
            raise UnsupportedError(
                f"'{spec.name}' is {spec}: its first dimension isn't the batch",
                "only engines with one value a sample in every input and output can be batched",
            )
    samples = tuple(Sample(spec.name, numpy_type(spec), _fixed(spec)) for spec in session.inputs)
    layout = Layout(samples, tuple(spec.name for spec in session.outputs))
    return layout, size if isinstance(size, int) else None


def _fixed(spec: TensorSpec) -> tuple[int, ...]:
    if free := [size for size in spec.shape[1:] if isinstance(size, str)]:
        raise UnsupportedError(
            f"the input '{spec.name}' varies in '{free[0]}', not only in its batch",
            "export the graph with the batch as its only free dimension",
        )
    return tuple(int(size) for size in spec.shape[1:])


def _samples(count: int) -> str:
    return f"{count} samples" if count else "one sample without the batch axis"
