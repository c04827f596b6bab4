"""From an ONNX file that another exporter wrote to a master graph, held against that file."""

import json
from collections import Counter
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engines.errors import InputError, VerificationError
from engines.metadata import ModelMetadata
from engines.optional import require
from engines.progress import QUIET, Progress
from export.verification import Verification
from toolkit.outputs import check_replace, sibling
from toolkit.steps.export import origin_weights
from toolkit.steps.samples import real_pictures

if TYPE_CHECKING:
    from collections.abc import Mapping

    from export.foreign.importing import Imported
    from export.sources.description import Description


@dataclass(frozen=True)
class ImportReport:
    """What an import wrote.

    Attributes:
        path: the graph.
        source: the file that it was made from.
        metadata: as it is in the graph.
        opset: of the graph.
        operators: number of nodes by operator.
        weight_bytes: bytes of weights.
        digest: of the graph's weights.
        changes: what was changed, a line each.
        notes: what was guessed, a line each.
        verification: how far the graph is from the file.
    """

    path: Path
    source: Path
    metadata: ModelMetadata
    opset: int
    operators: dict[str, int]
    weight_bytes: int
    digest: str
    changes: tuple[str, ...]
    notes: tuple[str, ...]
    verification: Verification

    def to_json(self) -> dict[str, Any]:
        return {
            "path": str(self.path),
            "source": str(self.source),
            "metadata": self.metadata.to_json(),
            "opset": self.opset,
            "operators": self.operators,
            "weight_bytes": self.weight_bytes,
            "digest": self.digest,
            "changes": list(self.changes),
            "notes": list(self.notes),
            "verification": self.verification.to_json(),
        }

    def summary(self) -> list[str]:
        """What to print, a line each."""
        operators = ", ".join(f"{count} {name}" for name, count in self.operators.items())
        metadata = self.metadata
        classes = f"{len(metadata.labels)} classes ({metadata.scores})" if metadata.labels else "no classifier"
        pictures = metadata.pictures
        if pictures is None:
            taken = "; ".join(map(str, metadata.inputs))
        else:
            kind = "uint8" if metadata.uint8_input else "float32"
            taken = f"{kind} pictures of {pictures.height}x{pictures.width}x{pictures.channels}"
        return [
            f"{metadata.architecture}, {classes}, takes {taken}",
            f"{self.path}: opset {self.opset}, {self.weight_bytes / 1e6:.1f} MB of weights, {operators}",
            *(f"changed {line}" for line in self.changes),
            *(f"note: {line}" for line in self.notes),
            *self.verification.summary(),
        ]


def import_graph(
    source: str | PathLike[str],
    output: str | PathLike[str] | None = None,
    *,
    description: "Description | Mapping[str, Any] | None" = None,
    opset: int = 20,
    layout: str = "nchw",
    data: str | PathLike[str] | None = None,
    max_batch: int = 8,
    force: bool = False,
    progress: Progress = QUIET,
) -> ImportReport:
    """Make a master graph of another exporter's ONNX file, and hold it against that file before it is written.

    Args:
        source: the file; its external weights lie beside it.
        output: the graph to write; None writes ``net.master.onnx`` beside ``net.onnx``.
        description: what the file doesn't say of the network: an :class:`export.sources.description.Description`, or
            its fields in a dictionary.
        opset: 18 to 23; an older graph is lifted to it, a newer one stays.
        layout: "nchw", or "nhwc" for a graph whose float pictures have their channels last.
        data: pictures to compare on; None uses two photographs that scikit-learn brings.
        max_batch: the largest batch to compare.
        force: replace an output that was made from another file.
        progress: is told of the work.

    Raises:
        InputError: an option makes no sense or contradicts the graph, or the output exists and was made from
            something else.
        GraphError: the file is damaged, or can't become a master graph; the node is named.
        UnsupportedError: ONNX Runtime can't run the file.
        VerificationError: the graph differs from the file by more than the noise; nothing is written.
    """
    require("onnx", "Importing a graph", "onnxruntime")
    require("onnxruntime", "Importing a graph", "onnxruntime")
    from export.foreign.importing import import_foreign
    from export.foreign.judging import RANDOM, judge
    from export.graph import VERIFICATION_KEY, save_graph, set_property
    from export.sources.description import description_of

    if layout not in {"nchw", "nhwc"}:
        raise InputError(f"there is no layout '{layout}'", "layouts are nchw and nhwc")
    if max_batch < 1:
        raise InputError(f"a largest batch of {max_batch}", "give --max-batch 1 or more")
    given = Path(source)
    path = _output(given, output)
    imported = import_foreign(
        given,
        description_of(description),
        opset=opset,
        layout="nhwc" if layout == "nhwc" else "nchw",
        progress=progress,
    )
    check_replace(path, imported.weights, origin_weights, force=force)
    own = imported.trial.takes.batch or 1
    sizes = tuple(sorted({own, *(size for size in (1, 2, 7) if size <= max_batch), max_batch}))
    kinds = _kinds(imported, data, sizes[-1], progress)
    result = judge(imported.trial, imported.model, kinds, sizes, progress=progress)
    if not result.passed:
        raise VerificationError(
            f"the graph made from '{given}' differs from it: {result.problems[0]}",
            "nothing was written; `toolkit bisect` shows where two graphs part, and a report of this helps",
        )
    set_property(imported.model, VERIFICATION_KEY, json.dumps(result.to_json(), sort_keys=True))
    save_graph(imported.model, path)
    notes = list(imported.notes)
    if RANDOM not in {one.inputs for one in result.measurements}:
        notes.append("the file gives NaN or infinity for random inputs: compared on the real ones alone")
    return _report(path, given, replace(imported, notes=tuple(notes)), result)


