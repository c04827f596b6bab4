"""Check an ONNX graph against the checkpoint that it was made from."""

import json
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from engines.errors import GraphError, InputError
from engines.metadata import ModelMetadata
from engines.optional import require
from engines.progress import QUIET, Progress
from export.verification import Verification
from toolkit.steps.export import Paths, open_checkpoints
from toolkit.steps.samples import real_samples

if TYPE_CHECKING:
    import onnx


def verify(
    checkpoint: Paths,
    graph: str | PathLike[str],
    *,
    architecture: str | None = None,
    classes: int | None = None,
    trust_pickle: bool = False,
    model: str | None = None,
    data: str | PathLike[str] | None = None,
    max_batch: int = 32,
    seed: int = 0,
    save: bool = True,
    progress: Progress = QUIET,
) -> Verification:
    """Compare a graph with its checkpoint, judged by the noise floor that is measured (see ``export.verify``).

    Args:
        checkpoint: as for ``toolkit.export``; several for the graph of an ensemble. Labels and preprocessing of one
            that carries none are the graph's.
        graph: FP32, FP16 or BF16. Its input size is taken; all else of the preprocessing is the checkpoint's.
        architecture: the architecture's name, where keys and shapes don't tell it.
        classes: the number of classes, to insist on.
        trust_pickle: load a pickled module, which runs its code.
        model: the code of a network whose file holds weights alone, as for ``toolkit.export``; it is run.
        data: pictures to verify on; None uses two photographs that scikit-learn brings. For a network that takes
            tensors an ``.npz`` with one array an input; None verifies on random ones alone.
        max_batch: the largest batch; 1, 2 and 7 are tried too.
        seed: of the random inputs.
        save: store what was measured in the graph's metadata, when it passed.
        progress: is told of the work.

    Returns:
        The measurements; ``passed`` is the verdict, which this doesn't raise.

    Raises:
        CheckpointError: the checkpoint can't be loaded or recognised.
        GraphError: the graph is damaged or invalid, or isn't one of images.
        InputError: the graph is quantised, or an option makes no sense.
    """
    require("torch", "Verifying against PyTorch", "export")
    require("onnx", "Verifying against PyTorch", "export")
    from export.graph import VERIFICATION_KEY, get_property, load_graph, read_metadata, save_graph, set_property
    from export.verify import batch_sizes_up_to
    from export.verify import verify as verify_graph

    if max_batch < 1:
        raise InputError(f"a largest batch of {max_batch}", "give --max-batch 1 or more")
    path = Path(graph)
    onnx_model = load_graph(path)
    sources = [Path(checkpoint)] if isinstance(checkpoint, str | PathLike) else [Path(one) for one in checkpoint]
    told = read_metadata(onnx_model)
    loaded = open_checkpoints(
        sources,
        architecture=architecture,
        classes=classes,
        trust_pickle=trust_pickle,
        model=model,
        known=told,
    )
    metadata = loaded.metadata if loaded.metadata.pictures is None else _at_size(loaded.metadata, onnx_model, path)
    differences = _differences(metadata, told)
    real = real_samples(data, metadata, max_batch, seed=seed, progress=progress)
    result = verify_graph(
        loaded.module,
        onnx_model,
        metadata,
        images=real.images,
        tensors=real.tensors,
        batch_sizes=batch_sizes_up_to(max_batch),
        seed=seed,
        path=path,
        progress=progress,
    )
    if differences:
        result = replace(result, passed=False, problems=(*differences, *result.problems))
    text = json.dumps(result.to_json(), sort_keys=True)
    if save and result.passed and get_property(onnx_model, VERIFICATION_KEY) != text:
        set_property(onnx_model, VERIFICATION_KEY, text)
        save_graph(onnx_model, path)
    return result


def _at_size(metadata: ModelMetadata, model: "onnx.ModelProto", path: Path) -> ModelMetadata:
    """The metadata with the graph's input size: it may have been exported at another one."""
    from export.graph import inputs

    spec = inputs(model)[0] if inputs(model) else None
    sizes = spec.shape[1:] if spec is not None and len(spec.shape) == 4 else ()
    fixed = [size for size in sizes if isinstance(size, int)]
    if spec is None or len(fixed) != 3:
        raise GraphError(
            f"'{path}' takes {spec or 'nothing'}, not images of a fixed size", "export it with `toolkit export`"
        )
    height, width = (fixed[0], fixed[1]) if spec.dtype == "uint8" else (fixed[1], fixed[2])
    return replace(metadata, pictures=replace(metadata.preprocess, height=height, width=width))


def _differences(checkpoint: ModelMetadata, graph: ModelMetadata | None) -> list[str]:
    """What the graph's metadata says otherwise than the checkpoint: users of the graph would get that."""
    if graph is None:
        return []
    problems = []
    if graph.labels != checkpoint.labels:
        problems.append(
            f"the graph's {len(graph.labels)} class labels are not the checkpoint's {len(checkpoint.labels)}"
        )
    problems += [
        f"the graph's metadata tells of other {what} than the checkpoint's"
        for what in ("scores", "inputs", "outputs")
        if getattr(checkpoint, what) != getattr(graph, what)
    ]
    if (checkpoint.pictures is None) != (graph.pictures is None):
        problems.append("of the graph and the checkpoint only one takes pictures")
    if checkpoint.pictures is None or graph.pictures is None:
        return problems
    ours, theirs = checkpoint.pictures.to_json(), graph.pictures.to_json()
    if changed := [name for name in ours if ours[name] != theirs.get(name)]:
        problems.append(f"the graph's preprocessing has another {', '.join(changed)} than the checkpoint's")
    return problems
