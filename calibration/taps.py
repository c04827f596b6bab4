"""A graph with the tensors to be measured as its outputs, and what a batch tells at once about their channels."""

import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration.answer import Answer
from calibration.feeds import Batch, feeds_of
from calibration.histogram import not_finite
from calibration.light import lighten
from calibration.ranges import Ranges, refuse_typed
from calibration.rename import names_of
from engines.errors import GraphError, InputError
from engines.optional import require
from engines.sessions.onnxruntime import OnnxRuntimeSession
from export.digests import constant_digests
from export.graph import inputs, read_metadata, weights_digest
from export.light import SplitGraph, load_light
from export.onnxlib import onnx
from export.structure import remove_unused


class TappedGraph:
    """A graph loaded into ONNX Runtime with the tensors to be measured as its outputs.

    Its weights are arrays that ONNX Runtime takes where they lie: nothing is written, and nothing parsed again. While
    ONNX Runtime brings them into its own order, which one thread does, the others digest them.
    Between runs its threads leave the processor to those that count.

    Args:
        graph: the FP32 master graph; a loaded one is held by the caller too.
        loaded: what the file ``graph`` holds, where the caller has it in memory anyway; it isn't changed.
        threads: of ONNX Runtime; all cores unless given.
        device: "cpu"; "cuda" or "cuda:1", which fails unless every node runs there; "auto" takes CUDA where the
            installed ONNX Runtime really loads its CUDA provider, else the CPU. ``info`` says which it was.

    Attributes:
        arrays: the graph's large weights by name; none once it is closed.
        inputs: the graph's inputs; those of integers are fed and not measured.
        answer: the outputs that its quantisation is judged on.
        groups: the tensors to be measured, by name.
        weights: the digest of the graph's weights.
        names: what identifies tensors and nodes whatever they are called.
        metadata: what travels with the model; None in a foreign graph.
        info: where it runs, as ONNX Runtime says.

    Raises:
        InputError: the file can't be read, or an option makes no sense.
        GraphError: the graph can't be run, is quantised already, or has nothing to calibrate.
        UnsupportedError: CUDA was asked for and can't run all of the graph.
        MissingLibraryError: ONNX Runtime isn't installed.
    """

    def __init__(
        self,
        graph: onnx.ModelProto | SplitGraph | Path | str,
        *,
        loaded: SplitGraph | None = None,
        threads: int | None = None,
        device: str = "cpu",
    ) -> None:
        require("onnxruntime", "Calibrating", "onnxruntime")
        name = f"'{graph}'" if isinstance(graph, Path | str) else "the graph"
        if isinstance(graph, Path | str):
            graph = load_light(graph) if loaded is None else loaded
        model, self.arrays = lighten(graph)
        del graph, loaded  # its weights make room for those that ONNX Runtime holds in another order
        self.inputs = inputs(model)
        refuse_typed(model, name)
        self.groups = Ranges(model).wanted()
        if not self.groups:
            raise GraphError(f"{name} has no convolution or matrix product to calibrate", "give a classifier's graph")
        self.metadata = read_metadata(model)
        taps = dict.fromkeys(group.tap for group in self.groups.values())
        given = {spec.name for spec in self.inputs}
        self._taps = [tap for tap in taps if tap not in given]
        self.answer = Answer.of(model)
        tapped = _with_outputs(model, list(dict.fromkeys([*self._taps, *self.answer.names])))
        with (
            tempfile.TemporaryDirectory(prefix="calibrate-") as folder,
            ThreadPoolExecutor(1, "digesting") as pool,
        ):
            found = pool.submit(constant_digests, model, self.arrays)
            path = Path(folder) / "tapped.onnx"
            path.write_bytes(tapped.SerializeToString())
            weights = {
                item.name: self.arrays[item.name] for item in tapped.graph.initializer if item.name in self.arrays
            }
            try:
                self._session = OnnxRuntimeSession(
                    path, device=device, threads=threads, spin="running", weights=weights
                )
            except GraphError as error:
                raise GraphError(error.cause.replace(f"'{path}'", name), "check it with `toolkit verify`") from error
            digests = found.result()
        self.weights = weights_digest(model, digests)
        self.names = names_of(model, digests)
        self.info = self._session.info

    def close(self) -> None:
        """Free the weights; it runs no more."""
        self._session.close()
        self.arrays = {}

    def answers(self, batch: Batch) -> NDArray[np.float32]:
        """What the graph makes of one batch, a row a sample (:mod:`calibration.answer`).

        Raises:
            InputError: the batch doesn't fit the graph's inputs.
            RunError: ONNX Runtime failed.
        """
        return np.array(self.answer.rows(self._session.run(feeds_of(self.inputs, batch))), np.float32)

    def run(self, batch: Batch) -> dict[str, NDArray[Any]]:
        """What the measured tensors hold for one batch, by group name; arrays of ONNX Runtime's memory, not copies.

        Raises:
            InputError: the batch doesn't fit the graph's inputs.
            RunError: ONNX Runtime failed.
        """
        feeds = feeds_of(self.inputs, batch)
        found = self._session.run(feeds) | feeds if self._taps else feeds
        return {name: found[group.tap] for name, group in self.groups.items()}


def channel_maxima(graph: TappedGraph, batch: Batch, groups: Iterable[str]) -> dict[str, NDArray[np.float32]]:
    """The largest magnitude in each channel of some tensors, over one batch.

    Args:
        graph: the graph.
        batch: what it takes.
        groups: names of groups; what is measured is each one's tap.

    Returns:
        float32 [channels] by group, where channels are the tap's axis 1; one number where it has only one axis.

    Raises:
        InputError: a group isn't measured in this graph, or the batch doesn't fit the graph's input.
        GraphError: the graph can't be run, or its activations become NaN or infinite.
    """
    names = list(groups)
    if unknown := [name for name in names if name not in graph.groups]:
        raise InputError(f"'{unknown[0]}' isn't measured in this graph", f"these are: {', '.join(graph.groups)}")
    found = graph.run(batch)
    result = {}
    for name in names:
        values = found[name]
        values = values.reshape(len(values), values.shape[1] if values.ndim > 1 else 1, -1)
        # Over the last axis first: there values lie beside each other.
        low, high = values.min(2).min(0), values.max(2).max(0)
        maxima = np.maximum(-low, high)
        if not np.isfinite(maxima).all():
            raise not_finite(name, float(maxima.max()))
        result[name] = maxima
    return result


def _with_outputs(model: onnx.ModelProto, outputs: Iterable[str]) -> onnx.ModelProto:
    """A copy with these outputs in place of its own, and without what they don't need."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.output[:]
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs)
    remove_unused(copy.graph)
    return copy
