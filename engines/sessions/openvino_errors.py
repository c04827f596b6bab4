"""Graphs that OpenVINO can't take: what is looked at before it sees the file, and its exceptions in plain words."""

import mmap
import re
from pathlib import Path

from engines.errors import GraphError
from engines.sessions.ort_fp8 import fields

NEWEST_OPSET = 27
"""The newest opset of ONNX that OpenVINO 2026.4 was made for. It reads a newer graph by this one's rules, unsaid."""

_GRAPH, _OPSET_IMPORT = 7, 8  # fields of onnx.ModelProto
_DOMAIN, _VERSION = 1, 2  # fields of onnx.OperatorSetIdProto

_EXTERNAL = re.compile(r"externally stored data in file \((.+), offset: ")
_UNKNOWN = re.compile(r"No conversion rule found for operations: (.+)")
# Lines that say where in the library an exception passed, and headlines over its reason.
_FRAME = re.compile(r"Exception from |Loading input model$|Summary:$|Model wasn't fully converted\.")
_KIND = re.compile(r"FrontEnd API failed with \w+:\s*|While validating node '.*' with friendly_name '.*':\s*")
_CHECK = re.compile(r"Check '.*?' failed at \S+\s*", re.DOTALL)
_SOURCE = re.compile(r"\S+\.[ch]pp:\d+:?\s*")
_OPERATOR = re.compile(r"^-- .* with a message:$", re.MULTILINE)


def one_line(error: Exception) -> str:
    """The reason in ``error`` without the library's source files and frames; of several operators' the first."""
    if isinstance(error, UnicodeDecodeError):
        return "it holds a name that isn't text"
    text = str(error)
    if len(parts := _OPERATOR.split(text)) > 1:
        text = parts[1].partition("\n-- ")[0]
    lines = (line.strip().removeprefix("-- ") for line in _KIND.sub("", _CHECK.sub("", text)).splitlines())
    kept = " ".join(line for line in lines if line and not _FRAME.match(line))
    return _SOURCE.sub("", kept).strip() or type(error).__name__


def check_graph(path: Path, version: str) -> None:
    """Find what OpenVINO doesn't: a file that is no graph, and an opset that is newer than it.

    The file is mapped and its outermost fields are walked over.

    Args:
        path: a readable file.
        version: of OpenVINO.

    Raises:
        GraphError: it is one of these.
    """
    size = path.stat().st_size
    if size == 0:
        raise GraphError(f"'{path}' is empty (0 bytes)", "export or copy the graph again")
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            found = list(fields(data, 0, size))
            opsets = [_opset(data, start, end) for number, start, end in found if number == _OPSET_IMPORT and end]
    except (ValueError, IndexError) as error:
        raise _no_graph(path, size) from error
    if not any(number == _GRAPH and end is not None for number, _, end in found):
        raise _no_graph(path, size)
    if (opset := max(opsets, default=0)) > NEWEST_OPSET:
        raise GraphError(
            f"'{path}' is of opset {opset}; OpenVINO {version} is known to read opsets up to {NEWEST_OPSET}",
            "export with a lower --opset, or use --backend onnxruntime",
        )


def graph_error(path: Path, version: str, error: Exception) -> GraphError:
    """What ``error``, raised while ``path`` was converted or compiled, says about the graph."""
    text = str(error)
    if "Model can't be parsed" in text:
        return _no_graph(path, path.stat().st_size)
    if match := _EXTERNAL.search(text):
        name = Path(match[1]).name
        if not path.with_name(name).is_file():
            return GraphError(
                f"'{path}' keeps its weights in '{name}', which is not beside it", f"copy '{name}' to {path.parent}"
            )
        return GraphError(
            f"'{name}', the external data of '{path}', is cut short", "copy the graph and its data again"
        )
    if match := _UNKNOWN.search(text):
        return GraphError(
            f"OpenVINO {version} doesn't know the operators {match[1]} (name and opset) of '{path}'",
            "use --backend onnxruntime, or check the graph with onnx.checker",
        )
    return GraphError(
        f"OpenVINO {version} can't load '{path}': {one_line(error)}",
        "use --backend onnxruntime, or check the graph with onnx.checker",
    )


def _no_graph(path: Path, size: int) -> GraphError:
    return GraphError(
        f"'{path}' is truncated, or is not an ONNX graph at all ({size} bytes)", "export or copy the graph again"
    )


def _opset(data: mmap.mmap, start: int, end: int) -> int:
    """The version in an OperatorSetIdProto; 0 for another domain than ONNX's own."""
    version = 0
    for number, value, stop in fields(data, start, end):
        if number == _DOMAIN and stop is not None and data[value:stop] not in {b"", b"ai.onnx"}:
            return 0
        if number == _VERSION and stop is None:
            version = value
    return version
