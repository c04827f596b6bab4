"""Arrays of every type that the protocol has."""

import ml_dtypes
import numpy as np

TYPES = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
    "BF16": ml_dtypes.bfloat16,
    "BYTES": np.object_,
}


def example(datatype, shape=(2, 3)):
    """Values that include the type's ends."""
    count = int(np.prod(shape))
    if datatype == "BYTES":
        words = [b"", b"a", "grün".encode(), b"x" * 300]
        return np.array([words[i % len(words)] for i in range(count)], object).reshape(shape)
    dtype = np.dtype(TYPES[datatype])
    if datatype == "BOOL":
        return (np.arange(count) % 2 == 0).reshape(shape)
    if dtype.kind in "iu":
        bounds = np.iinfo(dtype)
        return np.resize(np.array([bounds.min, bounds.max, 0, 1, 2, 3], dtype), shape)
    return np.random.default_rng(0).standard_normal(shape).astype(dtype)


def same(a, b):
    """Equal in type, shape and every element, to the bit."""
    assert a.dtype == b.dtype
    assert a.shape == b.shape
    assert a.tolist() == b.tolist()
