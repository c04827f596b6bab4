"""How often a comparison is right: of an engine with itself, and with one that was made 10 % slower on purpose.

Run it on a quiet machine::

    python benchmarks/comparison_power.py                          # AlexNet INT8 with random weights, ONNX Runtime
    python benchmarks/comparison_power.py --graph model.int8.ort.onnx

Each repetition asks five ways of comparing two engines the same two questions, in a shuffled order: is it called
equal with itself, and called slower when it waits a tenth of each run's time after it, busily? *toolkit* is
``toolkit.compare`` with its defaults. The others measure both engines in one fresh process, one after the other, as
scripts do, for a second each:

- *bootstrap*: the 95 % percentile bootstrap of the ratio of the medians of all runs;
- *welch*: Welch's t-test (alpha 0.05) of ten means over a tenth of a second each, as pyperf tests its values;
- *torch_iqr*: ``torch.utils.benchmark``'s ``Timer.blocked_autorange``, different when the interquartile ranges of the
  two measurements have nothing in common;
- *torch_figures*: the same measurements, different when the medians are, cut to their significant figures as
  ``torch.utils.benchmark.Compare`` prints them.

The record goes to ``benchmarks/results/comparison_power.json``.
"""

import argparse
import datetime as dt
import json
import random
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(__file__).resolve().parent
# Python puts a script's folder first, where calibration.py would be taken for the package of the same name.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != FOLDER]
sys.path.insert(0, str(FOLDER.parent))

RESULTS = FOLDER / "results"
SLOWER = 0.1
"""Share of each run's own time that the slower engine waits after it."""

CHUNK = 0.1
"""Seconds of one of pyperf's values."""

WAYS = ("toolkit", "bootstrap", "welch", "torch_iqr", "torch_figures")


def slowed(path: str, **options: Any) -> Any:
    """Open the artifact as the toolkit does, and let every run take a tenth longer."""
    from toolkit.loading import open_artifact

    session = open_artifact(path, **options)
    run = session.run

    def longer(feeds: Any) -> Any:
        began = time.perf_counter()
        outputs = run(feeds)
        until = time.perf_counter() + SLOWER * (time.perf_counter() - began)
        while time.perf_counter() < until:
            pass
        return outputs

    session.run = longer
    return session


def by_toolkit(graph: Path, *, slower: bool) -> dict[str, Any]:
    """The ratio of the second's speed to the first's by ``toolkit.compare``."""
    from toolkit.benchmarking.messages import OPEN_ARTIFACT, Contestant
    from toolkit.steps.compare import compare

    began = time.perf_counter()
    opener = "benchmarks.comparison_power:slowed" if slower else OPEN_ARTIFACT
    pair = [Contestant(str(graph), "first"), Contestant(str(graph), "second", opener=opener)]
    comparison = compare(
        pair, None, reference="first", batch_sizes=(1,), device="cpu", update_passports=False, fresh=True
    )
    second = comparison.row("second")
    ratio = second.speeds[1].ratio
    assert ratio is not None
    return {
        "toolkit": {**ratio.to_json(), "verdict": _verdict(ratio.low, ratio.high)},
        "conditions": comparison.conditions[0] and comparison.conditions[0].to_json(),
        "seconds": time.perf_counter() - began,
    }


def by_peers(graph: Path, *, slower: bool, seconds: float) -> dict[str, Any]:
    """The others' answers, measured in a process of their own."""
    began = time.perf_counter()
    command = [sys.executable, __file__, "--child", str(graph), "--seconds", str(seconds)]
    answer = subprocess.run([*command, *(["--slower"] if slower else [])], stdout=subprocess.PIPE, check=True)
    measured = json.loads(answer.stdout.splitlines()[-1])
    found = {
        "bootstrap": _bootstrap(*measured["runs"]),
        "welch": _welch(*measured["runs"]),
        "torch_iqr": _torch_iqr(*measured["torch"]),
        "torch_figures": _torch_figures(*measured["torch"]),
    }
    return {**found, "seconds": time.perf_counter() - began}


def _verdict(low: float | None, high: float | None) -> str:
    if low is None or high is None:
        return "none"
    return "faster" if low > 1 else "slower" if high < 1 else "equal"


def _bootstrap(first: list[float], second: list[float]) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    drawn = [np.median(rng.choice(times, (2000, len(times))), axis=1) for times in (first, second)]
    low, high = np.quantile(drawn[0] / drawn[1], (0.025, 0.975))
    return {"value": np.median(first) / np.median(second), "low": low, "high": high, "verdict": _verdict(low, high)}


def _welch(first: list[float], second: list[float]) -> dict[str, Any]:
    from scipy.stats import ttest_ind

    one, other = _chunks(first), _chunks(second)
    p_value = float(ttest_ind(one, other, equal_var=False).pvalue)
    ratio = float(np.mean(one) / np.mean(other))
    return {
        "value": ratio, "p_value": p_value,
        "verdict": "equal" if p_value >= 0.05 else "faster" if ratio > 1 else "slower",
    }  # fmt: skip


def _chunks(times: list[float]) -> list[float]:
    """Means over a tenth of a second each."""
    number = (np.cumsum(times) / CHUNK).astype(int)
    return [float(np.mean(np.asarray(times)[number == value])) for value in np.unique(number)]


