"""A model whose answer tells its question and which of its versions gave it, and a session that can be killed."""

import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from engines.errors import RunError
from engines.sessions.onnxruntime import OnnxRuntimeSession

WIDTH = 4
"""Numbers in a row of the input; each is less than 2**20, so that sums are exact in float32."""
DELAY_VARIABLE = "SOAK_DELAY"


def write_model(path: Path, version: int) -> None:
    """``echo`` is the input ``x`` [batch, 4], ``sum`` its rows' sums [batch, 1], ``version`` a constant [batch, 1].

    The file is replaced at once, as whoever ships a new version should do.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    constants = {"one": [1.0], "axis": [1], "zero": [0.0], "number": [float(version)]}
    initializers = [
        numpy_helper.from_array(np.array(values, np.int64 if name == "axis" else np.float32), name)
        for name, values in constants.items()
    ]
    nodes = [
        helper.make_node("Mul", ["x", "one"], ["echo"]),
        helper.make_node("ReduceSum", ["x", "axis"], ["sum"], keepdims=1),
        helper.make_node("Mul", ["sum", "zero"], ["nothing"]),
        helper.make_node("Add", ["nothing", "number"], ["version"]),
    ]
    widths = {"echo": WIDTH, "sum": 1, "version": 1}
    outputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", w]) for n, w in widths.items()]
    taken = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", WIDTH])
    graph = helper.make_graph(nodes, "soak", [taken], outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    fresh = path.with_suffix(".new")
    onnx.save(model, fresh)
    fresh.replace(path)


class Mortal(OnnxRuntimeSession):
    """ONNX Runtime's, until :meth:`condemn` is called: then the next session at work that runs is dead from there on.

    A run takes a little longer than the graph needs, so that requests meet in batches and deadlines pass.
    """

    _condemned = 0
    _tried = _dead = False

    @classmethod
    def condemn(cls, *_: object) -> None:
        cls._condemned += 1

    def _run(self, feeds: Mapping[str, Any], batch: int) -> dict[str, Any]:
        if Mortal._condemned and self._tried and not self._dead:
            Mortal._condemned -= 1
            self._dead = True
        if self._dead:
            raise RunError("the session was killed", "open it again")
        time.sleep(float(os.environ.get(DELAY_VARIABLE, "0")))
        self._tried = True  # the first run is of zeros, when it is opened
        return super()._run(feeds, batch)


def listen_for_death() -> None:
    """Let SIGUSR1 kill a session."""
    signal.signal(signal.SIGUSR1, Mortal.condemn)
