"""The one ONNX helper: load, check and save graphs, and the digest of their weights.

Its parts that have a file of their own are here too: properties, structure, layer types.
"""

import hashlib
import mmap
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from engines.errors import GraphError
from engines.files import atomic_file, unreadable
from engines.metadata import ModelMetadata
from engines.tensors import TensorSpec
from export.digests import constant_digests
from export.layers import GraphLayer, layer_types
from export.onnxlib import onnx
from export.passes.module_names import module_of
from export.properties import (
    DERIVED_KEY,
    VERIFICATION_KEY,
    Derived,
    get_property,
    read_derived,
    read_metadata,
    read_verification,
    require_metadata,
    set_property,
    write_derived,
    write_metadata,
)
from export.raw_places import Places, raw_places
from export.stand_ins import with_stand_ins
from export.structure import (
    all_tensors,
    attribute,
    consumers,
    initializers,
    light_copy,
    producers,
    remove_unused,
    tensor_bytes,
    tensor_specs,
    topological_sort,
    unique,
    value_spec,
)

__all__ = [
    "DERIVED_KEY",
    "INLINE_LIMIT",
    "MAX_OPSET",
    "MIN_OPSET",
    "VERIFICATION_KEY",
    "Derived",
    "GraphLayer",
    "attribute",
    "check_graph",
    "check_loaded",
    "check_opset",
    "consumers",
    "external_files",
    "get_property",
    "initializers",
    "inputs",
    "layer_types",
    "load_external",
    "load_graph",
    "module_of",
    "outputs",
    "peek_metadata",
    "producers",
    "read_derived",
    "read_metadata",
    "read_verification",
    "remove_unused",
    "require_metadata",
    "save_graph",
    "set_property",
    "tensor_specs",
    "topological_sort",
    "unique",
    "weight_bytes",
    "weights_digest",
    "write_derived",
    "write_graph",
    "write_metadata",
]

MIN_OPSET = 13
"""The oldest opset that is read: the first with per-channel Q/DQ."""

MAX_OPSET = min(26, onnx.defs.onnx_opset_version())
"""The newest opset that is read: what ONNX Runtime 1.31 runs, or less with an older onnx."""

INLINE_LIMIT = 2**31 - 2**20
"""Graphs with more bytes of weights keep them in a file beside the graph (protobuf's limit is 2 GiB)."""


_Version = tuple[str, int, int]
"""A file as it is: path, size and time of change."""

_CHECKED: dict[_Version, frozenset[str]] = {}
"""Files that were found valid by this process, which aren't checked again, and the files of weights of each."""


