"""The embedded default: scikit-learn's 1,797 handwritten digits of 8×8 pixels."""

import importlib.util
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engines.optional import require
from toolkit.data.dataset import Dataset, PreprocessHint, Split, stratified_split

IMAGES = 1797


def open_digits(*, seed: int = 0) -> Dataset:
    """The digits with a seeded stratified split, 80 % train and 20 % test.

    Grey levels 0…16 become 0…255.

    Raises:
        MissingLibraryError: scikit-learn is not installed.
    """
    table = _table()
    images = np.rint(table[:, :64].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    labels = table[:, 64].astype(np.int64)
    names = tuple(str(digit) for digit in range(10))
    whole = Split(images, labels)
    train, test = stratified_split(labels, names, seed=seed)
    return Dataset("digits", names, whole.subset(train), whole.subset(test), PreprocessHint("stretch", 1, 8, 8))


def _table() -> NDArray[np.float64]:
    """64 grey levels and the digit of each image, float64 [1797, 65].

    scikit-learn takes a second or two to import, for a file that it brings: it is read without it where it is found.
    """
    found = importlib.util.find_spec("sklearn")
    for folder in (found.submodule_search_locations or ()) if found else ():
        path = Path(folder) / "datasets" / "data" / "digits.csv.gz"
        if path.is_file():
            table = np.loadtxt(path, delimiter=",")
            if table.shape == (IMAGES, 65):
                return table
    bunch = require("sklearn.datasets", "The embedded digits data set", "data").load_digits()
    return np.column_stack([bunch.data, bunch.target])
