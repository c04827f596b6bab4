"""A quantised graph that answers questions: other ranges, other layers kept back, without writing weights again.

What TensorRT would compute is computed by ONNX Runtime in float32: every 8-bit value is rounded as in the graph
that ships, since that graph's own placement makes this one. Two things make a question cheap. Weights are quantised
once, and kept as float arrays that sessions share, so that the graph of a question is a few kilobytes.
The scales of activations are inputs with default values, so that other ranges need no other session.
"""

from collections import OrderedDict
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration.answer import Answer
from calibration.as_written import AsWritten
from calibration.equalise import equalise
from calibration.feeds import Batch, feeds_of
from calibration.folding import FoldingEditor, WeightStore
from calibration.qdq import place
from calibration.ranges import WEIGHTED, Ranges, refuse_typed
from calibration.table import CalibrationTable, check_table
from engines.errors import GraphError, InputError
from engines.optional import require
from export.digests import constant_digests
from export.graph import inputs, module_of, read_metadata, weights_digest
from export.light import NO_ARRAYS, Arrays, load_light
from export.onnxlib import onnx
from export.structure import initializers, label

_FEATURE = "Simulating a quantised graph"

_SESSIONS = 2
"""Sessions that stay loaded: that of the last question and the one before."""

Scales = dict[str, NDArray[np.float32]]


