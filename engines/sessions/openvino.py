"""OpenVINO as a session: graphs on the CPU, in the types that they are written in and no narrower ones."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from engines.errors import InputError, RunError, ToolkitError, UnsupportedError
from engines.files import unreadable
from engines.metadata import METADATA_KEY, ModelMetadata
from engines.optional import require
from engines.sessions.base import SessionInfo
from engines.sessions.openvino_compile import FEATURE, check_device, compile_graph, device_name, load_library
from engines.sessions.openvino_errors import check_graph, graph_error, one_line
from engines.sessions.owned import OwnedSession, plain
from engines.sessions.proof import Proof, by_share
from engines.tensors import Array, Feeds, TensorSpec

_TYPES = {"f16": "float16", "f32": "float32", "f64": "float64", "bf16": "bfloat16", "boolean": "bool"} | {
    f"{sign}{bits}": f"{name}{bits}" for sign, name in (("i", "int"), ("u", "uint")) for bits in (8, 16, 32, 64)
}
_LAYERS = frozenset({"Convolution", "Deconvolution", "FullyConnected", "MatMul"})


class OpenVinoSession(OwnedSession):
    """Runs an ``.onnx`` graph.

    Inputs are read where they lie; outputs are copied once. INT8 layers with Q/DQ of either placement run in INT8.
    FP16 layers run in FP32, FP8 ones in FP32 on values rounded to FP8 (by way of FP16: of two e4m3 neighbours that
    are equally near to within FP16's precision it may take the other one than ONNX Runtime).

    Args:
        path: the graph; external data beside it is found.
        device: "cpu" or "auto", which is the CPU too; "openvino:NAME" for another of OpenVINO's devices ("GPU").
        threads: CPU threads, of which no more are used than there are cores; None for OpenVINO's choice.

    Raises:
        InputError: the file can't be read, or an option makes no sense.
        GraphError: it is damaged, or OpenVINO can't convert it.
        UnsupportedError: there is no such device here, or it can't compute in FP32.
        MissingLibraryError: OpenVINO isn't installed.
    """

    def __init__(self, path: Path | str, *, device: str = "auto", threads: int | None = None) -> None:
        path = Path(path)
        try:
            with path.open("rb"):
                pass
        except OSError as error:
            raise unreadable(path, error) from error
        if threads is not None and threads < 1:
            raise InputError(f"{threads} threads make no sense", "give at least 1")
        name = device_name(device)
        library = load_library()
        version = str(library.get_version()).partition("-")[0]
        check_graph(path, version)
        core = library.Core()
        check_device(core, name)
        try:
            # The converter itself: Core.read_model shows a damaged file to those of other formats, which print.
            converter = require("openvino.frontend", *FEATURE).FrontEndManager().load_by_framework("onnx")
            model = converter.convert(converter.load(str(path)))
            # Read here: the compiled model may call an output by another tensor that it was folded into.
            inputs = tuple(_spec(port, path) for port in model.inputs)
            outputs = tuple(_spec(port, path) for port in model.outputs)
            metadata = _metadata(model, path)
            compiled = compile_graph(core, model, name, threads, path)
            provider = _provider(compiled)
        except ToolkitError:
            raise
        except Exception as error:  # its exceptions have no common base but Exception
            raise graph_error(path, version, error) from error
        first = inputs[0].shape[0] if inputs and inputs[0].shape else None
        info = SessionInfo(
            "openvino",
            name.lower(),
            provider,
            {"openvino": version},
            first if isinstance(first, int) else None,
        )
        super().__init__(inputs, outputs, metadata, info)
        self._library: Any = library
        self._compiled: Any = compiled
        self._request: Any = compiled.create_infer_request()
        self._fed: list[Any] = []

    def layer_types(self) -> dict[str, str]:
        """The type that each convolution and matrix product runs in: the nodes it was made of, to numpy's name.

        It is what the compiled graph says of itself, after fusion.
        """
        return _layer_types(self._compiled) if self._compiled is not None else {}

    def prove(self, feeds: Feeds) -> Proof:
        """The devices that the compiled graph executes on, and the types of its convolutions and products."""
        with self.owned():
            devices = list(self._compiled.get_property("EXECUTION_DEVICES"))
            types = self.layer_types()
            shares = by_share(Counter(types.values())) or {", ".join(devices): 1.0}
            asked = self._info.device.upper()
            others = [device for device in devices if device.partition(".")[0] != asked.partition(".")[0]]
            counted = f", and the types of its {len(types)} convolutions and products" if types else ""
            return Proof(
                ", ".join(devices),
                f"EXECUTION_DEVICES of the compiled graph{counted}",
                shares,
                tuple(f"a part runs on {device}" for device in others),
            )

    def _run(self, feeds: Feeds, batch: int) -> dict[str, Array]:
        try:
            # The request keeps the addresses of its inputs and not the arrays: these live until the next run's do.
            fed = [self._tensor(feeds[spec.name], spec) for spec in self._inputs]
            found = self._request.infer(fed, share_inputs=True, share_outputs=False)
            self._fed = fed
            return {spec.name: _array(found[index], spec) for index, spec in enumerate(self._outputs)}
        except ToolkitError:
            raise
        except Exception as error:
            memory = "memory" in str(error).lower() or "alloc" in str(error).lower()
            raise RunError(
                f"OpenVINO failed on a batch of {batch}: {one_line(error)}",
                "use a smaller batch" if memory else "check the graph with `toolkit verify`",
            ) from error

    def _tensor(self, given: Array, spec: TensorSpec) -> Any:
        array = plain(given)
        if not array.flags.writeable:  # it shares memory with writable arrays only
            array = array.copy()
        if spec.dtype == "bfloat16":
            return self._library.Tensor(array.view(np.uint16), list(array.shape), self._library.Type.bf16)
        return self._library.Tensor(array, shared_memory=True)

    def _release(self) -> None:
        self._fed = []
        self._request = self._compiled = None


def _provider(compiled: Any) -> str:
    """The devices that it runs on, and the types that its convolutions and products run in: "CPU: float32, int8"."""
    types = ", ".join(sorted(set(_layer_types(compiled).values())))
    devices = ", ".join(compiled.get_property("EXECUTION_DEVICES"))
    return f"{devices}: {types}" if types else devices


def _layer_types(compiled: Any) -> dict[str, str]:
    found = {}
    for node in compiled.get_runtime_model().get_ordered_ops():
        facts = node.get_rt_info()
        if "layerType" in facts and facts["layerType"].astype(str) in _LAYERS:
            # By what it reads: "runtimePrecision" says i8 of a product in FP32 whose weights alone are INT8. After
            # a ReLU what an INT8 layer reads is unsigned; its weights are signed all the same.
            kind = node.input(0).get_element_type().get_type_name()
            found[facts["originalLayersNames"].astype(str)] = "int8" if kind == "u8" else _TYPES.get(kind, kind)
    return found


def _spec(port: Any, path: Path) -> TensorSpec:
    name, kind, shape = port.any_name, port.element_type.get_type_name(), port.partial_shape
    if kind not in _TYPES:
        raise UnsupportedError(
            f"'{path}' has the tensor '{name}' of type {kind}, which numpy can't hold",
            "export the graph with numeric tensors as its inputs and outputs",
        )
    if shape.rank.is_dynamic:
        raise UnsupportedError(
            f"'{path}' doesn't say how many dimensions its tensor '{name}' has",
            "export the graph with the shapes of its inputs and outputs",
        )
    # OpenVINO doesn't keep the names of dimensions: each is free on its own, but for the batch.
    dims = (
        dim.get_length() if dim.is_static else "batch" if axis == 0 else f"{name}.{axis}"
        for axis, dim in enumerate(shape)
    )
    return TensorSpec(name, _TYPES[kind], tuple(dims))


def _array(values: Array, spec: TensorSpec) -> Array:
    """An output as its own type; numpy has none for BF16, which OpenVINO gives as FP16 of the same bits."""
    if spec.dtype != "bfloat16":
        return values
    bfloat16 = require("ml_dtypes", "A BF16 output", "openvino").bfloat16
    result: Array = values.view(bfloat16)
    return result


def _metadata(model: Any, path: Path) -> ModelMetadata | None:
    where = ["framework", METADATA_KEY]
    if not model.has_rt_info(where):
        return None
    try:
        return ModelMetadata.loads(model.get_rt_info(where).astype(str))
    except InputError as error:
        raise InputError(f"'{path}': {error.cause}", error.remedy) from error
