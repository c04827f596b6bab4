"""Records for tests of reports: real types, figures that hang together, made from seeded logits and times."""

import base64
import io
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from engines.sessions.base import SessionInfo, StageTimes
from engines.tensors import TensorSpec
from tests.tiny import tiny_images
from toolkit.benchmarking.conditions import Conditions, GpuConditions, Spread
from toolkit.benchmarking.messages import Block, Opened, Proof
from toolkit.benchmarking.timing import Interval, Timing, speed_ratio
from toolkit.comparison.accuracy.accuracy import Accuracy, Against, Confidence, Confusion, Disagreement, Share
from toolkit.comparison.accuracy.paired import mcnemar, paired_interval
from toolkit.comparison.goal import Goal
from toolkit.comparison.layers import Layers
from toolkit.comparison.records.record import ColdStart, Comparison, DataFacts, Failure, Part, Row, Speed, Verdict
from toolkit.machine import Machine

BATCHES = (1, 8, 32)


@dataclass
class Kind:
    """What one artifact of a made-up comparison is like."""

    name: str
    backend: str = "onnxruntime"
    device: str = "cpu"
    provider: str = "CPUExecutionProvider"
    precision: str = "fp32"
    size: int = 228_185_086
    noise: float = 0.0
    latency: float = 0.02
    overhead: float = 0.002
    failure: Failure | None = None
    stages: bool = False
    shares: dict[str, float] = field(default_factory=dict)
    float_layers: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    nan: bool = False


DEMO = (
    Kind("model.pt", "torch", provider="eager", latency=0.021, overhead=0.004),
    Kind("model.onnx", noise=0.02, latency=0.0145),
    Kind("model.fp16.onnx", precision="fp16", size=114_095_692, noise=0.15, latency=0.0152, overhead=0.003),
    Kind("model.int8.onnx", precision="int8", size=57_431_000, noise=1.1, latency=0.0181,
         shares={"int8": 0.625, "fp32": 0.375}, float_layers=("features.0", "classifier.1", "classifier.4")),
    Kind("model.int8.ort.onnx", precision="int8", size=57_422_000, noise=0.7, latency=0.0066, overhead=0.0012),
    Kind("model.fp16.rtx.engine", "tensorrt-rtx", "cuda:0", "", "fp16", 114_300_000,
         failure=Failure("this machine has no NVIDIA driver", "run it on a machine with an NVIDIA GPU")),
    Kind("model.int8.rtx.engine", "tensorrt-rtx", "cuda:0", "", "int8", 58_606_572,
         failure=Failure("this machine has no NVIDIA driver", "run it on a machine with an NVIDIA GPU")),
)  # fmt: skip

GPU = (
    Kind("model.pt", "torch", "cuda:0", "eager", latency=0.0006, overhead=0.0011, stages=True),
    Kind("model.fp16.engine", "tensorrt", "cuda:0", "", "fp16", 114_300_000, 0.15, 0.00011, 0.0002, stages=True),
    Kind("model.int8.engine", "tensorrt", "cuda:0", "", "int8", 58_606_572, 0.8, 0.00008, 0.00018, stages=True),
)


def png(pixels: NDArray[np.uint8]) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def machine(**facts: Any) -> Machine:
    values: dict[str, Any] = {
        "system": "Linux 6.18", "architecture": "x86_64", "processor": "Intel(R) Xeon(R) Processor", "cores": 2.0,
        "instructions": ("avx2", "avx512f", "avx512_vnni"), "memory": 25_276_510_208, "python": "3.11.7",
        "libraries": {"onnx-tensorrt-toolkit": "0.1.0", "onnxruntime": "1.31.1", "torch": "2.13.0+cpu"},
    }  # fmt: skip
    return Machine(**(values | facts))


