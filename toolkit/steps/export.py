"""From a checkpoint to a verified ONNX master graph."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engines.errors import InputError, VerificationError
from engines.files import digest_file
from engines.metadata import ModelMetadata
from engines.optional import require
from engines.progress import QUIET, Progress
from export.sources.description import Description, description_of
from export.verification import Verification
from toolkit.outputs import check_replace, sibling
from toolkit.steps.samples import RealSamples, real_samples

if TYPE_CHECKING:
    import onnx

    from export.checkpoint import Checkpoint

Paths = str | PathLike[str] | Sequence[str | PathLike[str]]


@dataclass(frozen=True)
class ExportReport:
    """What an export wrote.

    Attributes:
        path: the graph.
        metadata: as it is in the graph.
        recognised: the architecture was worked out from the checkpoint's keys and shapes.
        opset: of the graph.
        operators: number of nodes by operator.
        weight_bytes: bytes of weights.
        digest: of the graph's weights.
        verification: None where it was left out.
        real_inputs: it was verified on real pictures, or samples, too.
        notes: how the checkpoint was understood, a line each.
        table: the calibration table that quantisation-aware training learned, where there is one.
    """

    path: Path
    metadata: ModelMetadata
    recognised: bool
    opset: int
    operators: dict[str, int]
    weight_bytes: int
    digest: str
    verification: Verification | None
    real_inputs: bool
    notes: tuple[str, ...] = ()
    table: Path | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "path": str(self.path),
            "metadata": self.metadata.to_json(),
            "recognised": self.recognised,
            "opset": self.opset,
            "operators": self.operators,
            "weight_bytes": self.weight_bytes,
            "digest": self.digest,
            "verification": None if self.verification is None else self.verification.to_json(),
            "notes": list(self.notes),
            "table": None if self.table is None else str(self.table),
        }

    def summary(self) -> list[str]:
        """What to print, a line each."""
        operators = ", ".join(f"{count} {name}" for name, count in self.operators.items())
        known = f"{self.metadata.architecture}{' (recognised by its weights)' if self.recognised else ''}"
        lines = [
            f"{known}, {_takes_and_gives(self.metadata)}",
            *self.notes,
            f"{self.path}: opset {self.opset}, {self.weight_bytes / 1e6:.1f} MB of weights, {operators}",
        ]
        if self.table is not None:
            lines.append(f"{self.table}: the ranges that quantisation-aware training learned")
        if self.verification is None:
            return [*lines, "not verified (as asked)"]
        if not self.real_inputs and self.metadata.pictures is not None:
            lines.append("no real pictures at hand: pip install 'onnx-tensorrt-toolkit[data]', or give --data")
        return [*lines, *self.verification.summary()]


def export(
    checkpoint: Paths | None = None,
    output: str | PathLike[str] | None = None,
    *,
    architecture: str | None = None,
    classes: int | None = None,
    input_size: int | tuple[int, int] | None = None,
    model: str | None = None,
    describe: "Description | Mapping[str, Any] | None" = None,
    ensemble: bool = False,
    opset: int = 20,
    uint8_input: bool = False,
    trust_pickle: bool = False,
    verify: bool = True,
    data: str | PathLike[str] | None = None,
    max_batch: int = 32,
    force: bool = False,
    progress: Progress = QUIET,
) -> ExportReport:
    """Export a checkpoint to ONNX, and verify the graph before it takes its place.

    Args:
        checkpoint: a ``.pt`` of this toolkit, a state dict (``.pt`` or safetensors), an archive of ``torch.export``
            or TorchScript; several with ``ensemble``; None where ``model`` brings its weights.
        output: the graph to write; None writes ``model.onnx`` beside ``model.pt``.
        architecture: the architecture's name, where keys and shapes don't tell it.
        classes: the number of classes, to insist on.
        input_size: height and width in pixels, where the network takes another size than its usual one.
        model: the code that makes the network, where the file holds weights alone: ``file.py:Net``,
            ``package.module:factory``, ``torchvision:resnet50`` or ``timm:resnet50d``. It is run.
        describe: labels, preprocessing and tensors of a network without metadata: a ``toolkit.Description``, or its
            fields in a dictionary.
        ensemble: one graph that gives the mean of the checkpoints' probabilities.
        opset: of the graph.
        uint8_input: the graph takes uint8 [batch, height, width, channels] and normalises it itself.
        trust_pickle: load pickled objects, which runs their code.
        verify: compare the graph with PyTorch; the measurements are stored in it.
        data: pictures to verify on, or an ``.npz`` of inputs; None uses two photographs that scikit-learn brings.
        max_batch: the largest batch to verify.
        force: replace an output that was made from another checkpoint.
        progress: is told of the work.

    Raises:
        CheckpointError: the checkpoint can't be loaded or recognised, or its network doesn't take the size.
        InputError: an option makes no sense, or the output exists and was made from something else.
        BuildError: PyTorch can't express the network in ONNX.
        VerificationError: the graph differs from PyTorch by more than the noise; nothing is written.
    """
    require("torch", "Exporting to ONNX", "export")
    require("onnx", "Exporting to ONNX", "export")
    from export.graph import VERIFICATION_KEY, save_graph, set_property
    from export.onnx_export import OPSETS, to_onnx

    if opset not in OPSETS:
        raise InputError(
            f"opset {opset} can't be written", f"opsets {OPSETS.start} to {OPSETS.stop - 1} are supported"
        )
    if max_batch < 1:
        raise InputError(f"a largest batch of {max_batch}", "give --max-batch 1 or more")
    sources = _sources(checkpoint, model, ensemble=ensemble)
    path = _output(sources, output, ensemble=ensemble)
    said = description_of(describe)
    if input_size is not None:
        said = replace(said, input_size=input_size)
    loaded = open_checkpoints(
        sources, architecture=architecture, classes=classes, trust_pickle=trust_pickle, model=model, describe=said
    )
    check_replace(path, loaded.digest, origin_weights, force=force)
    metadata = loaded.metadata.with_origin(weights=loaded.digest)
    if sources:
        metadata = metadata.with_origin(checkpoint=", ".join(map(digest_file, sources)))
    real = real_samples(data, metadata, max_batch, progress=progress) if verify else RealSamples()
    graph = to_onnx(loaded.module, metadata, opset=opset, uint8_input=uint8_input, progress=progress)
    result = None
    if verify:
        from export.verify import batch_sizes_up_to
        from export.verify import verify as verify_graph

        result = verify_graph(
            loaded.module,
            graph,
            metadata,
            images=real.images,
            tensors=real.tensors,
            batch_sizes=batch_sizes_up_to(max_batch),
            scratch=path.parent,
            progress=progress,
        )
        if not result.passed:
            raise VerificationError(
                f"the graph exported from '{sources[0] if sources else model}' differs from PyTorch: "
                f"{result.problems[0]}",
                "nothing was written; --no-verify writes it all the same, to look into",
            )
        set_property(graph, VERIFICATION_KEY, json.dumps(result.to_json(), sort_keys=True))
    save_graph(graph, path)
    seen = real.images is not None or real.tensors is not None
    report = _report(path, graph, loaded.recognised, result, real_inputs=seen)
    return replace(report, notes=loaded.notes, table=_learned_table(loaded, graph, path, force=force))


def open_checkpoints(sources: Sequence[Path], *, model: str | None, **options: Any) -> "Checkpoint":
    """The network of one checkpoint, the ensemble of several, or that of ``model`` alone.

    Args:
        sources: the files; none where ``model`` brings its weights.
        model: as for :func:`export`.
        options: of :func:`export.checkpoint.load_checkpoint`.

    Raises:
        InputError: as :func:`export.checkpoint.load_checkpoint` says, or a file says itself what it is and needs no
            ``model``.
    """
    from export.checkpoint import load_checkpoint

    listed: list[Path | None] = list(sources) or [None]
    found = [load_checkpoint(source, model=model, **options) for source in listed]
    for source, one in zip(sources, found, strict=False):
        if model is not None and not one.own_code:
            raise InputError(f"'{source}' says itself what it is: {one.metadata.architecture}", "leave --model out")
    if len(found) == 1:
        return found[0]
    from export.ensemble import ensemble as ensemble_of

    notes = tuple(dict.fromkeys(note for one in found for note in one.notes))
    carries = all(one.carries_metadata for one in found)
    return replace(ensemble_of(found), notes=notes, carries_metadata=carries)


def _sources(checkpoint: Paths | None, model: str | None, *, ensemble: bool) -> list[Path]:
    """The files to load; none where ``model`` alone makes the network."""
    single = isinstance(checkpoint, str | PathLike)
    given: Any = [] if checkpoint is None else [checkpoint] if single else checkpoint
    sources = [Path(fspath(one)) for one in given]
    if not sources and model is None:
        raise InputError(
            "there is no checkpoint to export", "give MODEL.pt, or --model FILE.py:NAME with its weights"
        )
    if len(sources) > 1 and not ensemble:
        raise InputError(
            f"{len(sources)} checkpoints are given, and a graph is made of one",
            "give --ensemble for the mean of their probabilities, or export them one by one",
        )
    if ensemble and len(sources) < 2:
        raise InputError(f"--ensemble of {len(sources)} checkpoints", "give two or more")
    return sources


def _learned_table(loaded: "Checkpoint", graph: "onnx.ModelProto", path: Path, *, force: bool) -> Path | None:
    """Write what quantisation-aware training learned of the ranges beside the graph, where it did."""
    if not loaded.training or not loaded.training.get("calibration"):
        return None
    from toolkit.qat import write_learned_table

    return write_learned_table(loaded.training, graph, path, force=force)


def origin_weights(path: Path) -> str | None:
    """The digest of the checkpoint's weights that a graph was made from; None in a foreign graph."""
    from export.graph import peek_metadata

    metadata = peek_metadata(path)
    return None if metadata is None else metadata.origin.get("weights")


