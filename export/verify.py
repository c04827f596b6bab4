"""Does a graph compute what its PyTorch network computes? Judged against a noise floor that is measured.

1. The reference is the network in float64. The distance of the same network in float32 from it, the largest
   over all batch sizes, is the noise floor: what rounding alone does to these weights on these inputs. It is
   never taken below one float32 unit in the last place of the largest logit.
2. The graph's logits must stay within :data:`export.verification.MULTIPLE` times the floor, at every batch
   size. The factor leaves room for another order of summation, not for another computation: a wrong mean,
   a missing layer or a changed constant is orders of magnitude beyond it.
3. The floor of a graph typed in FP16 or BF16 is measured likewise: on the network in float32 with weights and
   each layer's result rounded to that type. A quantised graph isn't judged by distance at all, but by label
   agreement, in ``toolkit compare``.
4. A top-1 that differs is a failure where the reference's margin between its two largest logits exceeds twice
   the noise floor (both may move by it), else a tie that rounding decides.
5. A graph that takes only some batch sizes, or gives another shape or type, or NaN, fails with that reason.
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

from engines.errors import InputError, ToolkitError, UnsupportedError
from engines.metadata import ModelMetadata
from engines.preprocess import Preprocess
from engines.progress import QUIET, Progress
from engines.sessions.onnxruntime import OnnxRuntimeSession
from export import reference
from export.graph import inputs, layer_types, load_graph, outputs, save_graph
from export.metrics import margin, snr_db
from export.onnxlib import onnx
from export.verification import MULTIPLE, Measurement, Verification

_UNITS = {"fp32": 2.0**-23, "fp16": 2.0**-10, "bf16": 2.0**-7}
"""A unit in the last place of 1.0, by precision."""

_REFERENCE_BATCH = 4
"""Samples at a time in float64: it is slow and takes twice the memory."""


def batch_sizes_up_to(largest: int) -> tuple[int, ...]:
    """One, two, an odd number and the largest: enough to catch a batch that is baked in or padded."""
    return tuple(sorted({size for size in (1, 2, 7) if size <= largest} | {largest}))


def verify(
    module: nn.Module,
    graph: onnx.ModelProto | Path | str,
    metadata: ModelMetadata,
    *,
    images: NDArray[np.uint8] | None = None,
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
        metadata: its preprocessing makes the inputs.
        images: real pictures, uint8 [N, height, width, channels]; repeated where there are fewer than the
            largest batch. None measures on random pixels only.
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
    kinds = _inputs(metadata, images, max(batch_sizes), seed)
    if (shape_problem := _shape_problem(model, metadata)) is not None:
        return _verdict([], [shape_problem], seed)
    steps = -(-max(batch_sizes) // _REFERENCE_BATCH) + 2 * len(batch_sizes)
    progress.begin("Verifying against PyTorch", steps * len(kinds), "batches")
    try:
        with tempfile.TemporaryDirectory(prefix=".verify-", dir=scratch) as folder:
            file = path or Path(folder, "graph.onnx") if isinstance(graph, onnx.ModelProto) else Path(graph)
            if file.parent == Path(folder):
                save_graph(model, file)
            with OnnxRuntimeSession(file, device="cpu") as session:
                work = _Work(module, session, metadata.preprocess, tuple(batch_sizes), precision, progress)
                measurements, problems = work.measure(kinds)
    finally:
        progress.end()
    return _verdict(measurements, problems, seed)


@dataclass(frozen=True)
class _Work:
    """What stays the same over the kinds of input."""

    module: nn.Module
    session: OnnxRuntimeSession
    preprocess: Preprocess
    batch_sizes: tuple[int, ...]
    precision: str
    progress: Progress

    def measure(self, kinds: Mapping[str, NDArray[np.uint8]]) -> tuple[list[Measurement], list[str]]:
        """Measurements and problems, first of all float64 and the noise, then the graph."""
        measurements, problems = list[Measurement](), list[str]()
        judged = self.module if self.precision == "fp32" else reference.rounded(self.module, self.precision)
        precise = reference.exact(self.module)
        for kind, pixels in kinds.items():
            floats = self.preprocess.normalise(pixels)
            expected = reference.run(precise, floats.astype(np.float64), _REFERENCE_BATCH, self.progress)
            if not np.isfinite(expected).all():
                problems.append(f"{kind} inputs: PyTorch itself gives NaN or infinity")
                continue
            noise = self._noise(judged, floats, expected)
            for batch in self.batch_sizes:
                try:
                    logits = self._run_graph(pixels[:batch], floats[:batch])
                except ToolkitError as error:
                    problems.append(f"{kind} inputs, a batch of {batch}: {error.cause}")
                    continue
                finally:
                    self.progress.advance()
                problem, measurement = _judge(kind, expected[:batch], logits, noise)
                problems += problem
                measurements += measurement
        return measurements, problems

    def _noise(self, judged: nn.Module, floats: NDArray[np.float32], expected: NDArray[np.float64]) -> float:
        """Rules 1 and 3."""
        noise = max(float(np.abs(expected).max()) * _UNITS[self.precision], float(np.finfo(np.float32).tiny))
        for batch in self.batch_sizes:
            result = reference.run(judged, floats[:batch], batch, self.progress)
            noise = max(noise, float(np.abs(result - expected[:batch]).max()))
        return noise

    def _run_graph(self, pixels: NDArray[np.uint8], floats: NDArray[np.float32]) -> NDArray[Any]:
        spec = self.session.inputs[0]
        if spec.dtype not in {"uint8", "float32", "float16"}:
            raise UnsupportedError(f"the input is {spec.dtype}, which can't be fed here", "keep inputs in float32")
        feed = pixels if spec.dtype == "uint8" else floats.astype(spec.dtype, copy=False)
        return self.session.run({spec.name: np.ascontiguousarray(feed)})[self.session.outputs[0].name]


def _judge(
    kind: str, expected: NDArray[np.float64], logits: NDArray[Any], noise: float
) -> tuple[list[str], list[Measurement]]:
    """Problems and the measurement of one batch: rules 2, 4 and 5."""
    batch, where = len(expected), f"{kind} inputs, a batch of {len(expected)}"
    if logits.shape != expected.shape:
        return [f"{where}: the graph gives {list(logits.shape)}, PyTorch {list(expected.shape)}"], []
    values = logits.astype(np.float64)
    if not np.isfinite(values).all():
        return [f"{where}: the graph gives NaN or infinity"], []
    distance = float(np.abs(values - expected).max())
    snr = snr_db(expected, values)
    flipped = values.argmax(1) != expected.argmax(1)
    failures = int(np.count_nonzero(flipped & (margin(expected) > 2 * noise)))
    problems = []
    if distance > MULTIPLE * noise:
        problems.append(
            f"{where}: {distance:.2e} from float64 PyTorch, {distance / noise:.1f} noise floors of {noise:.2e}; "
            f"{MULTIPLE:g} are allowed"
        )
    if failures:
        problems.append(f"{where}: the top-1 of {failures} differs, by more than the noise")
    return problems, [
        Measurement(
            kind, batch, distance, noise, snr if np.isfinite(snr) else None, int(np.count_nonzero(flipped)), failures
        )
    ]


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
    return max(types & _UNITS.keys(), key=lambda name: _UNITS[name], default="fp32")


def _shape_problem(model: onnx.ModelProto, metadata: ModelMetadata) -> str | None:
    """What is wrong with the graph's declared inputs and outputs."""
    given, made = inputs(model), outputs(model)
    if len(given) != 1 or len(made) != 1:
        return f"the graph has {len(given)} inputs and {len(made)} outputs, not one of each"
    spec, preprocess = given[0], metadata.preprocess
    shape: tuple[int, ...] = (preprocess.height, preprocess.width)
    shape = (*shape, preprocess.channels) if spec.dtype == "uint8" else (preprocess.channels, *shape)
    if spec.shape[1:] != shape:
        return f"the graph's input is {spec}, not [batch, {', '.join(map(str, shape))}]"
    for tensor in (spec, made[0]):
        if tensor.shape and isinstance(tensor.shape[0], int):
            return f"the batch size {tensor.shape[0]} is baked into the graph: {tensor}"
    return None


def _inputs(
    metadata: ModelMetadata, images: NDArray[np.uint8] | None, count: int, seed: int
) -> dict[str, NDArray[np.uint8]]:
    """``count`` pictures a kind of input."""
    preprocess = metadata.preprocess
    shape = (preprocess.height, preprocess.width, preprocess.channels)
    kinds = {"random": np.random.default_rng(seed).integers(0, 256, (count, *shape), np.uint8)}
    if images is not None:
        if images.dtype != np.uint8 or images.shape[1:] != shape or not len(images):
            raise InputError(
                f"real pictures must be uint8 [N, {', '.join(map(str, shape))}], got {images.dtype} "
                f"{list(images.shape)}",
                "prepare them with the model's preprocessing",
            )
        kinds["real"] = images[np.arange(count) % len(images)]
    return kinds
