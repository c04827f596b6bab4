"""ONNX Runtime computing a graph as it is written: no integer kernels in place of Q/DQ, of INT8 and FP8 alike."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engines.errors import GraphError, RunError
from engines.optional import require
from engines.sessions.onnxruntime import UNFAITHFUL
from engines.sessions.ort_fp8 import CONFIG, DISABLED

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from export.onnxlib import onnx

_REMEDY = "check it with `toolkit verify`"


class AsWritten:
    """A graph on the CPU. What it is fed is the caller's to check.

    Args:
        graph: its file, or the graph itself, below 2 GiB without ``weights``.
        feature: what the user asked for, if ONNX Runtime is missing.
        threads: of ONNX Runtime; all cores unless given.
        weights: arrays in place of the graph's external data; they are read where they lie.

    Raises:
        GraphError: ONNX Runtime can't run the graph.
        MissingLibraryError: ONNX Runtime isn't installed.
    """

    def __init__(
        self,
        graph: "Path | onnx.ModelProto",
        feature: str,
        threads: int | None = None,
        weights: "Mapping[str, NDArray[Any]] | None" = None,
    ) -> None:
        runtime = require("onnxruntime", feature, "onnxruntime")
        options = runtime.SessionOptions()
        options.log_severity_level = 4
        for key, value in CONFIG.items():
            options.add_session_config_entry(key, value)
        if threads:
            options.intra_op_num_threads = threads
        self._weights = {name: runtime.OrtValue.ortvalue_from_numpy(array) for name, array in (weights or {}).items()}
        try:
            if self._weights:
                options.add_external_initializers(list(self._weights), list(self._weights.values()))
            self._session: Any = runtime.InferenceSession(
                str(graph) if isinstance(graph, Path) else graph.SerializeToString(),
                options,
                providers=["CPUExecutionProvider"],
                enable_fallback=0,
                disabled_optimizers=[*UNFAITHFUL, *DISABLED],
            )
        except Exception as error:  # the runtime's own classes share no base but Exception
            raise GraphError(f"ONNX Runtime can't run the graph: {error}", _REMEDY) from error

    def run(self, outputs: Sequence[str] | None, feeds: Mapping[str, Any]) -> list[Any]:
        """The named outputs, or all.

        Raises:
            RunError: ONNX Runtime failed.
        """
        try:
            return list(self._session.run(outputs, feeds))
        except Exception as error:  # as above
            raise RunError(f"the graph failed on a batch: {error}", _REMEDY) from error
