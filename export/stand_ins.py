"""What a graph is checked by in place of itself: small constants stand for large ones that can't be wrong.

``onnx.checker`` looks at no value, but it is given all of the graph's bytes: of a gigabyte of weights it makes one
more copy in memory, and takes a second for that.
"""

from export.onnxlib import onnx
from export.raw_places import Places
from export.structure import LIGHT, skeleton, tensor_bytes

_OTHERS = ("float_data", "double_data", "int32_data", "int64_data", "uint64_data", "string_data")
"""Fields that hold values in place of ``raw_data``: a tensor has one of them all."""

_WHOLE_BYTES = frozenset(
    kind
    for name, kind in onnx.TensorProto.DataType.items()
    if name in {"FLOAT", "DOUBLE", "FLOAT16", "BFLOAT16", "BOOL", "FLOAT8E4M3FN", "FLOAT8E5M2"}
    or name in {f"{sign}INT{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64)}
)
"""Types of which a constant has a whole number of bytes, whatever its shape."""


def with_stand_ins(model: onnx.ModelProto, places: Places) -> onnx.ModelProto:
    """A copy in which every large initializer that is sound has one element; all else is the same.

    Sound means: enough raw bytes for its shape and no other values, inside the graph, of a type of whole bytes. That
    is all that the checker asks of an initializer beyond its name and its type, which its stand-in has.

    Args:
        model: the graph.
        places: where the raw bytes of its initializers lie in the file that it was read from.
    """
    copy = skeleton(model)
    for tensor in model.graph.initializer:
        start, end = places.get(tensor.name, (0, 0))
        kept = copy.graph.initializer.add()
        if end - start > LIGHT and is_sound(tensor, end - start):
            kept.name, kept.data_type, kept.doc_string = tensor.name, tensor.data_type, tensor.doc_string
            kept.dims.append(1)
            kept.raw_data = bytes(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)
        else:
            kept.CopyFrom(tensor)
    return copy


def is_sound(tensor: onnx.TensorProto, size: int) -> bool:
    """Whether a constant with so many raw bytes can't be wrong but in its name or its type."""
    return (
        tensor.data_type in _WHOLE_BYTES
        and tensor.data_location == onnx.TensorProto.DEFAULT
        and min(tensor.dims, default=1) > 0
        and tensor_bytes(tensor) <= size
        and not any(len(getattr(tensor, name)) for name in _OTHERS)
    )
