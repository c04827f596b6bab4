"""One batch of samples as a graph takes it: an array for its only input, or an array an input."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from numpy.typing import NDArray

from engines.errors import InputError
from engines.tensors import TensorSpec, check_feeds


@dataclass(frozen=True, eq=False)
class TensorBatch:
    """A batch for a graph with inputs of any names; its length is the number of samples, as that of an array.

    Attributes:
        arrays: by input, [N, ...] each.
    """

    arrays: Mapping[str, NDArray[Any]]

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))


Batch: TypeAlias = NDArray[Any] | TensorBatch


def feeds_of(specs: Sequence[TensorSpec], batch: Batch) -> dict[str, NDArray[Any]]:
    """What a session of a graph with these inputs is fed.

    Raises:
        InputError: the batch doesn't fit them.
    """
    if isinstance(batch, TensorBatch):
        feeds = dict(batch.arrays)
    elif len(specs) == 1:
        feeds = {specs[0].name: batch}
    else:
        raise InputError(
            f"the graph has {len(specs)} inputs: {'; '.join(map(str, specs))}", "give an array an input, by name"
        )
    check_feeds(specs, feeds)
    return feeds


def arrays_of(batch: Batch) -> tuple[NDArray[Any], ...]:
    """The arrays of a batch."""
    return tuple(batch.arrays.values()) if isinstance(batch, TensorBatch) else (batch,)
