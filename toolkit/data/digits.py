"""The embedded default: scikit-learn's 1,797 handwritten digits of 8×8 pixels."""

import numpy as np

from engines.optional import require
from toolkit.data.dataset import Dataset, PreprocessHint, Split, stratified_split


def open_digits(*, seed: int = 0) -> Dataset:
    """The digits with a seeded stratified split, 80 % train and 20 % test.

    Grey levels 0…16 become 0…255.

    Raises:
        MissingLibraryError: scikit-learn is not installed.
    """
    datasets = require("sklearn.datasets", "The embedded digits data set", "data")
    bunch = datasets.load_digits()
    images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    labels = bunch.target.astype(np.int64)
    names = tuple(str(digit) for digit in range(10))
    whole = Split(images, labels)
    train, test = stratified_split(labels, names, seed=seed)
    return Dataset("digits", names, whole.subset(train), whole.subset(test), PreprocessHint("stretch", 1, 8, 8))
