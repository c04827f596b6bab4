"""Does a graph compute what its PyTorch network computes? Judged against a noise floor that is measured.

1. The reference is the network in float64. The distance of the same network in float32 from it, the largest
   over all batch sizes, is the noise floor: what rounding alone does to these weights on these inputs. Where all of
   them are small the samples are repeated to a batch of :data:`NOISY` too: PyTorch adds up in another order there,
   and the distance of a sample or two by chance alone is no measure. It is never taken below one float32 unit in
   the last place of the largest logit.
2. The graph's logits must stay within :data:`export.verification.MULTIPLE` times the floor, at every batch
   size. The factor leaves room for another order of summation, not for another computation: a wrong mean,
   a missing layer or a changed constant is orders of magnitude beyond it.
3. The floor of a graph typed in FP16 or BF16 is measured likewise: on the network in float32 with weights and
   each layer's result rounded to that type. A quantised graph isn't judged by distance at all, but by label
   agreement, in ``toolkit compare``.
4. A top-1 that differs is a failure where the reference's margin between its two largest logits exceeds twice
   the noise floor (both may move by it), else a tie that rounding decides.
5. A graph that takes only some batch sizes, or gives another shape or type, or NaN, fails with that reason.
6. With several outputs each is judged by itself, by its own noise floor. Rule 4 is for the one that holds a
   classifier's scores. Of an output of integers or booleans (an argmax, say) the distance is the share of elements
   that differ from float64, and the noise the share in which PyTorch differs from itself for rounding: where that
   decides nothing, every element must be equal.
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from engines.errors import InputError, ToolkitError
from engines.metadata import ModelMetadata
from engines.progress import QUIET, Progress
from engines.sessions.onnxruntime import OnnxRuntimeSession
from export import reference
from export.graph import inputs, layer_types, load_graph, outputs, save_graph
from export.judging import UNITS, distance_of, judge, least_noise
from export.onnxlib import onnx
from export.verification import MULTIPLE, Measurement, Verification
from export.verify_samples import Samples, samples_of

_REFERENCE_BATCH = 4
"""Samples at a time in float64: it is slow and takes twice the memory."""

NOISY = 32
"""The noise is measured at a batch of this size in any case."""


def batch_sizes_up_to(largest: int) -> tuple[int, ...]:
    """One, two, an odd number and the largest: enough to catch a batch that is baked in or padded."""
    return tuple(sorted({size for size in (1, 2, 7) if size <= largest} | {largest}))


def verify(
    module: nn.Module,
    graph: onnx.ModelProto | Path | str,
    metadata: ModelMetadata,
    *,
    images: NDArray[np.uint8] | None = None,
    tensors: Mapping[str, NDArray[Any]] | None = None,
    batch_sizes: Sequence[int] = (1, 2, 7, 32),
    seed: int = 0,
    path: Path | None = None,
    scratch: Path | None = None,
    progress: Progress = QUIET,
) -> Verification:
    """Compare a graph with its network by the rules above.

    Args:
        module: float32 on the CPU, in eval mode; it isn't changed.
        graph: the graph or its file.
        metadata: its preprocessing makes the inputs, or it says what they are.
        images: real pictures, uint8 [N, height, width, channels]; repeated where there are fewer than the
            largest batch. None measures on random inputs only.
        tensors: real inputs by name, [N, ...] each, for a network that takes no pictures; repeated likewise.
        batch_sizes: which to try.
        seed: of the random pixels.
        path: the file that holds ``graph`` too, where that was loaded already.
        scratch: the folder in which a graph in memory is written for a moment; None takes the system's.
        progress: is told of each batch.

    Returns:
        The measurements and the verdict.

    Raises:
        InputError, GraphError: the graph can't be loaded or is quantised, or ``images`` don't fit.
        MissingLibraryError: ONNX Runtime isn't installed.
    """
    if not batch_sizes or min(batch_sizes) < 1:
        raise InputError(f"no batch sizes in {list(batch_sizes)}", "give sizes of 1 or more")
    model = graph if isinstance(graph, onnx.ModelProto) else load_graph(graph)
    precision = _precision(model)
    kinds = samples_of(metadata, model, images, tensors, max(batch_sizes), seed)
    if (shape_problem := _shape_problem(model, metadata)) is not None:
        return _verdict([], [shape_problem], seed)
    steps = -(-max(batch_sizes) // _REFERENCE_BATCH) + 2 * len(batch_sizes) + (max(batch_sizes) < NOISY)
    progress.begin("Verifying against PyTorch", steps * len(kinds), "batches")
    try:
        with tempfile.TemporaryDirectory(prefix=".verify-", dir=scratch) as folder:
            file = path or Path(folder, "graph.onnx") if isinstance(graph, onnx.ModelProto) else Path(graph)
            if file.parent == Path(folder):
                save_graph(model, file)
            with OnnxRuntimeSession(file, device="cpu") as session:
                work = _Work(module, session, metadata, tuple(batch_sizes), precision, progress)
                measurements, problems = work.measure(kinds)
    finally:
        progress.end()
    return _verdict(measurements, problems, seed)


@dataclass(frozen=True)
class _Work:
    """What stays the same over the kinds of input."""

    module: nn.Module
    session: OnnxRuntimeSession
    metadata: ModelMetadata
    batch_sizes: tuple[int, ...]
    precision: str
    progress: Progress

    def measure(self, kinds: Mapping[str, Samples]) -> tuple[list[Measurement], list[str]]:
        """Measurements and problems, first of all float64 and the noise, then the graph."""
        measurements, problems = list[Measurement](), list[str]()
        judged = self.module if self.precision == "fp32" else reference.rounded(self.module, self.precision)
        precise = reference.exact(self.module)
        for kind, samples in kinds.items():
            expected = self._named(reference.run_all(precise, samples.doubled(), _REFERENCE_BATCH, self.progress))
            if not all(np.isfinite(values).all() for values in expected.values()):
                problems.append(f"{kind} inputs: PyTorch itself gives NaN or infinity")
                continue
            noises = self._noises(judged, samples, expected)
            for batch in self.batch_sizes:
                try:
                    answers = self._run_graph(samples, batch)
                except ToolkitError as error:
                    problems.append(f"{kind} inputs, a batch of {batch}: {error.cause}")
                    continue
                finally:
                    self.progress.advance()
                for name, values in expected.items():
                    output = name if self.metadata.outputs else ""
                    scores = name == self.metadata.scored
                    problem, measurement = judge(
                        kind, values[:batch], answers[name], noises[name], output=output, scores=scores
                    )
                    problems += problem
                    measurements += measurement
        return measurements, problems

    def _noises(self, judged: nn.Module, samples: Samples, expected: Mapping[str, NDArray[Any]]) -> dict[str, float]:
        """Rules 1, 3 and 6, for each output."""
        noises = {name: least_noise(values, self.precision) for name, values in expected.items()}
        for batch in self.batch_sizes if max(self.batch_sizes) >= NOISY else (*self.batch_sizes, NOISY):
            chosen = np.arange(batch) % len(samples.arrays[0])
            parts = [array[chosen] for array in samples.arrays]
            found = self._named(reference.run_all(judged, parts, batch, self.progress))
            for name, values in found.items():
                noises[name] = max(noises[name], distance_of(expected[name][chosen], values))
        return noises

    def _run_graph(self, samples: Samples, batch: int) -> dict[str, NDArray[Any]]:
        names = [spec.name for spec in self.metadata.taken]
        answers = self.session.run(samples.feeds(self.session.inputs, names, batch))
        wanted = [spec.name for spec in self.metadata.given]
        if len(wanted) == 1 or set(wanted) != answers.keys():  # the names of a foreign graph: by position
            return dict(zip(wanted, (answers[spec.name] for spec in self.session.outputs), strict=True))
        return answers

    def _named(self, answers: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """PyTorch's answers under the names in the metadata, which are in its order."""
        given = self.metadata.given
        if len(answers) != len(given):
            raise InputError(
                f"PyTorch gives {len(answers)} outputs ({', '.join(answers)}), not {len(given)}", "export it again"
            )
        return {spec.name: values for spec, values in zip(given, answers.values(), strict=True)}


