"""Where a graph's inner values come from."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from calibration.as_written import AsWritten
from calibration.bisection.sides import Side
from export.graph import save_graph
from export.onnxlib import onnx
from export.structure import remove_unused, skeleton, unique

FEATURE = "Bisecting two graphs"


class Source(Protocol):
    """Something that computes a network and tells what its tensors hold.

    An engine whose tensors were marked as outputs is one; so is a graph in ONNX Runtime.
    """

    def values(self, batch: NDArray[Any]) -> Mapping[str, NDArray[Any]]:
        """What the tensors hold for one batch, by name, as float32.

        Raises:
            RunError: it failed.
        """


class GraphSource:
    """A graph in ONNX Runtime, computed as it is written.

    Args:
        side: the graph.
        tensors: which values to give; the graph's first output is given too.
        folder: where the graph is written.
        threads: of ONNX Runtime; all cores unless given.

    Raises:
        GraphError: ONNX Runtime can't run it.
    """

    def __init__(self, side: Side, tensors: Collection[str], folder: Path, threads: int | None = None) -> None:
        self._side = side
        model = skeleton(side.model)
        model.graph.initializer.extend(side.model.graph.initializer)
        taken = {name for node in model.graph.node for name in (*node.input, *node.output)}
        self._names: dict[str, str] = {}
        for tensor in dict.fromkeys((*tensors, side.output)):
            if tensor == side.input:
                continue
            self._names[tensor] = name = unique(f"{tensor}/out", taken)
            model.graph.node.append(onnx.helper.make_node("Cast", [tensor], [name], name, to=onnx.TensorProto.FLOAT))
        del model.graph.output[:], model.graph.value_info[:]
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in self._names.values())
        remove_unused(model.graph)
        path = folder / "source.onnx"
        save_graph(model, path)
        del model
        self._session = AsWritten(path, FEATURE, threads)

    def values(self, batch: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """What the tensors hold for one batch, by name, as float32.

        Raises:
            RunError: ONNX Runtime failed.
        """
        found = self._session.run(list(self._names.values()), {self._side.input: batch})
        return dict(zip(self._names, (np.asarray(item) for item in found), strict=True))
