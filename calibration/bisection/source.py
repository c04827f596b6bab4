"""What computes the graphs of a bisection: ONNX Runtime as written, or another backend's session."""

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from calibration.as_written import AsWritten
from calibration.bisection.light import LightGraph, write_light
from calibration.bisection.sides import Side
from engines.progress import Progress
from export.onnxlib import onnx
from export.structure import remove_unused, skeleton, unique

FEATURE = "Bisecting two graphs"


class Runner(Protocol):
    """A graph that was opened to be run."""

    def run(self, outputs: Sequence[str], feeds: Mapping[str, Any]) -> Sequence[NDArray[Any]]:
        """Run one batch.

        Args:
            outputs: all of the graph's outputs, in its order.
            feeds: an array for each of the graph's inputs, in its order. Both may go by their place where a backend
                calls tensors otherwise than the graph does.

        Raises:
            ToolkitError: it failed.
        """


@dataclass(frozen=True)
class Backend:
    """Another backend that runs the second graph, and the graphs that are made from it to look into it.

    Attributes:
        name: what results call it: "openvino".
        open: opens a graph's file, with its tensors marked as outputs.
        whole: opens the second graph as it is, or the engine that was built from it, and gives the logits.
        tf32: whether it may multiply float32 in TF32.
    """

    name: str
    open: Callable[[Path], AbstractContextManager[Runner]]
    whole: Callable[[], AbstractContextManager[Runner]]
    tf32: bool = False


@contextlib.contextmanager
def opened(graph: LightGraph, backend: Backend | None, folder: Path, threads: int | None) -> Iterator[Runner]:
    """Open a graph in a backend; None is ONNX Runtime, which computes it as it is written.

    Args:
        graph: what to run.
        backend: where.
        folder: for the files that a backend needs; they are gone when the graph is closed.
        threads: of ONNX Runtime; all cores unless given.

    Raises:
        ToolkitError: the backend can't run it.
    """
    if backend is None:
        yield AsWritten(graph.model, FEATURE, threads, graph.used())
        return
    path = folder / "marked.onnx"
    try:
        write_light(graph, path)
        with backend.open(path) as runner:
            yield runner
    finally:
        for file in (path, path.with_name(f"{path.name}.data")):
            file.unlink(missing_ok=True)


@contextlib.contextmanager
def task(progress: Progress, name: str) -> Iterator[None]:
    """A task of going through images; it ends however the block does."""
    progress.begin(name, None, "images")
    try:
        yield
    finally:
        progress.end()


class Source(Protocol):
    """Something that computes a network and tells what its tensors hold."""

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
        threads: of ONNX Runtime; all cores unless given.

    Raises:
        GraphError: ONNX Runtime can't run it.
    """

    def __init__(self, side: Side, tensors: Collection[str], threads: int | None = None) -> None:
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
        self._session = AsWritten(model, FEATURE, threads, LightGraph(model, side.arrays).used())

    def values(self, batch: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """What the tensors hold for one batch, by name, as float32.

        Raises:
            RunError: ONNX Runtime failed.
        """
        found = self._session.run(list(self._names.values()), {self._side.input: batch})
        return dict(zip(self._names, (np.asarray(item) for item in found), strict=True))
