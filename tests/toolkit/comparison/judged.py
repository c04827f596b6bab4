"""Records with figures made up for a purpose: how fast, how accurate and of what precision each row is."""

import numpy as np

from engines.sessions.base import SessionInfo, StageTimes
from engines.tensors import TensorSpec
from toolkit.benchmarking.messages import Block, Opened
from toolkit.benchmarking.timing import Interval, Timing, speed_ratio
from toolkit.comparison.accuracy.accuracy import Accuracy, Against, Share
from toolkit.comparison.accuracy.paired import mcnemar, paired_interval
from toolkit.comparison.layers import Layers
from toolkit.comparison.records.record import Comparison, DataFacts
from toolkit.comparison.records.row import Row, Speed
from toolkit.machine import Machine

IMAGES = 1000
CPU = Machine("Linux 6.1", "x86_64", "Some Processor", 2, ("avx2", "avx512_vnni"))
GPU = Machine("Linux 6.1", "x86_64", "Some Processor", 16, ("avx2", "avx512_vnni"), gpus=({"name": "Some GPU"},))


def timing(
    batch: int, seconds: float, *, noise: float = 0.01, seed: int = 0, stages: StageTimes | None = None
) -> Timing:
    """Two launches of twenty turns of two runs each, lognormal around ``seconds``; a seed of 0 is never repeated."""
    rng = np.random.default_rng([int(seconds * 1e9), batch, seed])
    spread = np.exp(noise * rng.standard_normal((2, 20, 2)))
    blocks = [
        [Block(tuple(map(float, turn)), (stages,) * 2 if stages else ()) for turn in launch]
        for launch in seconds * spread
    ]
    return Timing.of(batch, blocks)


def layers(precision: str, **others) -> Layers:
    return Layers(
        **{"source": "graph", "shares": {precision: 1.0}, "heavy": 8, "float_layers": (), "precision": precision}
        | others
    )


def accuracy(right: int, *, hurt: int = 0, helped: int = 0, images: int = IMAGES, **others) -> Accuracy:
    """So many right; with as many images hurt and helped against the reference, which has hurt - helped more."""
    low, high = paired_interval(hurt, helped, images)
    drop = Interval((hurt - helped) / images, low, high)
    flips = Share(hurt + helped, images)
    against = Against(flips, 0.0, 0, helped, hurt, drop, mcnemar(hurt, helped))
    agreement = Share(images - flips.count, images)
    return Accuracy(Share(right, images), None, agreement, **{"non_finite": 0, "against": against} | others)


def row(name: str, seconds: dict[int, float] | None = None, precision: str = "", **others) -> Row:
    """A row that ONNX Runtime ran on the CPU, unless ``others`` say otherwise."""
    backend, device = others.pop("backend", "onnxruntime"), others.pop("device", "cpu")
    noise, seed, stages = others.pop("noise", 0.01), others.pop("seed", 0), others.pop("stages", {})
    spec = TensorSpec("input", others.pop("dtype", "float32"), ("batch", 3, 8, 8))
    opened = Opened((spec,), (spec,), None, SessionInfo(backend, device), 0.1, 0.1)
    speeds = {
        batch: Speed(timing(batch, second, noise=noise, seed=seed, stages=stages.get(batch)))
        for batch, second in (seconds or {}).items()
    }
    given = {"opened": opened, "layers": layers(precision) if precision else None, "size": 1_000_000}
    return Row(**{"name": name, "path": name, "digest": f"sha256:{name}", "speeds": speeds} | given | others)


def comparison(*rows: Row, machines=(CPU,), **others) -> Comparison:
    """Of one run against the first row; ratios are those of the rows' times."""
    reference = others.pop("reference", rows[0].name)
    data = DataFacts("digits", "test", IMAGES, 0, "sha256:0")
    base = next((one for one in rows if one.name == reference), None)
    for one in rows:
        for batch, speed in one.speeds.items():
            if base is not None and one is not base and batch in base.speeds:
                ratio = speed_ratio(base.speeds[batch].timing, speed.timing)
                one.speeds[batch] = Speed(speed.timing, ratio)
    facts = {"data": data, "conditions": (None,) * len(machines)} | others
    return Comparison(
        "2026-11-22T00:00:00+00:00", "toolkit compare", machines, {}, reference=reference, rows=rows, **facts
    )
