"""The protocol's words for element types, and numpy's."""

from typing import Any

import numpy as np

from engines.errors import InputError, UnsupportedError
from engines.optional import require
from engines.tensors import TensorSpec
from toolkit.server.protocol.limits import short
from toolkit.server.protocol.messages import TensorMetadata

DType = np.dtype[Any]

NAMES = {
    "BOOL": "bool",
    "UINT8": "uint8",
    "UINT16": "uint16",
    "UINT32": "uint32",
    "UINT64": "uint64",
    "INT8": "int8",
    "INT16": "int16",
    "INT32": "int32",
    "INT64": "int64",
    "FP16": "float16",
    "FP32": "float32",
    "FP64": "float64",
    "BF16": "bfloat16",
    "BYTES": "object",
}
"""The protocol's name of each type and numpy's; numpy has "bfloat16" from the package ``ml_dtypes``."""

_OF = {theirs: ours for ours, theirs in NAMES.items()}
# The wire is little-endian whatever the machine is.
_TYPES: dict[str, DType] = {
    ours: np.dtype(theirs).newbyteorder("<") for ours, theirs in NAMES.items() if theirs != "bfloat16"
}


def numpy_type(datatype: object) -> DType:
    """The numpy type of one of the protocol's, little-endian; ``object`` for "BYTES".

    Raises:
        InputError: the protocol has no such type.
        MissingLibraryError: it is BF16 and ``ml_dtypes`` isn't installed.
    """
    if isinstance(datatype, str):
        found = _TYPES.get(datatype)
        if found is not None:
            return found
        if datatype == "BF16":
            return _TYPES.setdefault("BF16", np.dtype(require("ml_dtypes", "A BF16 tensor", "serve").bfloat16))
    raise InputError(f"there is no datatype {short(datatype)}", f"the datatypes are {', '.join(NAMES)}")


def of_dtype(name: str) -> str:
    """The protocol's name of a numpy type, which is given by its own name ("float32").

    Raises:
        UnsupportedError: the protocol has no such type.
    """
    try:
        return _OF[name]
    except KeyError:
        raise UnsupportedError(
            f"the inference protocol has no datatype for {name}", f"it has {', '.join(NAMES.values())}"
        ) from None


def of_spec(spec: TensorSpec) -> str:
    """The protocol's name of the type of an engine's tensor.

    Raises:
        UnsupportedError: the protocol has no such type.
    """
    return of_dtype(spec.dtype)


def metadata(spec: TensorSpec) -> TensorMetadata:
    """An engine's tensor as the protocol describes it: -1 for each dimension that varies.

    Raises:
        UnsupportedError: the protocol has no such type.
    """
    return TensorMetadata(
        spec.name, of_spec(spec), tuple(size if isinstance(size, int) else -1 for size in spec.shape)
    )
