"""The tensors that a quantised graph is measured on: others than its ranges were chosen on."""

from typing import TYPE_CHECKING

import numpy as np

from toolkit.building.pictures import FEW
from toolkit.data.tensors import TensorDataset, choose_samples

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from calibration.feeds import TensorBatch
    from calibration.table import CalibrationTable


def search_tensors(
    dataset: TensorDataset, table: "CalibrationTable", count: int, *, seed: int = 0, batch_size: int = 32
) -> "tuple[list[TensorBatch], NDArray[np.int64] | None, tuple[str, ...]]":
    """Samples of the train split that the table's ranges were not chosen on, told by the fingerprints in it.

    Args:
        dataset: the tensors.
        table: says what was calibrated on.
        count: how many; fewer where there are no more.
        seed: of the choice.
        batch_size: samples a batch.

    Returns:
        The batches, the samples' classes (None without labels), and a line for each thing that the user should know.
    """
    from calibration.feeds import TensorBatch
    from calibration.provenance import SHORT, fingerprint, unpack

    split, seen, notes = dataset.train, unpack(table.seen), list[str]()
    order = choose_samples(split, len(split), seed + 1)
    if seen:
        known = [
            fingerprint(*(array[index] for array in split.arrays.values()))[: 2 * SHORT] in seen for index in order
        ]
        fresh, others = order[~np.array(known)][:count], order[np.array(known)]
        if len(fresh) < min(FEW, count, len(split)):
            more = others[: min(count, len(split)) - len(fresh)]
            notes.append(
                f"only {len(fresh)} training samples are left that were not calibrated on: {len(more)} that were are "
                "measured on too"
            )
            fresh = np.concatenate([fresh, more])
    else:
        fresh = order[:count]
        notes.append("the table doesn't tell which samples it was calibrated on: some may be measured on again")
    labels = None if split.labels is None else split.labels[fresh]
    return [TensorBatch(feeds) for feeds in split.batches(batch_size, fresh)], labels, tuple(notes)