def load_graph(path: Path | str) -> onnx.ModelProto:
    """Load an ONNX file with its external weights, and check all that can be checked before it runs.

    Raises:
        InputError: the file is missing or can't be read.
        GraphError: it is empty, damaged, no ONNX, of an unsupported opset, without outputs, invalid,
            or a file of external weights is missing or too short.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise unreadable(path, error) from error
    if not data:
        raise GraphError(f"'{path}' is empty", "export the model again")
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except Exception as error:  # protobuf implementations raise different classes
        raise GraphError(f"'{path}' is damaged, or not an ONNX file: {error}", "export the model again") from error
    size, places = len(data), raw_places(data)
    del data
    check_loaded(model, path, size, places)
    return model


def check_loaded(model: onnx.ModelProto, path: Path, size: int, places: Places) -> None:
    """Check what was parsed of a file, and read its external weights.

    Args:
        model: the graph; large initializers may lack the raw bytes that ``places`` tells of.
        path: the file.
        size: its bytes.
        places: what :func:`export.raw_places.raw_places` says of it.

    Raises:
        GraphError: as :func:`load_graph` says.
    """
    if not model.ir_version or not model.opset_import or not model.HasField("graph"):
        raise GraphError(f"'{path}' is not an ONNX model, or was cut short", "export the model again")
    if any(isinstance(text, bytes) for text in _texts(model)):  # protobuf's answer to broken UTF-8
        raise GraphError(f"'{path}' is damaged: names in it are no text", "export the model again")
    check_opset(model, f"'{path}'")
    if not model.graph.output or not model.graph.node:
        raise GraphError(f"'{path}' has no outputs or no nodes", "export the model again")
    external = _references(model)
    load_external(model, path)
    version = _version(path)
    if version not in _CHECKED:
        by_path = external and size < INLINE_LIMIT
        check_graph(model, f"'{path}'", path if by_path else None, places=None if external else places)
        _CHECKED[version] = external


def _texts(model: onnx.ModelProto) -> Iterator[str]:
    """Every name and property in the graph."""
    for item in model.metadata_props:
        yield from (item.key, item.value)
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info, *model.graph.initializer):
        yield value.name
    for node in model.graph.node:
        yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
        yield from (item.name for item in node.attribute)


def check_opset(model: onnx.ModelProto, name: str) -> int:
    """The graph's ONNX opset.

    Raises:
        GraphError: it is older or newer than what is supported; both are named.
    """
    found = next((item.version for item in model.opset_import if item.domain in {"", "ai.onnx"}), None)
    if found is None or not MIN_OPSET <= found <= MAX_OPSET:
        shown = "no ONNX opset" if found is None else f"opset {found}"
        raise GraphError(
            f"{name} uses {shown}; opsets {MIN_OPSET} to {MAX_OPSET} are supported",
            "lift it: toolkit import; or export the model again with --opset 20",
        )
    return int(found)


def check_graph(
    model: onnx.ModelProto, name: str = "the graph", path: Path | None = None, *, places: Places | None = None
) -> None:
    """Check a graph's validity, types and shapes.

    Args:
        model: the graph.
        name: how errors call it.
        path: a file with the same graph, which is checked without another copy in memory, and with its references.
        places: what :func:`export.raw_places.raw_places` says of its file: then its weights aren't copied either.

    Raises:
        GraphError: it isn't valid; the reason is onnx's.
    """
    try:
        if path is not None:
            onnx.checker.check_model(str(path), full_check=False)
        elif places is not None:
            onnx.checker.check_model(with_stand_ins(model, places), full_check=False)
        elif weight_bytes(model) < INLINE_LIMIT:
            onnx.checker.check_model(model, full_check=False)
        onnx.shape_inference.infer_shapes(light_copy(model), check_type=True, strict_mode=True)
    except (
        onnx.checker.ValidationError,
        onnx.shape_inference.InferenceError,
        RuntimeError,
        ValueError,
        TypeError,
        KeyError,  # an element type that no onnx knows
    ) as error:
        reason = str(error).split("==> Context:")[0]
        raise GraphError(f"{name} is not a valid ONNX graph: {reason}", "export the model again") from error


def weight_bytes(model: onnx.ModelProto) -> int:
    """Bytes of all constants."""
    return sum(tensor_bytes(tensor) for tensor in all_tensors(model.graph))


def load_external(model: onnx.ModelProto, path: Path) -> None:
    """Read external weights, each checked to lie beside the graph and to be long enough."""
    folder = path.parent.resolve()
    for tensor in all_tensors(model.graph):
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        entry = {item.key: item.value for item in tensor.external_data}
        file = (folder / entry.get("location", "")).resolve()
        if not file.is_relative_to(folder):
            raise GraphError(
                f"'{path}' keeps weight '{tensor.name}' outside its folder ('{entry.get('location')}')",
                "put the graph and its weights into one folder",
            )
        if not file.is_file():
            raise GraphError(
                f"'{path}' needs the file of weights '{entry.get('location')}', which is not beside it",
                "copy that file beside the graph, or export the model again",
            )
        try:
            offset = int(entry.get("offset", 0))
            length = int(entry["length"]) if "length" in entry else file.stat().st_size - offset
            if offset < 0 or length < 0 or offset + length > file.stat().st_size:
                raise ValueError(f"'{file.name}' is too short for weight '{tensor.name}'")
            with file.open("rb") as source:
                source.seek(offset)
                tensor.raw_data = source.read(length)
        except ValueError as error:
            raise GraphError(f"the weights of '{path}' are damaged: {error}", "export the model again") from error
        except OSError as error:
            raise unreadable(file, error) from error
        tensor.data_location = onnx.TensorProto.DEFAULT
        del tensor.external_data[:]


def save_graph(model: onnx.ModelProto, path: Path | str, *, inline_limit: int = INLINE_LIMIT) -> None:
    """Write a graph whole or not at all; weights beyond ``inline_limit`` bytes go into a file beside it.

    That file is named by its content, so that the graph that is replaced keeps its own weights until
    the new graph is in place; then its file is removed.

    Raises:
        InputError: the folder is missing or not writable, or the disk is full.
    """
    path = Path(path)
    if weight_bytes(model) > inline_limit:
        model = _externalise(model, path)
    write_graph([model.SerializeToString()], path)


def write_graph(parts: Iterable[bytes | memoryview], path: Path) -> None:
    """Write a serialised graph whole or not at all, and remove the file of weights that only its predecessor needed.

    Raises:
        InputError: as :func:`save_graph` says.
    """
    before = external_files(path)
    with atomic_file(path) as file:
        for part in parts:
            file.write(part)
    for name in before - external_files(path) if before else ():
        if name.startswith(f"{path.name}.") and name.endswith(".data"):
            (path.parent / name).unlink(missing_ok=True)


def _externalise(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """Write the large initializers beside ``path``; give a copy of the graph that refers to them."""
    small = light_copy(model)
    kept = {tensor.name for tensor in small.graph.initializer}
    moved = {tensor.name for tensor in model.graph.initializer} - kept
    given = {value.name for value in model.graph.input}
    for index in reversed(range(len(small.graph.input))):
        if small.graph.input[index].name in moved - given:
            del small.graph.input[index]
    name = f"{path.name}.{weights_digest(model)[7:19]}.data"
    with atomic_file(path.parent / name) as file:
        for tensor in model.graph.initializer:
            if tensor.name not in moved:
                continue
            file.write(bytes(-file.tell() % 4096))  # page-aligned, so that readers may map it
            stub = small.graph.initializer.add(
                name=tensor.name, data_type=tensor.data_type, data_location=onnx.TensorProto.EXTERNAL
            )
            stub.dims.extend(tensor.dims)
            place = {"location": name, "offset": str(file.tell()), "length": str(len(tensor.raw_data))}
            for key, value in place.items():
                stub.external_data.add(key=key, value=value)
            file.write(tensor.raw_data)
    return small


def external_files(path: Path) -> frozenset[str]:
    """The names of the files of weights that the graph at ``path`` refers to; none for no graph."""
    try:
        if (known := _CHECKED.get(_version(path))) is not None:
            return known
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            if content.find(b"location") < 0:  # the key that every such reference has: far faster than to parse
                return frozenset()
        model = onnx.load(str(path), load_external_data=False)
    except Exception:  # nothing is there, or no ONNX file: it refers to nothing
        return frozenset()
    return _references(model)


def _references(model: onnx.ModelProto) -> frozenset[str]:
    tensors = all_tensors(model.graph)
    return frozenset(item.value for tensor in tensors for item in tensor.external_data if item.key == "location")


def _version(path: Path) -> _Version:
    found = path.stat()
    return str(path.resolve()), found.st_size, found.st_mtime_ns


def peek_metadata(path: Path | str) -> ModelMetadata | None:
    """The toolkit's metadata in an ONNX file, without its external weights and without any check of the graph.

    Raises:
        InputError: the file can't be read, or the metadata is damaged.
        GraphError: it isn't an ONNX file.
    """
    try:
        model = onnx.load(str(path), load_external_data=False)
    except OSError as error:
        raise unreadable(Path(path), error) from error
    except Exception as error:  # protobuf implementations raise different classes
        raise GraphError(f"'{path}' is damaged, or not an ONNX file", "export the model again") from error
    return read_metadata(model)


def weights_digest(model: onnx.ModelProto, digests: Mapping[str, str] | None = None) -> str:
    """``sha256:<hex>`` over every initializer's name, type, shape and values, in the order of their names.

    Args:
        model: the graph.
        digests: what :func:`export.digests.constant_digests` says of it, where that is known.
    """
    found = constant_digests(model) if digests is None else digests
    lines = (f"{name}\0{found[name]}\n" for name in sorted(found))
    return f"sha256:{hashlib.sha256(''.join(lines).encode()).hexdigest()}"


def inputs(model: onnx.ModelProto) -> tuple[TensorSpec, ...]:
    """The tensors that a caller feeds, without the initializers that old graphs list among the inputs."""
    constants = {tensor.name for tensor in model.graph.initializer}
    return tuple(value_spec(value) for value in model.graph.input if value.name not in constants)


def outputs(model: onnx.ModelProto) -> tuple[TensorSpec, ...]:
    """The tensors that a caller gets."""
    return tuple(value_spec(value) for value in model.graph.output)
