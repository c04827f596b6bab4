"""What another server has to be told of an engine: its files, tensors, profiles, labels and where it comes from.

Read from the plan's header and passport, or from the graph: no library that runs engines is needed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from engines.errors import InputError, UnsupportedError
from engines.files import digest_file
from engines.metadata import ModelMetadata
from engines.optional import require
from engines.passport import Passport, find_passport
from engines.portability import reasons_not_to_run, whole_plan
from engines.tensors import TensorSpec
from toolkit.artifacts import kind_of

if TYPE_CHECKING:
    import onnx

    from export.properties import Derived

Profile = Mapping[str, Sequence[Sequence[int]]]
"""Input name to [min, opt, max] shapes."""


@dataclass(frozen=True)
class Model:
    """An engine, as far as it can be known without running it.

    Attributes:
        path: the file.
        kind: a TensorRT plan, or a graph.
        external: names of the files of weights beside a graph, which it refers to.
        inputs, outputs: its tensors.
        profiles: of a plan; empty where it has one shape only, or where they aren't known.
        digest: ``sha256:...`` of the file.
        source: the digest of the weights that it was made from; its own where that isn't known.
        precision: "fp16", "int8", ...; "" where it isn't known.
        placement: whose Q/DQ placement a quantised graph follows: "tensorrt", "onnxruntime", "foreign" for another
            tool's; "" for a graph without Q/DQ.
        library: the builder of a plan and its version ("TensorRT 10.13.3.9"); "" for a graph.
        metadata: what travelled with it.
        passport: the one beside it.
    """

    path: Path
    kind: Literal["plan", "graph"]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    digest: str
    source: str
    external: tuple[str, ...] = ()
    profiles: tuple[Profile, ...] = ()
    precision: str = ""
    placement: str = ""
    library: str = ""
    metadata: ModelMetadata | None = None
    passport: Passport | None = None


def read_model(path: Path) -> Model:
    """Read the engine at ``path``.

    Raises:
        InputError: it is damaged, isn't what its passport describes, or is no engine.
        UnsupportedError: it is a plan that only TensorRT for RTX runs.
        MissingLibraryError: onnx isn't installed, and it is a graph.
    """
    kind = kind_of(path)
    if kind == "checkpoint":
        remedy = "export it with `toolkit export`, and build an engine from the graph with `toolkit build-engine`"
        raise InputError(f"'{path}' is a checkpoint, which only PyTorch runs", remedy)
    if kind not in {"plan", "graph"}:
        named = "calibration table" if kind == "table" else "passport"
        engine = path.with_suffix("")
        remedy = f"give the engine: {engine}" if engine.is_file() else "give a plan or a graph"
        raise InputError(f"'{path}' is a {named}, which doesn't run", remedy)
    for reason in reasons_not_to_run(path):
        if isinstance(reason, InputError):  # the others are about this machine, and the server may be another
            raise reason
    return _plan(path) if kind == "plan" else _graph(path)


def _plan(path: Path) -> Model:
    from engines.plan_tensors import read_plan_tensors

    header, passport = whole_plan(path), find_passport(path)
    if header.kind != "tensorrt":
        raise UnsupportedError(
            f"'{path}' is a plan of {header.library}, and Triton has no backend for those: its own loads TensorRT's",
            "build one on the GPU that Triton has: toolkit build-engine GRAPH.onnx --backend tensorrt, "
            "or package the graph",
        )
    inputs, outputs = (passport.inputs, passport.outputs) if passport else read_plan_tensors(path)
    if not inputs or not outputs:
        raise InputError(
            f"the inputs and outputs of '{path}' aren't known without its passport",
            "copy the passport that was built with it, or build the engine with `toolkit build-engine`",
        )
    digest = passport.digest if passport else digest_file(path)
    return Model(
        path,
        "plan",
        inputs,
        outputs,
        digest,
        passport.sources.get("weights", digest) if passport else digest,
        profiles=passport.profiles if passport else (),
        precision=passport.precision if passport else "",
        library=header.library,
        metadata=passport.metadata if passport else None,
        passport=passport,
    )


def _placement(model: "onnx.ModelProto", derived: "Derived | None") -> str:
    if derived and derived.placement:
        return derived.placement
    return "foreign" if any(node.op_type == "QuantizeLinear" for node in model.graph.node) else ""


def _graph(path: Path) -> Model:
    require("onnx", "Packaging a graph", "onnxruntime")
    from engines.sessions.ort_fp8 import holds_fp8
    from export import graph as helper

    model = helper.load_graph(path)
    passport, derived, metadata = find_passport(path), helper.read_derived(model), helper.read_metadata(model)
    digest = passport.digest if passport else digest_file(path)
    known = derived.weights if derived else metadata.origin.get("weights") if metadata else None
    precision = "fp8" if holds_fp8(path) else derived.precision if derived else "fp32" if metadata else ""
    return Model(
        path,
        "graph",
        helper.inputs(model),
        helper.outputs(model),
        digest,
        known or digest,
        external=tuple(sorted(helper.external_files(path))),
        precision=precision,
        placement=_placement(model, derived),
        metadata=metadata,
        passport=passport,
    )
