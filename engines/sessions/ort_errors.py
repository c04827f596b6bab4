"""ONNX Runtime's exceptions in words that say what is wrong with the file."""

import re
from pathlib import Path
from typing import Literal, overload

from engines.errors import GraphError

# An error can hold another: what comes after the last code is the cause.
_CODE = re.compile(r"^.*\[ONNXRuntimeError\] : \d+ : \w+ : ")
_LOAD = re.compile(r"^Load model from .*? failed:")
# "/src/graph/model.cc:256 onnxruntime::Model::Model(args) Reason": the reason begins after the signature.
_SOURCE = re.compile(r"(?:/\S+/)?[\w.]+\.(?:h|cc):\d+ (?:.*\) (?=[A-Z])|\w+ )")
_OPSET = re.compile(r"opset (\d+) is under development.*?till opset (\d+)", re.IGNORECASE | re.DOTALL)
_IR = re.compile(r"Unsupported model IR version: (\d+), max supported IR version: (\d+)")
_MISSING_DATA = re.compile(r'External data path does not exist: "?([^"]+)"?')


def one_line(error: Exception) -> str:
    """The reason in ``error`` without the library's error code, source file and signature."""
    text = " ".join(str(error).split())
    text = _LOAD.sub("", _CODE.sub("", text)).strip()
    return _SOURCE.sub("", text, count=1).strip() or type(error).__name__


@overload
def graph_error(path: Path, version: str, error: Exception) -> GraphError: ...
@overload
def graph_error(path: Path, version: str, error: Exception, *, only_certain: Literal[True]) -> GraphError | None: ...
def graph_error(  # noqa: PLR0911 - one return a kind of damage
    path: Path, version: str, error: Exception, *, only_certain: bool = False
) -> GraphError | None:
    """What ``error``, raised while ``path`` was loaded, says about the graph.

    Args:
        path: the graph's file.
        version: of ONNX Runtime.
        error: its exception.
        only_certain: answer None where the fault may be the device's instead of the graph's.
    """
    text, kind = " ".join(str(error).split()), type(error).__name__
    if kind == "InvalidProtobuf" or "No graph was found in the protobuf" in text:
        size = path.stat().st_size
        what = "is empty" if size == 0 else "is truncated, or is not an ONNX graph at all"
        return GraphError(f"'{path}' {what} ({size} bytes)", "export or copy the graph again")
    if match := _MISSING_DATA.search(text):
        missing = Path(match[1]).name
        return GraphError(
            f"'{path}' keeps its weights in '{missing}', which is not beside it", f"copy '{missing}' to {path.parent}"
        )
    if match := _OPSET.search(text):
        return GraphError(
            f"'{path}' is of opset {match[1]}; ONNX Runtime {version} knows opsets up to {match[2]}",
            "export with a lower --opset, or install a newer ONNX Runtime",
        )
    if match := _IR.search(text):
        return GraphError(
            f"'{path}' is of IR version {match[1]}; ONNX Runtime {version} reads up to {match[2]}",
            "export with an older onnx, or install a newer ONNX Runtime",
        )
    if "external data" in text.lower() or "External initializer" in text:
        return GraphError(
            f"the external data of '{path}' can't be used: {one_line(error)}", "copy the graph and its data again"
        )
    if only_certain and kind not in {"InvalidGraph", "InvalidArgument"}:
        return None
    return GraphError(
        f"ONNX Runtime {version} can't load '{path}': {one_line(error)}",
        "check it with onnx.checker, or export it again with `toolkit export`",
    )