def accuracies(
    kinds: tuple[Kind, ...], images: int, classes: int, labels: tuple[str, ...], seed: int
) -> dict[str, Accuracy]:
    """Accuracy of each from logits that differ from the first one's by noise."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes, images)
    first = rng.normal(0, 1, (images, classes))
    first[np.arange(images), truth] += rng.choice([9.0, 3.4], images, p=[0.8, 0.2])
    found = {}
    for kind in kinds:
        if kind.failure:
            continue
        logits = first + kind.noise * rng.normal(0, 1, first.shape)
        found[kind.name] = accuracy(logits, truth, labels, first if kind is not kinds[0] else None, nan=kind.nan)
    return found


def accuracy(
    logits: NDArray[np.float64],
    truth: NDArray[np.int64],
    labels: tuple[str, ...],
    reference: NDArray[np.float64] | None,
    *,
    nan: bool,
) -> Accuracy:
    images, classes = logits.shape
    answered = np.ones(images, bool)
    if nan:
        answered[::3] = False
    probabilities = softmax(logits)
    top = np.where(answered, logits.argmax(1), -1)
    sure = probabilities.max(1)
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (truth[answered], top[answered]), 1)
    unanswered = np.bincount(truth[~answered], minlength=classes).astype(np.int64)
    bins = np.clip(np.ceil(sure * 15).astype(int) - 1, 0, 14)[answered]
    confidence = Confidence.of(
        *(np.bincount(bins, weight, 15).tolist() for weight in
          (None, sure[answered], (top == truth)[answered].astype(float))))  # fmt: skip
    confidence = confidence and Confidence.from_json(
        {"ece": confidence.ece, "bins": [{**vars(b), "count": int(b.count)} for b in confidence.bins]}
    )
    right = int((top == truth).sum())
    own = np.sort(logits, 1)[:, ::-1]
    fifth = own[:, min(4, classes - 1)]
    among = int((answered & (logits[np.arange(images), truth] >= fifth)).sum())
    against, agreement, disagreements = None, None, ()
    if reference is not None:
        referred = reference.argmax(1)
        theirs = softmax(reference)
        ordered = np.sort(theirs, 1)[:, ::-1]
        margin = ordered[:, 0] - (ordered[:, 1] if classes > 1 else 0)
        flipped = top != referred
        hurt = int(((referred == truth) & (top != truth)).sum())
        helped = int(((referred != truth) & (top == truth)).sum())
        low, high = paired_interval(hurt, helped, images)
        against = Against(
            Share(int(flipped.sum()), images), float(margin[flipped].sum() / images),
            int((flipped & (margin > 0.5)).sum()), helped, hurt, Interval((hurt - helped) / images, low, high),
            mcnemar(hurt, helped), float((theirs * np.log(theirs / probabilities)).sum(1).mean()),
            float(10 * np.log10((reference**2).sum() / max(1e-30, ((reference - logits) ** 2).sum()))),
        )  # fmt: skip
        agreement = Share(int((~flipped).sum()), images)
        worst = sorted(np.flatnonzero(flipped).tolist(), key=lambda i: -margin[i])[:12]
        disagreements = tuple(
            Disagreement(i, labels[truth[i]], labels[referred[i]], float(theirs[i].max()),
                         labels[top[i]] if answered[i] else None, float(sure[i]) if answered[i] else None,
                         float(margin[i])) for i in worst)  # fmt: skip
    return Accuracy(
        Share(right, images), Share(among, images) if classes > 5 else None, agreement, int((~answered).sum()),
        Confusion(labels, counts, unanswered), confidence, against, disagreements,
    )  # fmt: skip


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(powers / powers.sum(1, keepdims=True))


def timing(kind: Kind, batch: int, seed: int, launches: int = 2, turns: int = 10) -> Timing:
    rng = np.random.default_rng([seed, batch, *kind.name.encode()])
    middle = kind.overhead + kind.latency * batch**0.8

    def turn(bias: float) -> Block:
        seconds = middle * bias * (1 + rng.gamma(1.2, 0.03, max(1, int(0.1 / middle / 2)) % 8 + 1))
        seconds = tuple(np.round(np.where(rng.random(len(seconds)) < 0.03, 1.6, 1) * seconds, 7).tolist())
        stages = StageTimes(0.05 * middle, 0.7 * middle, 0.02 * middle)
        return Block(seconds, (stages,) * len(seconds) if kind.stages else ())

    return Timing.of(batch, [[turn(1 + 0.02 * launch) for _ in range(turns)] for launch in range(launches)])


def rows(
    kinds: tuple[Kind, ...], *, images: int = 359, classes: int = 10, labels: tuple[str, ...] = (),
    batches: tuple[int, ...] = BATCHES, with_accuracy: bool = True, seed: int = 3, machine: int = 0,
) -> tuple[Row, ...]:  # fmt: skip
    labels = labels or tuple(str(number) for number in range(classes))
    scores = accuracies(kinds, images, classes, labels, seed) if with_accuracy else {}
    first: dict[int, Timing] = {}
    made = []
    spec = TensorSpec("input", "float32", ("batch", 3, 224, 224))
    for kind in kinds:
        opened, speeds, layers = None, {}, None
        if kind.failure is None:
            info = SessionInfo(kind.backend, kind.device, kind.provider, {"onnxruntime": "1.31.1"})
            opened = Opened((spec,), (TensorSpec("logits", "float32", ("batch", classes)),), None, info, 0.7, 0.04)
            for batch in batches:
                measured = timing(kind, batch, seed)
                first.setdefault(batch, measured)
                ratio = speed_ratio(first[batch], measured) if measured is not first[batch] else None
                speeds[batch] = Speed(measured, ratio)
        shares = kind.shares or {kind.precision: 1.0}
        layers = Layers("graph", shares, 8, kind.float_layers, kind.precision)
        passport = None
        if kind.name.endswith(".engine"):
            passport = {
                "format": "onnx-tensorrt-toolkit/passport", "version": 1, "engine": kind.name,
                "backend": kind.backend, "precision": kind.precision, "digest": "sha256:" + "e4ba" * 16,
                "created": "2026-11-22T17:06:33+00:00",
                "size": kind.size, "command": f"toolkit build-engine model.onnx --{kind.precision}",
                "versions": {"tensorrt_rtx": "1.7.1.116"}, "platform": "linux-x86_64",
                "compute_capabilities": ["8.0", "8.6", "8.9", "12.0"],
                "gpu": None, "sources": {"graph": "sha256:" + "31" * 32, "weights": "sha256:" + "0f" * 32},
                "profiles": [{"input": [[1, 3, 224, 224], [8, 3, 224, 224], [32, 3, 224, 224]]}],
            }  # fmt: skip
        made.append(Row(
            name=kind.name, path=kind.name, size=kind.size, digest="sha256:" + "ab" * 32, opened=opened,
            architecture="alexnet" if opened else None,
            cold_starts=(ColdStart(kind.latency * 60, 0.04), ColdStart(kind.latency * 55, 0.038)) if opened else (),
            accuracy=scores.get(kind.name), speeds=speeds, memory=471_396_352 + kind.size if opened else None,
            device_memory=kind.size * 2 if opened and kind.stages else None,
            proof=Proof(kind.provider, "node times of a profiled run", {kind.provider or "cuda:0": 1.0})
            if opened else None,
            layers=layers, passport=passport, failure=kind.failure, notes=kind.notes, machine=machine,
        ))  # fmt: skip
    return tuple(made)


def conditions(*, gpu: bool = False) -> Conditions:
    gpus = (GpuConditions(0, "NVIDIA H200", Spread(1980, 1980, 1980), Spread(34, 41, 44), Spread(118, 230, 301),
                          Spread(0, 0.4, 1), Spread(0, 0, 0), 0, ("power cap",)),) if gpu else ()  # fmt: skip
    return Conditions(52.3, Spread(0.02, 0.11, 0.86), 0.004, Spread(2100, 2700, 2700), 0, gpus)


def verdicts(made: tuple[Row, ...]) -> tuple[Verdict, ...]:
    """Sentences of the kinds that verdicts have, about rows that there are."""
    names = [row.name for row in made if row.speeds]
    if len(names) < 5:
        return ()
    recommended = (
        f"the fastest of those that lose at most 1.5 points: 8.08 ms at batch 1, 3.23x the speed of {names[0]}"
    )
    no_faster = f"INT8 is no faster than {names[2]} here: three of its eight layers stay in float"
    return (
        Verdict("recommended", names[4], recommended, {"batch": 1}),
        Verdict("dominated", names[2], f"{names[1]} is faster and no less accurate", {"by": names[1]}),
        Verdict("no-faster", names[3], no_faster),
        Verdict("not-measured", made[-1].name, "there is no NVIDIA driver"),
    )


def comparison(kinds: tuple[Kind, ...] = DEMO, **options: Any) -> Comparison:
    """A whole record; ``options`` are those of :func:`rows`, and any attribute of the record."""
    attributes = {name: options.pop(name) for name in list(options) if name in Comparison.__dataclass_fields__}
    images, with_accuracy = options.get("images", 359), options.get("with_accuracy", True)
    made = attributes.pop("rows", None) or rows(kinds, **options)
    flipped = {one.image for row in made if row.accuracy for one in row.accuracy.disagreements}
    pixels = np.asarray(tiny_images(1)[0]).squeeze()
    pictures = {image: png(np.roll(pixels, image, 0)) for image in sorted(flipped)}
    values: dict[str, Any] = {
        "created": "2026-11-22T17:25:17+00:00",
        "command": "toolkit compare " + " ".join(kind.name for kind in kinds) + " --data digits --goal balanced",
        "machines": (machine(),),
        "settings": {"batch_sizes": list(options.get("batches", BATCHES)), "seconds": 1.0, "rounds": 40,
                     "launches": 2, "warm_seconds": 0.3, "seed": 0, "images": None, "threads": None},
        "data": DataFacts("digits", "test", images, 0, "sha256:" + "48" * 32) if with_accuracy else None,
        "reference": made[0].name,
        "rows": made,
        "warnings": ("times vary widely (p95 over 1.5 x the median): model.pt at batch 1",),
        "conditions": (conditions(gpu=any(kind.stages for kind in kinds)),),
        "verdicts": verdicts(made),
        "goal": Goal("balanced", 0.5),
        "pictures": pictures,
    }  # fmt: skip
    return Comparison(**(values | attributes))


def merged() -> Comparison:
    """A laptop's record beside a GPU host's."""
    here = comparison(DEMO[:5], batches=(1, 8))
    renamed = tuple(Kind(**{**vars(kind), "name": f"{kind.name} (gpu)"}) for kind in GPU)
    there = rows(renamed, batches=(1, 8), machine=1)
    parts = tuple(
        Part(source, "2026-11-22T17:25:17+00:00", here.command, here.settings, here.data, reference)
        for source, reference in (("laptop.json", here.reference), ("gpu-host.json", there[0].name))
    )
    host = machine(
        processor="AMD EPYC 9654",
        cores=16.0,
        gpus=({"name": "NVIDIA H200", "memory": 150_000_000_000, "driver": "580.82"},),
    )
    return comparison(
        rows=(*here.rows, *there), machines=(machine(), host), conditions=(conditions(), conditions(gpu=True)),
        parts=parts, reference=None, command="toolkit compare --from laptop.json gpu-host.json",
    )  # fmt: skip