def _output(source: Path, output: str | PathLike[str] | None) -> Path:
    path = Path(output) if output is not None else sibling(source, ".master.onnx")
    if path.suffix != ".onnx":
        raise InputError(f"the output '{path}' is not called .onnx", "give --output a name that ends in .onnx")
    if not path.parent.is_dir():
        raise InputError(f"the folder '{path.parent}' does not exist", "make it, or choose another --output")
    if path.resolve() == source.resolve():
        raise InputError(f"'{path}' is the file to import itself", "choose another --output: it is judged against it")
    return path


def _kinds(
    imported: "Imported", data: str | PathLike[str] | None, count: int, progress: Progress
) -> dict[str, dict[str, Any]]:
    """What both graphs are run on: random inputs, and pictures where they take those."""
    kinds = {"random": imported.feeds(count)}
    if imported.metadata.pictures is None:
        if data is not None:
            kinds["real"] = _arrays(imported, data, count)
        return kinds
    images = real_pictures(data, imported.metadata.preprocess, count, progress=progress)
    if images is not None:
        repeated = images[[place % len(images) for place in range(count)]]
        kinds["real"] = imported.feeds(count, images=repeated)
    return kinds


def _arrays(imported: "Imported", data: str | PathLike[str], count: int) -> dict[str, Any]:
    """Inputs of a network of tensors from an ``.npz`` with an array an input."""
    import numpy as np

    try:
        with np.load(data, allow_pickle=False) as file:
            found = {spec.name: file[spec.name] for spec in imported.metadata.inputs}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        wanted = ", ".join(spec.name for spec in imported.metadata.inputs)
        raise InputError(f"'{data}' can't be used: {error}", f"give an .npz with the arrays {wanted}") from error
    for spec in imported.metadata.inputs:
        value = found[spec.name]
        if value.dtype.name != spec.dtype or value.shape[1:] != spec.shape[1:] or not len(value):
            raise InputError(
                f"'{spec.name}' in '{data}' is {value.dtype} {list(value.shape)}", f"it has to be {spec}"
            )
        found[spec.name] = value[np.arange(count) % len(value)]
    return found


def _report(path: Path, source: Path, imported: "Imported", result: Verification) -> ImportReport:
    from export.graph import check_opset, weight_bytes, weights_digest

    model = imported.model
    return ImportReport(
        path,
        source,
        imported.metadata,
        check_opset(model, str(path)),
        dict(Counter(node.op_type for node in model.graph.node)),
        weight_bytes(model),
        weights_digest(model),
        imported.changes,
        imported.notes,
        result,
    )
