"""A free batch: what a static export bakes into constants is made to follow the batch of the input.

The graph's shapes are inferred twice: at the batch that it was exported with, and at another, a large prime. Where an
operator with a constant shape gives what the second can't be, its constant is rewritten, in graph order:

1. ``Reshape``: the dimension that the batch runs through becomes 0 (copied) or -1 (what is left).
2. ``Expand`` of a tensor with the batch leaves that dimension alone; a constant with as many equal rows as the
   batch, expanded to a computed shape, keeps one of them.
3. ``Resize`` to sizes names only the other dimensions.
4. A constant that is joined with a batch (``Concat``) is expanded to it; one that is combined with a batch of several
   equal rows keeps one row, which is broadcast.
5. Initial states of recurrent layers: zeros are left out, which means the same; others are expanded.

Whether the result is right isn't concluded here but measured: :mod:`export.foreign.judging`.
"""

import math
import re
from collections.abc import Mapping, Sequence

import numpy as np

from engines.errors import GraphError
from export.foreign.edit import Constants, Shape, infer, insert_before, is_plain
from export.onnxlib import onnx
from export.structure import attribute, label, set_attribute

OTHER = 9973
"""The other batch: a prime that no layer has as its size."""

_BROADCAST = frozenset(
    {"Add", "Sub", "Mul", "Div", "Pow", "Where", "Max", "Min", "PRelu", "MatMul", "Gemm", "And", "Or", "Equal",
     "Greater", "Less", "GreaterOrEqual", "LessOrEqual"}
)  # fmt: skip
_FAULT = re.compile(
    r"\(op_type:\s*(?P<op>\w+), node name: (?P<name>[^)]*)\): (\[\w+\] )?(?P<reason>.*?)(?= \(op_type|$)"
)
_RECURRENT = frozenset({"LSTM", "GRU", "RNN"})


