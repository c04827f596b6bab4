"""Where two graphs of one network part, layer by layer: a typed graph against its master, or two exports.

Both run in ONNX Runtime as written. For each operator that both have, two errors are measured in the second graph:
the one that it has with all that went wrong before it, and the one that it adds by itself, fed with the first graph's
values. The latter is judged against a floor that is measured for this layer: the first graph's weights and inputs in
the second's own types and scales (:mod:`calibration.bisection.judge`). Where channels were equalised
(:mod:`calibration.equalise`), the first graph is equalised alike before.

Another backend can run the second graph: a session of it, or of an engine built from it. Then the second graph is
opened there with its tensors marked as outputs, twice in one: as it is, which gives the error with all that went
wrong before, and with the first graph's values as further inputs, a layer each, which gives a layer's own error. It
is no difference of two cumulative ones. What the types must cost is ONNX Runtime's to tell, as written. Tensors that
are marked can't be fused away: what every backend fuses, a convolution and the ReLU behind it, is one layer here
(:func:`calibration.bisection.marking.unfused`), and how far marking changed the logits is measured and told.
"""

import tempfile
from pathlib import Path

from calibration.bisection.constants import grounded
from calibration.bisection.equalised import equalised
from calibration.bisection.marking import unfused
from calibration.bisection.measure import Batches, Measurement
from calibration.bisection.mend import FINDING, Mender, reach
from calibration.bisection.probe import Probe
from calibration.bisection.record import Bisection, Elsewhere, Mending
from calibration.bisection.sides import Pairs, Side, pair, same_opset
from calibration.bisection.source import Backend, task
from calibration.figures import figures
from calibration.likeness import PAIRS
from calibration.sensitivity import refuse_iterator
from engines.errors import UnsupportedError
from engines.progress import QUIET, Progress
from export.graph import load_graph
from export.onnxlib import onnx
from export.structure import label

Model = onnx.ModelProto | Path | str


def bisect(
    first: Model,
    second: Model,
    batches: Batches,
    *,
    mend: bool = True,
    threads: int | None = None,
    backend: Backend | None = None,
    progress: Progress = QUIET,
) -> Bisection:
    """Find the first layer of ``second`` whose own error is over the noise floor, and what mends the logits.

    Memory is that of the weights of both graphs, twice, and of one batch's activations, five times.

    Args:
        first: the reference, a graph or its path; mostly the FP32 master.
        second: the graph to judge: a typed graph, or another export of the network.
        batches: what both graphs take, float32 [N, C, H, W] or uint8 [N, H, W, C]. They are gone through once, and
            once more for every set of layers that is tried: give a list, or what can be iterated again and again.
        mend: whether to look for the layers to keep wide, where there is something to mend.
        threads: of ONNX Runtime; all cores unless given.
        backend: what runs the second graph; None is ONNX Runtime, as written.
        progress: told of every image of every pass.

    Raises:
        DataError: there are no images.
        GraphError: a graph can't be run, has several inputs, or they aren't of one network.
        InputError: ``batches`` can be iterated only once, or doesn't fit.
        RunError: ONNX Runtime failed.
        UnsupportedError: the second graph computes in BF16, for which ONNX Runtime has no kernels on the CPU.
        MissingLibraryError: ONNX Runtime isn't installed.
    """
    refuse_iterator(batches)
    return bisect_models(
        [_own(first), _own(second)], batches, (_name(first), _name(second)),
        mend=mend, threads=threads, backend=backend, progress=progress,
    )  # fmt: skip


def bisect_models(
    models: list[onnx.ModelProto],
    batches: Batches,
    names: tuple[str, str],
    *,
    mend: bool = True,
    threads: int | None = None,
    backend: Backend | None = None,
    progress: Progress = QUIET,
) -> Bisection:
    """:func:`bisect` with two loaded graphs, which are taken out of the list and changed.

    So nobody holds them while the images go through: their weights are in memory once.

    Args:
        models: the reference and the graph to judge; the list is empty afterwards.
        names: what errors call them.
        batches, mend, threads, backend, progress: as :func:`bisect` has them.
    """
    first_side, second_side, pairs, is_equalised = _prepare(models, *names)
    if backend is not None:
        pairs = unfused(second_side, pairs)
    grounds = grounded(first_side, second_side, pairs)
    probe = Probe(first_side, second_side, pairs, grounds.values)
    with tempfile.TemporaryDirectory(prefix="bisect-") as name:
        folder = Path(name)
        work = Measurement(probe, grounds.gains, folder, threads, backend)
        work.measure(batches, progress)
        layers = work.layers()
        logits, types = figures(work.reference, work.found), figures(work.reference, work.typed)
        over = any(layer.over for layer in layers)
        target = reach(types, over=over)
        mending: Mending | None = None
        if mend and (over or logits.sqnr_db < target):
            mender = Mender(probe, batches, work.reference, folder, progress, threads, backend)
            # A backend may have to build each graph, which is a task of its own: one of all questions would hide it.
            with task(progress if backend is None else QUIET, FINDING):
                mending = mender.mend(layers, target)
    unmatched = tuple(
        label(node)
        for node in probe.second.weighted()
        if node.output[0] not in probe.pairs.tensors and node.output[0] not in probe.pairs.weighted
    )
    elsewhere = None if backend is None else Elsewhere(backend.name, figures(work.found, work.marked))
    return Bisection(
        layers, logits, types, target, mending, unmatched, is_equalised, len(work.reference), elsewhere
    )  # fmt: skip


def _prepare(models: list[onnx.ModelProto], name: str, other: str) -> tuple[Side, Side, Pairs, bool]:
    """Both graphs read and paired, the first equalised as the second is; they are taken out of the list."""
    first, second = models
    models.clear()
    same_opset(first, second)
    there = Side(second, other)
    del second
    here = Side(first, name)
    for side in (here, there):
        if any(side.dtype(tensor) == "bfloat16" for tensor in side.results()):
            raise UnsupportedError(
                f"{side.name} computes in BF16, for which ONNX Runtime has no kernels on the CPU",
                "bisect the FP16 graph: both are typed in the same places",
            )
    pairs = pair(here, there)
    if any(node.op_type in PAIRS for node in there.nodes) and (scaled := equalised(first, there, pairs)) is not None:
        here = Side(scaled, name)
        weighted = {key: here.made_by[node.output[0]] for key, node in pairs.weighted.items()}
        return here, there, Pairs(pairs.tensors, weighted), True
    return here, there, pairs, False


def _own(model: Model) -> onnx.ModelProto:
    """A graph that may be changed."""
    if isinstance(model, Path | str):
        return load_graph(model)
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def _name(model: Model) -> str:
    return f"'{model}'" if isinstance(model, Path | str) else "the graph"
