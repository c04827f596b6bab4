"""Run graphs in ONNX Runtime: a file as it is, or one in memory, with its optimisations or without."""

import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from engines.errors import GraphError, UnsupportedError
from engines.optional import require
from export.graph import INLINE_LIMIT, save_graph, weight_bytes
from export.onnxlib import onnx

Arrays = Mapping[str, NDArray[Any]]

_NODE = re.compile(r"while running (?P<op>\w+) node\. Name:\s*'(?P<name>[^']*)'")


class Runner:
    """A graph in ONNX Runtime on the CPU; use it in a ``with`` statement.

    Args:
        graph: a file, or a graph in memory.
        optimised: with all of ONNX Runtime's optimisations, or with none.
        outputs: what to compute; all outputs unless given.

    Attributes:
        outputs: the names of what it computes.

    Raises:
        UnsupportedError: ONNX Runtime can't run it.
        MissingLibraryError: it isn't installed.
    """

    def __init__(
        self, graph: onnx.ModelProto | Path | str, *, optimised: bool = True, outputs: Sequence[str] | None = None
    ) -> None:
        runtime = require("onnxruntime", "Importing a graph", "onnxruntime")
        options = runtime.SessionOptions()
        level = runtime.GraphOptimizationLevel
        options.graph_optimization_level = level.ORT_ENABLE_ALL if optimised else level.ORT_DISABLE_ALL
        options.log_severity_level = 4
        with tempfile.TemporaryDirectory(prefix="import-") as folder:
            given: Any = str(graph)
            if isinstance(graph, onnx.ModelProto):
                if weight_bytes(graph) < INLINE_LIMIT:
                    given = graph.SerializeToString()
                else:
                    given = str(Path(folder, "graph.onnx"))
                    save_graph(graph, given)
            try:
                self._session = runtime.InferenceSession(given, options, providers=["CPUExecutionProvider"])
            except Exception as error:  # its classes have no common base
                raise UnsupportedError(
                    f"ONNX Runtime can't load the graph, so that nothing can be checked: {one_line(error)}",
                    "export it again with another opset or exporter",
                ) from error
        names = [item.name for item in self._session.get_outputs()]
        self.outputs = tuple(names if outputs is None else outputs)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del self._session

    def run(self, feeds: Arrays) -> dict[str, NDArray[Any]]:
        """What it computes of ``feeds``, by name.

        Raises:
            GraphError: it can't; the node is named where ONNX Runtime names it.
        """
        try:
            found = self._session.run(list(self.outputs), dict(feeds))
        except Exception as error:  # its classes have no common base
            text = one_line(error)
            match = _NODE.search(text)
            where = f"node '{match['name']}' ({match['op']})" if match else "ONNX Runtime"
            raise GraphError(f"{where} fails: {text[-300:]}", "export the model again") from error
        return {name: np.asarray(value) for name, value in zip(self.outputs, found, strict=True)}


def one_line(error: BaseException) -> str:
    """What a library says, in one line without its source files and codes."""
    text = " ".join(str(error).split())
    text = re.sub(r"\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text)
    return re.sub(r"/\S+\.(cc|h):\d+ \S+( \S+\(.*?\))? ?", "", text)
