"""From a checkpoint to a verified ONNX master graph."""

import json
from collections import Counter
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engines.errors import InputError, VerificationError
from engines.files import digest_file
from engines.metadata import ModelMetadata
from engines.optional import require
from engines.progress import QUIET, Progress
from export.verification import Verification
from toolkit.outputs import check_replace, sibling
from toolkit.steps.samples import real_pictures

if TYPE_CHECKING:
    import onnx


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
        real_inputs: it was verified on real pictures too.
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
        }

    def summary(self) -> list[str]:
        """What to print, a line each."""
        preprocess = self.metadata.preprocess
        size = f"{preprocess.height}x{preprocess.width}x{preprocess.channels}"
        operators = ", ".join(f"{count} {name}" for name, count in self.operators.items())
        known = f"{self.metadata.architecture}{' (recognised by its weights)' if self.recognised else ''}"
        kind = "uint8" if self.metadata.uint8_input else "float32"
        lines = [
            f"{known}, {len(self.metadata.labels)} classes, {kind} input {size}",
            f"{self.path}: opset {self.opset}, {self.weight_bytes / 1e6:.1f} MB of weights, {operators}",
        ]
        if self.verification is None:
            return [*lines, "not verified (as asked)"]
        if not self.real_inputs:
            lines.append("no real pictures at hand: pip install 'onnx-tensorrt-toolkit[data]', or give --data")
        return [*lines, *self.verification.summary()]


def export(
    checkpoint: str | PathLike[str],
    output: str | PathLike[str] | None = None,
    *,
    architecture: str | None = None,
    classes: int | None = None,
    input_size: int | tuple[int, int] | None = None,
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
        checkpoint: a ``.pt`` of this toolkit, or a state dict of a known architecture.
        output: the graph to write; None writes ``model.onnx`` beside ``model.pt``.
        architecture: the architecture's name, where keys and shapes don't tell it.
        classes: the number of classes, to insist on.
        input_size: height and width in pixels, where the network takes another size than its usual one.
        opset: of the graph.
        uint8_input: the graph takes uint8 [batch, height, width, channels] and normalises it itself.
        trust_pickle: load a pickled module, which runs its code.
        verify: compare the graph with PyTorch; the measurements are stored in it.
        data: pictures to verify on; None uses two photographs that scikit-learn brings.
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
    from export.checkpoint import load_checkpoint, with_input_size
    from export.graph import VERIFICATION_KEY, save_graph, set_property
    from export.onnx_export import OPSETS, to_onnx

    if opset not in OPSETS:
        raise InputError(
            f"opset {opset} can't be written", f"opsets {OPSETS.start} to {OPSETS.stop - 1} are supported"
        )
    if max_batch < 1:
        raise InputError(f"a largest batch of {max_batch}", "give --max-batch 1 or more")
    source = Path(checkpoint)
    path = _output(source, output)
    loaded = load_checkpoint(source, architecture=architecture, classes=classes, trust_pickle=trust_pickle)
    check_replace(path, loaded.digest, origin_weights, force=force)
    if input_size is not None:
        height, width = (input_size, input_size) if isinstance(input_size, int) else input_size
        loaded = with_input_size(loaded, height, width)
    metadata = loaded.metadata.with_origin(weights=loaded.digest, checkpoint=digest_file(source))
    images = real_pictures(data, metadata.preprocess, max_batch, progress=progress) if verify else None
    model = to_onnx(loaded.module, metadata, opset=opset, uint8_input=uint8_input, progress=progress)
    result = None
    if verify:
        from export.verify import batch_sizes_up_to
        from export.verify import verify as verify_graph

        sizes = batch_sizes_up_to(max_batch)
        result = verify_graph(
            loaded.module, model, metadata, images=images, batch_sizes=sizes, scratch=path.parent, progress=progress
        )
        if not result.passed:
            raise VerificationError(
                f"the graph exported from '{source}' differs from PyTorch: {result.problems[0]}",
                "nothing was written; --no-verify writes it all the same, to look into",
            )
        set_property(model, VERIFICATION_KEY, json.dumps(result.to_json(), sort_keys=True))
    save_graph(model, path)
    return _report(path, model, loaded.recognised, result, real_inputs=images is not None)


def origin_weights(path: Path) -> str | None:
    """The digest of the checkpoint's weights that a graph was made from; None in a foreign graph."""
    from export.graph import peek_metadata

    metadata = peek_metadata(path)
    return None if metadata is None else metadata.origin.get("weights")


def _output(source: Path, output: str | PathLike[str] | None) -> Path:
    path = Path(output) if output is not None else sibling(source, ".onnx")
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