class Simulation:
    """The graph that ``quantise(model, table, "tensorrt", remainder="fp32")`` makes, to be asked variations of.

    It keeps the weights that were needed, plain and quantised, until it is closed or forgotten.

    Args:
        model: the FP32 master graph, or its path; it isn't changed, and must not be while this lives.
        table: the ranges, and what else decides how the graph is quantised. What it keeps back stays so.
        threads: of ONNX Runtime; all cores unless given.
        weights: the digest of the model's weights, where it is known.
        arrays: the values of the model's stubs (:mod:`export.light`).

    Attributes:
        layers: names of the nodes that are quantised and can be kept back, in graph order.
        groups: names of the tensors whose range matters, in graph order.
        table: as given.
        answer: the outputs that its rows are made of.

    Raises:
        TableError: the table was made from other weights or preprocessing, or lacks a tensor.
        GraphError: the graph can't be run, is quantised already, or has nothing to quantise.
        MissingLibraryError: ONNX Runtime isn't installed.
    """

    def __init__(
        self,
        model: onnx.ModelProto | Path | str,
        table: CalibrationTable,
        *,
        threads: int | None = None,
        weights: str | None = None,
        arrays: Arrays = NO_ARRAYS,
    ) -> None:
        require("onnxruntime", _FEATURE, "onnxruntime")
        if isinstance(model, Path | str):
            loaded = load_light(model)
            model, arrays = loaded.model, loaded.arrays
        refuse_typed(model)
        metadata = read_metadata(model)
        weights = weights or weights_digest(model, constant_digests(model, arrays))
        check_table(table, weights, metadata.preprocess_digest if metadata else None)
        self._inputs = inputs(model)
        self.answer = Answer.of(model)
        self._store = WeightStore(arrays)
        self._model = self._store.take(equalise(model, table.equalisation, arrays))
        del model
        self.table = table
        self._threads = threads
        self._sessions: OrderedDict[frozenset[str], AsWritten] = OrderedDict()
        self._scales: tuple[object, Scales] = (None, {})
        ranges = Ranges(self._model)
        self._nodes = {label(node): node for node in self._model.graph.node}
        placed = self._place(frozenset(table.keep), table)
        stored = {node.output[0]: ranges.root(node.input[0]) for node in _quantizers(placed)}
        self.groups = tuple(dict.fromkeys(stored.values()))
        read = {
            node.output[0]: stored[node.input[0]] for node in placed.graph.node if node.op_type == "DequantizeLinear"
        }
        self._reads = {
            node.name: frozenset(read[name] for name in node.input if name in read)
            for node in placed.graph.node
            if node.op_type in WEIGHTED and node.name in self._nodes and node.input[0] in read
        }
        self.layers = tuple(self._reads)
        if not self.layers:
            raise GraphError("no convolution or matrix product of the graph is quantised", "keep fewer layers back")

    def run(
        self,
        batch: Batch,
        *,
        amax: Mapping[str, float] | None = None,
        keep: Collection[str] = (),
        only: Collection[str] | None = None,
    ) -> NDArray[np.float32]:
        """The answers of the quantised graph, a row a sample (:mod:`calibration.answer`); of a classifier logits.

        Questions that differ in their layers need a session each, of which the last two stay loaded: ask one
        question of all batches before the next one.

        Args:
            batch: what the graph takes.
            amax: ranges that differ from the table's, by the name of the tensor.
            keep: nodes that stay unquantised, beside those that the table keeps.
            only: if given, all other layers stay unquantised.

        Returns:
            float32 [N, classes], or [N, values].

        Raises:
            InputError: the batch doesn't fit, or a name isn't in the graph.
            RunError: ONNX Runtime failed.
        """
        kept = self._kept(keep, only)
        feeds: dict[str, Any] = feeds_of(self._inputs, batch)
        session = self._session(kept)
        feeds |= self._scales_of(kept, amax or {})
        names = self.answer.names
        return self.answer.rows(dict(zip(names, session.run(list(names), feeds), strict=True)))

    def reference(self, batch: Batch) -> NDArray[np.float32]:
        """The answers of the FP32 graph."""
        return self.run(batch, keep=self.layers)

    def readers(self, group: str) -> tuple[str, ...]:
        """The layers that read a tensor of ``group``, in graph order."""
        return tuple(layer for layer in self.layers if group in self._reads[layer])

    def module(self, layer: str) -> str | None:
        """The PyTorch module that a layer comes from; None in a foreign graph."""
        return module_of(self._nodes[layer])

    def operator(self, layer: str) -> str:
        """A layer's operator."""
        return str(self._nodes[layer].op_type)

    def close(self) -> None:
        """Free the sessions and the weights; nothing can be asked any more."""
        self._sessions.clear()
        self._store = WeightStore()

    def __enter__(self) -> "Simulation":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _kept(self, keep: Collection[str], only: Collection[str] | None) -> frozenset[str]:
        for name in (*keep, *(only or ())):
            if name not in self._nodes:
                raise InputError(f"no node is called '{name}'", "`toolkit inspect` lists the graph's nodes")
        others = () if only is None else set(self.layers) - set(only)
        return frozenset({*keep, *self.table.keep, *others})

    def _place(self, keep: frozenset[str], table: CalibrationTable) -> onnx.ModelProto:
        """The graph of a question, its large constants in the store."""

        def editor(model: onnx.ModelProto, *, weight_clip: str, precision: str) -> FoldingEditor:
            return FoldingEditor(model, self._store, weight_clip=weight_clip, precision=precision)

        return place(self._model, replace(table, equalisation={}), "tensorrt", keep, editor).finish()

    def _session(self, keep: frozenset[str]) -> AsWritten:
        if keep in self._sessions:
            self._sessions.move_to_end(keep)
            return self._sessions[keep]
        while len(self._sessions) >= _SESSIONS:
            self._sessions.popitem(last=False)
        model = self._place(keep, self.table)
        for name in dict.fromkeys(node.input[1] for node in _quantizers(model)):
            model.graph.input.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, []))
        session = AsWritten(model, _FEATURE, self._threads, self._store.weights(model))
        self._sessions[keep] = session
        return session

    def _scales_of(self, keep: frozenset[str], amax: Mapping[str, float]) -> Scales:
        """What the placement makes of other ranges: the values of the scales' inputs."""
        if not amax:
            return {}
        question = (keep, tuple(sorted(amax.items())))
        if self._scales[0] != question:
            changed = {name: replace(self.table.range_of(name), amax=float(value)) for name, value in amax.items()}
            model = self._place(keep, replace(self.table, ranges={**self.table.ranges, **changed}))
            constants = initializers(model.graph)
            names = {node.input[1] for node in _quantizers(model)}
            self._scales = question, {name: onnx.numpy_helper.to_array(constants[name]) for name in sorted(names)}
        return self._scales[1]


def _quantizers(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