def _torch_iqr(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """A measurement's interquartile range is what ``Measurement.iqr`` and its warnings go by."""
    one, other = (np.quantile(measured["times"], (0.25, 0.75)) for measured in (first, second))
    ratio = first["median"] / second["median"]
    apart = one[0] > other[1] or other[0] > one[1]
    return {"value": ratio, "verdict": "equal" if not apart else "faster" if ratio > 1 else "slower"}


def _torch_figures(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    one, other = (measured["trimmed"] for measured in (first, second))
    verdict = "equal" if one == other else "faster" if one > other else "slower"
    return {"value": first["median"] / second["median"], "verdict": verdict}


def child(graph: Path, *, slower: bool, seconds: float) -> None:
    """What a script does: open both, time one, then the other; prints the times as JSON."""
    from torch.utils import benchmark
    from torch.utils.benchmark.utils.common import trim_sigfig

    from toolkit.loading import open_artifact

    sessions = [
        open_artifact(str(graph), device="cpu"),
        (slowed if slower else open_artifact)(str(graph), device="cpu"),
    ]
    spec = sessions[0].inputs[0]
    sample = np.random.default_rng(0).standard_normal((1, *spec.shape[1:]), np.float32).astype(spec.dtype)
    feeds = {spec.name: sample}
    runs: list[list[float]] = []
    for session in sessions:
        for _ in range(5):
            session.run(feeds)
        times: list[float] = []
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            began = time.perf_counter()
            session.run(feeds)
            times.append(time.perf_counter() - began)
        runs.append(times)
    measured = []
    for session in sessions:
        timer = benchmark.Timer("session.run(feeds)", globals={"session": session, "feeds": feeds})
        found = timer.blocked_autorange(min_run_time=seconds)
        measured.append(
            {
                "times": list(found.times),
                "median": found.median,
                "trimmed": trim_sigfig(found.median, found.significant_figures),
            }
        )
    print(json.dumps({"runs": runs, "torch": measured}))


def summary(repetitions: list[dict[str, Any]]) -> dict[str, Any]:
    """How often each way was right, and how long it took."""
    count = len(repetitions)
    found: dict[str, Any] = {}
    for way in WAYS:
        equal = sum(one["equal"][way]["verdict"] == "equal" for one in repetitions)
        slower = sum(one["slower"][way]["verdict"] == "slower" for one in repetitions)
        found[way] = {"equal_called_equal": equal, "slower_called_slower": slower, "of": count}
    return found


def main() -> None:
    from engines.files import write_atomically
    from toolkit.machine import describe

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--graph", type=Path, help="a graph for ONNX Runtime [an INT8 AlexNet made here]")
    parser.add_argument("--repetitions", type=int, default=20, help="[20]")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each engine in the other ways [1]")
    parser.add_argument("--output", type=Path, default=RESULTS / "comparison_power.json")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--slower", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child, slower=options.slower, seconds=options.seconds)
        return
    rng = random.Random(0)  # noqa: S311 - an order, not a secret
    repetitions: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        graph = options.graph or _alexnet(Path(folder))
        for number in range(options.repetitions):
            found: dict[str, dict[str, Any]] = {"equal": {}, "slower": {}}
            tasks = [(kind, way) for kind in found for way in ("toolkit", "peers")]
            rng.shuffle(tasks)
            for kind, way in tasks:
                slower = kind == "slower"
                answer = (
                    by_toolkit(graph, slower=slower)
                    if way == "toolkit"
                    else by_peers(graph, slower=slower, seconds=options.seconds)
                )
                found[kind][f"{way}_seconds"] = answer.pop("seconds")
                found[kind].update(answer)
            repetitions.append(found)
            print(f"{number + 1}/{options.repetitions}", *(_line(kind, found[kind]) for kind in found), flush=True)
    totals = summary(repetitions)
    record = {
        "schema": "onnx-tensorrt-toolkit/comparison-power-benchmark",
        "version": 1,
        "created": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "command": " ".join(
            ["python", "benchmarks/comparison_power.py", *(Path(word).name for word in sys.argv[1:])]  # no folders
        ),
        "machine": describe().to_json(),
        "versions": {name: version(name) for name in ("onnxruntime", "torch", "scipy", "numpy")},
        "settings": {
            "graph": options.graph.name if options.graph else "AlexNet INT8, random weights", "batch": 1,
            "repetitions": options.repetitions, "seconds": options.seconds, "slower": SLOWER,
        },
        "summary": totals,
        "repetitions": repetitions,
    }  # fmt: skip
    options.output.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(options.output, json.dumps(record, indent=1, allow_nan=False) + "\n")
    for way, right in totals.items():
        print(
            f"{way:14} equal called equal {right['equal_called_equal']:2} of {right['of']}, "
            f"slower called slower {right['slower_called_slower']:2} of {right['of']}"
        )
    print(f"record: {options.output.name}")


def _alexnet(folder: Path) -> Path:
    """An INT8 AlexNet with random weights: speed doesn't depend on their values."""
    from benchmarks.int8_onnxruntime import make_graph, make_ours

    master, graph = folder / "model.onnx", folder / "model.int8.ort.onnx"
    make_graph(master)
    make_ours(master, graph, 32)
    return graph


def _line(kind: str, found: dict[str, Any]) -> str:
    ratio = found["toolkit"]
    others = " ".join(f"{way}={found[way]['verdict']}" for way in WAYS[1:])
    return (
        f"| {kind}: toolkit={ratio['verdict']} {ratio['value']:.3f} ({ratio['low']:.3f}-{ratio['high']:.3f}) {others}"
    )


if __name__ == "__main__":
    main()
