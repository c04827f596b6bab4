"""Element types by the name that TensorRT and TensorRT for RTX give them."""

PLAN_DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "BF16": "bfloat16",
    "INT8": "int8",
    "UINT8": "uint8",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
}
"""numpy's name of an element type, by the member of the library's ``DataType``."""

UNFED_DTYPES = {"FP8": "float8_e4m3fn"}
"""Types that a tensor within an engine may have, but that no session feeds."""