def _verdict(measurements: list[Measurement], problems: list[str], seed: int) -> Verification:
    import onnxruntime

    versions = {
        "torch": str(torch.__version__),
        "onnx": str(onnx.__version__),
        "onnxruntime": str(onnxruntime.__version__),
    }
    return Verification(not problems, MULTIPLE, tuple(measurements), tuple(problems), versions, seed)


def _precision(model: onnx.ModelProto) -> str:
    """The shortest type that the graph's layers compute in."""
    types = {layer.type for layer in layer_types(model)}
    if types & {"int8", "fp8"}:
        raise InputError(
            "a quantised graph differs from PyTorch by more than rounding",
            "compare their labels: toolkit compare MODEL.pt GRAPH.onnx --data DATA",
        )
    return max(types & UNITS.keys(), key=lambda name: UNITS[name], default="fp32")


def _shape_problem(model: onnx.ModelProto, metadata: ModelMetadata) -> str | None:
    """What is wrong with the graph's declared inputs and outputs."""
    given, made = inputs(model), outputs(model)
    taken, wanted = metadata.taken, metadata.given
    if (len(given), len(made)) != (len(taken), len(wanted)):
        amount = "one of each" if len(taken) == len(wanted) == 1 else f"{len(taken)} and {len(wanted)}"
        return f"the graph has {len(given)} inputs and {len(made)} outputs, not {amount}"
    if metadata.pictures is not None:
        spec, preprocess = given[0], metadata.preprocess
        shape: tuple[int, ...] = (preprocess.height, preprocess.width)
        shape = (*shape, preprocess.channels) if spec.dtype == "uint8" else (preprocess.channels, *shape)
        if spec.shape[1:] != shape:
            return f"the graph's input is {spec}, not [batch, {', '.join(map(str, shape))}]"
    else:
        known = {spec.name: spec for spec in given}
        for spec in taken:
            found = known.get(spec.name) if len(taken) > 1 else given[0]
            if found is None or found.shape[1:] != spec.shape[1:]:
                return f"the graph takes {found or '; '.join(map(str, given))}, not {spec}"
    for tensor in (*given, *made):
        if tensor.shape and isinstance(tensor.shape[0], int):
            return f"the batch size {tensor.shape[0]} is baked into the graph: {tensor}"
    return None