def _takes_and_gives(metadata: ModelMetadata) -> str:
    """What goes in and comes out, for the report's first line."""
    gives = f"{len(metadata.labels)} classes" if metadata.scores != "none" else "no classifier"
    if metadata.outputs or metadata.scores == "probabilities":
        gives += f", gives {'; '.join(map(str, metadata.given))}"
    if metadata.pictures is None:
        return f"{gives}, takes {'; '.join(map(str, metadata.taken))}"
    spec, kind = metadata.pictures, "uint8" if metadata.uint8_input else "float32"
    return f"{gives}, {kind} input {spec.height}x{spec.width}x{spec.channels}"


def _output(sources: Sequence[Path], output: str | PathLike[str] | None, *, ensemble: bool) -> Path:
    if output is None and not sources:
        raise InputError("there is no checkpoint to write the graph beside", "give --output FILE.onnx")
    beside = sources[0].with_name("ensemble.onnx") if ensemble else sibling(sources[0], ".onnx") if sources else None
    path = beside if output is None and beside is not None else Path(output or "")
    if path.suffix != ".onnx":
        raise InputError(f"the output '{path}' is not called .onnx", "give --output a name that ends in .onnx")
    if not path.parent.is_dir():
        raise InputError(f"the folder '{path.parent}' does not exist", "make it, or choose another --output")
    return path


def _report(
    path: Path, model: "onnx.ModelProto", recognised: bool, result: Verification | None, *, real_inputs: bool
) -> ExportReport:
    from export.graph import check_opset, read_metadata, weight_bytes, weights_digest

    metadata = read_metadata(model)
    if metadata is None:
        raise AssertionError("an exported graph carries its metadata")
    return ExportReport(
        path,
        metadata,
        recognised,
        check_opset(model, str(path)),
        dict(Counter(node.op_type for node in model.graph.node)),
        weight_bytes(model),
        weights_digest(model),
        result,
        real_inputs,
    )
