"""Which types an artifact's convolutions and matrix products compute in, read without loading its weights.

A plan tells by its passport or by its own description, a graph by its nodes, a checkpoint by its weights' type.
"""

import mmap
import pickletools
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from engines.errors import EngineFormatError, ToolkitError
from engines.passport import Passport, find_passport
from toolkit.artifacts import kind_of

if TYPE_CHECKING:
    from engines.builders.audit import LayerReport
    from export.onnxlib import onnx

WIDTHS = {"fp64": 8, "fp32": 4, "bf16": 3, "fp16": 2, "fp8": 1, "int8": 0}
"""The order of the types: bfloat16 comes before float16, since it is what stands in for FP32."""

_STORAGES = {
    "DoubleStorage": "fp64",
    "FloatStorage": "fp32",
    "BFloat16Storage": "bf16",
    "HalfStorage": "fp16",
    "CharStorage": "int8",
}
_ACTIVATIONS = frozenset({"Relu", "Clip"})

_MOST_PICKLE = 64 << 20
"""Bytes of a checkpoint's pickle: names and shapes, the weights are beside it."""

_DAMAGE = (
    ToolkitError,
    OSError,
    ValueError,
    LookupError,
    EOFError,
    RuntimeError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)


@dataclass(frozen=True)
class Layers:
    """The types of an artifact's convolutions and matrix products.

    Attributes:
        source: how they were read: "passport", "plan", "graph", "checkpoint".
        shares: by type ("int8"), which share of them has it, the largest first.
        heavy: how many there are; 0 in a checkpoint, whose weights alone are known.
        float_layers: those in a wider type than ``precision``, in order.
        precision: the narrowest type, which the artifact is called by.
        placement: whose Q/DQ placement a quantised graph follows ("tensorrt", "onnxruntime"), as far as it says so.
        unfused: quantised layers that ONNX Runtime's CPU kernels compute in float all the same, since their results
            aren't quantised, or their bias isn't int32.
    """

    source: str
    shares: Mapping[str, float]
    heavy: int
    float_layers: tuple[str, ...]
    precision: str
    placement: str | None = None
    unfused: tuple[str, ...] = field(default=())

    def to_json(self) -> dict[str, Any]:
        return {
            "source": self.source,
            "shares": dict(self.shares),
            "heavy": self.heavy,
            "float_layers": list(self.float_layers),
            "precision": self.precision,
            "placement": self.placement,
            "unfused": list(self.unfused),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        return cls(
            source=value["source"],
            shares=dict(value["shares"]),
            heavy=value["heavy"],
            float_layers=tuple(value["float_layers"]),
            precision=value["precision"],
            placement=value.get("placement"),
            unfused=tuple(value.get("unfused", ())),
        )


def layers_of(path: Path | str, *, digest: str | None = None) -> Layers | None:
    """The layers of the artifact at ``path``; None where they can't be told, whatever the reason.

    Args:
        path: a checkpoint, graph or engine.
        digest: ``sha256:...`` of the file where the caller knows it: a passport of another file isn't believed.
            Without it the file's size has to be the passport's.
    """
    path = Path(path)
    try:
        kind = kind_of(path)
        if kind == "plan":
            return _of_plan(path, digest)
        if kind == "graph":
            return _of_graph(path)
        return _of_checkpoint(path) if kind == "checkpoint" else None
    except _DAMAGE:  # the reason is in its row
        return None


def _of_plan(path: Path, digest: str | None) -> Layers | None:
    from engines.builders.audit import LayerReport
    from engines.builders.rtx_plan import read_rtx_layers
    from engines.files import read_start
    from engines.header import plan_kind

    passport = _passport_of(path, digest)
    if passport is not None and passport.layers:
        return _summary("passport", LayerReport.from_json(passport.layers), passport.precision)
    if plan_kind(read_start(path, 64)) != "tensorrt-rtx":
        return None
    return _summary("plan", read_rtx_layers(path), None)


def _passport_of(path: Path, digest: str | None) -> Passport | None:
    """The passport of this very file, as far as digest or size tell."""
    try:
        passport = find_passport(path)
    except EngineFormatError:
        return None
    if passport is None or (passport.digest != digest if digest else passport.size != path.stat().st_size):
        return None
    return passport


def _summary(source: str, report: "LayerReport", precision: str | None) -> Layers | None:
    typed = [(layer.label, layer.type) for layer in report.heavy]
    return _layers(source, typed, precision)


def _layers(
    source: str,
    typed: "list[tuple[str, str]]",
    precision: str | None = None,
    *,
    placement: str | None = None,
    unfused: tuple[str, ...] = (),
) -> Layers | None:
    """Name and type of each convolution and matrix product, summed up; None without any."""
    if not typed:
        return None
    known = {kind for _, kind in typed if kind in WIDTHS}
    narrowest = precision or (min(known, key=WIDTHS.__getitem__) if known else typed[0][1])
    width = WIDTHS.get(narrowest, -1)
    wider = [name for name, kind in typed if WIDTHS.get(kind, -1) > width >= 0]
    counts = Counter(kind for _, kind in typed)
    shares = {kind: count / len(typed) for kind, count in counts.most_common()}
    return Layers(source, shares, len(typed), tuple(dict.fromkeys(wider)), narrowest, placement, unfused)


def _of_graph(path: Path) -> Layers | None:
    try:
        from export.graph import read_derived
        from export.layers import layer_types
    except ToolkitError:  # onnx isn't installed
        return None
    model = _nodes_alone(path)
    if model is None:
        return None
    typed = [(layer.name, layer.type) for layer in layer_types(model)]
    derived = read_derived(model)
    unfused = {name for name, kind in typed if kind == "fp8"}
    unfused |= {name for name, kind in typed if kind == "int8"} & set(_computed_in_float(model))
    return _layers(
        "graph",
        typed,
        placement=derived.placement if derived else None,
        unfused=tuple(name for name, _ in typed if name in unfused),
    )


def _nodes_alone(path: Path) -> "onnx.ModelProto | None":
    """The graph without the bytes of its large weights; None where it can't be parsed."""
    from export.onnxlib import onnx
    from export.raw_places import raw_places, without_raw
    from export.structure import LIGHT

    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        places = raw_places(data)
        light = without_raw(data, (place for place in places.values() if place[1] - place[0] > LIGHT))
    model = onnx.ModelProto()
    try:
        model.ParseFromString(light)
    except Exception:  # protobuf implementations raise different classes
        return None
    return model


def _computed_in_float(model: "onnx.ModelProto") -> Iterator[str]:
    """Convolutions and products behind Q/DQ that ONNX Runtime's CPU kernels don't compute in integers.

    Seen in the graphs that ONNX Runtime 1.31 optimises: a convolution needs a quantised result, behind its activation
    or without one, a product only where an activation follows, and either kind an int32 bias.
    """
    from export.layers import CONVOLUTIONS, INTEGER, PRODUCTS
    from export.structure import consumers, initializers, label, producers

    made_by, users, constants = producers(model.graph), consumers(model.graph), initializers(model.graph)

    def integer_result(node: "onnx.NodeProto") -> bool:
        after = users.get(node.output[0], [])
        activated = len(after) == 1 and after[0].op_type in _ACTIVATIONS
        if activated:
            after = users.get(after[0].output[0], [])
        if after and all(user.op_type == "QuantizeLinear" for user in after):
            return True
        return node.op_type in PRODUCTS and not activated

    def integer_bias(name: str) -> bool:
        maker = made_by.get(name)
        stored = constants.get(maker.input[0]) if maker is not None and maker.op_type == "DequantizeLinear" else None
        return stored is not None and stored.data_type == stored.INT32

    for node in model.graph.node:
        if node.op_type not in (CONVOLUTIONS | PRODUCTS) - INTEGER:
            continue
        with_bias = len(node.input) > 2 and bool(node.input[2])
        if not integer_result(node) or (with_bias and not integer_bias(node.input[2])):
            yield label(node)


def _of_checkpoint(path: Path) -> Layers | None:
    """The widest float type among the weights, by the names of the storages in the checkpoint's pickle.

    The pickle is taken apart, not run.
    """
    if not zipfile.is_zipfile(path):
        return None
    with zipfile.ZipFile(path) as archive:
        name = next((name for name in archive.namelist() if name.endswith("/data.pkl")), None)
        if name is None or archive.getinfo(name).file_size > _MOST_PICKLE:
            return None
        words = {
            word
            for _, argument, _ in pickletools.genops(archive.read(name))
            if isinstance(argument, str)
            for word in argument.split()
        }
    found = [kind for storage, kind in _STORAGES.items() if storage in words]
    return Layers("checkpoint", {found[0]: 1.0}, 0, (), found[0]) if found else None