class Freed:
    """The work on one graph.

    Args:
        model: its inputs' first dimension varies; it is changed in place.
        inputs: the shape of each input at the batch that it was exported with.
        batch: that batch.
    """

    def __init__(self, model: onnx.ModelProto, inputs: Mapping[str, Sequence[int]], batch: int) -> None:
        self.model, self.graph, self.batch = model, model.graph, batch
        self._at_other = {name: (OTHER, *shape[1:]) for name, shape in inputs.items()}
        self.before = infer(model, inputs)
        self.constants = Constants(self.graph)
        self.rewritten: list[str] = []

    def free(self) -> list[str]:
        """Apply the rules above.

        Returns:
            The nodes whose constants were rewritten.
        """
        for _ in range(len(self.graph.node) + 1):
            now = infer(self.model, self._at_other)
            if not any(self._rewrite(node, now) for node in list(self.graph.node)):
                break
        return self.rewritten

    def problem(self, name: str) -> GraphError | None:
        """What still stands in the way of another batch, as far as shapes tell."""
        try:
            infer(self.model, self._at_other, strict=True)
        except onnx.shape_inference.InferenceError as error:
            return baked(name, self.batch, _first(error))
        now = infer(self.model, self._at_other)
        for value in self.graph.output:
            shape = now.get(value.name)
            if shape is not None and (not shape or shape[0] not in {OTHER, None}):
                return baked(
                    name,
                    self.batch,
                    f"output '{value.name}' is {_shown(shape)} for a batch of {OTHER}: {self._lost(now)}",
                )
        return None

    def _lost(self, now: Mapping[str, Shape]) -> str:
        """The first node that reads the batch and doesn't give it."""
        for node in self.graph.node:
            read = any(self._axis(tensor, now) is not None for tensor in node.input)
            gives = any(self._axis(tensor, now) is not None or tensor not in now for tensor in node.output)
            if read and not gives and node.op_type not in {"Shape", "Size"}:
                return f"it is lost at node '{label(node)}' ({node.op_type})"
        return "it isn't its first dimension"

    def _axis(self, tensor: str, now: Mapping[str, Shape]) -> int | None:
        """The dimension of a tensor that the batch runs through."""
        here, there = self.before.get(tensor), now.get(tensor)
        if here is None or there is None or len(here) != len(there):
            return None
        return next((axis for axis, (one, other) in enumerate(zip(here, there, strict=True)) if one != other), None)

    def _rewrite(self, node: onnx.NodeProto, now: Mapping[str, Shape]) -> bool:
        if not is_plain(node):
            return False
        if node.op_type == "Reshape":
            done = self._reshape(node, now)
        elif node.op_type == "Expand":
            done = self._expand(node, now)
        elif node.op_type == "Resize":
            done = self._resize(node, now)
        elif node.op_type == "Concat":
            done = self._concat(node, now)
        elif node.op_type in _RECURRENT:
            done = self._recurrent(node, now)
        else:
            done = node.op_type in _BROADCAST and self.batch > 1 and self._broadcast(node, now)
        if done:
            self.rewritten.append(label(node))
        return done

    def _reshape(self, node: onnx.NodeProto, now: Mapping[str, Shape]) -> bool:
        asked = self.constants.input(node, 1)
        axis = self._axis(node.input[0], now)
        here, there, result = (shapes.get(name) for shapes, name in self._three(node, now))
        if asked is None or axis is None or here is None or there is None or result is None:
            return False
        if None in here or None in there or None in result:
            return False
        old, new, out = _whole(here), _whole(there), _whole(result)
        place = self._place(old, out, axis)
        if place is None:
            return False
        wanted = [size * OTHER // self.batch if at == place else size for at, size in enumerate(out)]
        if _reshaped(asked.tolist(), new, allowzero=bool(attribute(node, "allowzero", 0))) == wanted:
            return False
        values = list(out)
        values[place] = 0 if place == axis and out[place] == old[axis] else -1
        node.input[1] = self.constants.add(np.array(values, np.int64), f"{label(node)}.shape")
        set_attribute(node, "allowzero", 0)
        return True

    def _place(self, old: Sequence[int], out: Sequence[int], axis: int) -> int | None:
        """The dimension of a Reshape's result that the batch runs through, which ran through ``axis`` before.

        Where that dimension was merged with others, the batch may be any factor of it.
        """
        before, within = math.prod(old[:axis]), math.prod(old[: axis + 1]) // self.batch
        fits = [
            place
            for place in range(len(out))
            if within % math.prod(out[:place]) == 0
            and math.prod(out[: place + 1]) % before == 0
            and out[place] % self.batch == 0
        ]
        exact = [place for place in fits if out[place] == self.batch]
        if old[axis] == self.batch and axis in exact:
            return axis
        return next(iter([*exact, *fits]), None)

    def _three(self, node: onnx.NodeProto, now: Mapping[str, Shape]) -> tuple[tuple[Mapping[str, Shape], str], ...]:
        return (self.before, node.input[0]), (now, node.input[0]), (self.before, node.output[0])

    def _expand(self, node: onnx.NodeProto, now: Mapping[str, Shape]) -> bool:
        asked, axis = self.constants.input(node, 1), self._axis(node.input[0], now)
        here = self.before.get(node.input[0])
        if asked is None:
            return self._one_row(node)
        if axis is None or here is None:
            return False
        place = axis + len(asked) - len(here)
        if place < 0 or asked[place] != self.batch or self.batch == 1:
            return False
        values = asked.copy()
        values[place] = 1
        node.input[1] = self.constants.add(values, f"{label(node)}.shape")
        return True

    def _one_row(self, node: onnx.NodeProto) -> bool:
        values = self.constants.input(node, 0)
        if values is None or self.batch == 1:
            return False
        for axis, size in enumerate(values.shape):
            if size == self.batch and (values == values.take([0], axis)).all():
                node.input[0] = self.constants.add(values.take([0], axis), f"{node.input[0]}.row")
                return True
        return False

    def _resize(self, node: onnx.NodeProto, now: Mapping[str, Shape]) -> bool:
        sizes, axis = self.constants.input(node, 3), self._axis(node.input[0], now)
        if sizes is None or axis is None or attribute(node, "axes") is not None:
            return False
        kept = [place for place in range(len(sizes)) if place != axis]
        set_attribute(node, "axes", kept)
        node.input[3] = self.constants.add(sizes[kept], f"{label(node)}.sizes")
        return True

    def _concat(self, node: onnx.NodeProto, now: Mapping[str, Shape]) -> bool:
        axes = {self._axis(name, now) for name in node.input} - {None}
        alone = [place for place, name in enumerate(node.input) if self._axis(name, now) is None]
        if len(axes) != 1 or not alone:
            return False
        axis = int(next(item for item in axes if item is not None))
        shapes = [self.before.get(node.input[place]) for place in alone]
        joined = int(attribute(node, "axis")) % (len(shapes[0]) if shapes[0] else 1)
        if joined == axis or any(shape is None or shape[axis] != self.batch for shape in shapes):
            return False
        source = next(name for name in node.input if self._axis(name, now) is not None)
        for place in alone:
            node.input[place] = self._expanded(node, node.input[place], axis, source)
        return True

    def _expanded(self, node: onnx.NodeProto, tensor: str, axis: int, source: str) -> str:
        """A tensor with one row for each of ``source``'s along ``axis``."""
        values = self.constants.get(tensor)
        if self.batch > 1:
            if values is None or not (values == values.take([0], axis)).all():
                return tensor
            tensor = self.constants.add(values.take([0], axis), f"{tensor}.row")
        rank = len(self.before[node.input[0]]) if values is None else values.ndim
        stem = f"{label(node)}.batch"
        size, shape, result = (self.constants.tensor(f"{stem}.{part}") for part in ("size", "shape", "expanded"))
        parts = [self.constants.add(np.ones(1, np.int64), f"{stem}.one")] * rank
        parts[axis] = size
        make = onnx.helper.make_node
        insert_before(
            self.graph,
            node,
            [
                make("Shape", [source], [size], size, start=axis, end=axis + 1),
                make("Concat", parts, [shape], shape, axis=0),
                make("Expand", [tensor, shape], [result], result),
            ],
        )
        return result

    def _broadcast(self, node: onnx.NodeProto, now: Mapping[str, Shape]) -> bool:
        result = self.before.get(node.output[0])
        axes = {
            axis - len(self.before[name])
            for name in node.input
            if name and (axis := self._axis(name, now)) is not None
        }
        if result is None or len(axes) != 1:
            return False
        back, done = axes.pop(), False
        for place, name in enumerate(node.input):
            shape = self.constants.shape(name)
            if shape is None or len(shape) < -back or shape[back] != self.batch:
                continue
            values = self.constants.get(name)
            if values is not None and (values == values.take([0], back)).all():
                node.input[place] = self.constants.add(values.take([0], back), f"{name}.row")
                done = True
        return done

    def _recurrent(self, node: onnx.NodeProto, now: Mapping[str, Shape]) -> bool:
        axis = self._axis(node.input[0], now)
        if axis != (1 if not attribute(node, "layout", 0) else 0):
            return False
        done = False
        for place in range(5, len(node.input)):
            values = self.constants.input(node, place)
            shape = self.constants.shape(node.input[place])
            if values is None or shape is None or len(shape) != 3 or shape[axis] != self.batch:
                continue
            done = True
            if not values.any():
                node.input[place] = ""
            else:
                node.input[place] = self._expanded(node, node.input[place], axis, node.input[0])
        return done


def baked(name: str, batch: int, where: str) -> GraphError:
    """The error of a graph whose batch can't be freed."""
    return GraphError(
        f"the batch of {batch} is baked into {name}: {where}",
        "export the model again with a dynamic batch: dimension 0 of every input in dynamic_shapes or dynamic_axes",
    )


def _reshaped(asked: Sequence[int], shape: Sequence[int], *, allowzero: bool) -> list[int] | None:
    """What a Reshape gives of an input of ``shape``; None where it can't."""
    sizes = [
        shape[place] if size == 0 and not allowzero and place < len(shape) else size
        for place, size in enumerate(asked)
    ]
    total, known = math.prod(shape), math.prod(size for size in sizes if size != -1)
    if -1 in sizes:
        if not known or total % known:
            return None
        sizes[sizes.index(-1)] = total // known
    return sizes if math.prod(sizes) == total else None


def _first(error: Exception) -> str:
    """The first node at fault in what onnx's inference says."""
    text = " ".join(str(error).split())
    match = _FAULT.search(text)
    return f"node '{match['name']}' ({match['op']}): {match['reason']}" if match else text


def _whole(shape: Shape) -> tuple[int, ...]:
    return tuple(size for size in shape if size is not None)


def _shown(shape: Shape) -> str:
    return f"[{', '.join('?' if size is None else str(size) for size in shape)}]"
