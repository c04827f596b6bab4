"""Three networks as one graph: is it better than they are on average, and does it give the mean of what they give?

    python benchmarks/ensemble.py --work FOLDER [a.pt b.pt c.pt]

Without checkpoints, networks of three seeds are trained on the digits for a few epochs. Members and ensemble answer
the whole test split through ONNX Runtime. The mean of the members' probabilities is computed here, in float64, from
their own graphs' answers; the noise floor is the one that `toolkit export` measured. The record goes to
``benchmarks/results/ensemble.json``.
"""

import argparse
import datetime as dt
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(__file__).resolve().parent
# Python puts a script's folder first, where calibration.py would be taken for the package of the same name.
sys.path[:] = [str(FOLDER.parent), *(entry for entry in sys.path if Path(entry or ".").resolve() != FOLDER)]

SEEDS = (0, 1, 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("members", nargs="*", type=Path, help="checkpoints of the same classes and input")
    parser.add_argument("--work", type=Path, required=True, help="a folder that keeps networks and graphs")
    parser.add_argument("--architecture", default="alexnet")
    parser.add_argument("--input-size", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--output", type=Path, default=FOLDER / "results" / "ensemble.json")
    options = parser.parse_args()
    import toolkit
    from engines.files import write_atomically
    from toolkit.machine import describe

    options.work.mkdir(parents=True, exist_ok=True)
    members = options.members or [trained(options, seed) for seed in SEEDS]
    graph = options.work / "ensemble.onnx"
    report = toolkit.export(members, graph, ensemble=True, data="digits", force=True)
    assert report.verification is not None
    floor = max(one.noise for one in report.verification.measurements)
    answers, labels = {}, np.empty(0)
    for member in members:
        single = options.work / f"{member.stem}.onnx"
        toolkit.export(member, single, verify=False, force=True)
        answers[member.stem], labels = answered(single)
    whole, labels = answered(graph)
    powers = [np.exp(one - one.max(1, keepdims=True)) for one in answers.values()]
    mean = np.mean([one / one.sum(1, keepdims=True) for one in powers], axis=0)
    singles = {name: share(values, labels) for name, values in answers.items()}
    record: dict[str, Any] = {
        "schema": "onnx-tensorrt-toolkit/ensemble-benchmark",
        "version": 1,
        "created": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "machine": describe().to_json(),
        "ensemble": report.metadata.architecture,
        "test_images": len(labels),
        "members_top1": singles,
        "members_mean_top1": float(np.mean(list(singles.values()))),
        "ensemble_top1": share(whole, labels),
        "largest_distance_from_the_mean_of_the_members": float(np.abs(whole - mean).max()),
        "noise_floor": floor,
    }
    write_atomically(options.output, json.dumps(record, indent=2, allow_nan=False) + "\n")
    print(json.dumps({key: value for key, value in record.items() if key != "machine"}, indent=2))


def trained(options: argparse.Namespace, seed: int) -> Path:
    """A checkpoint of this seed, trained where the work folder has none."""
    import toolkit

    path = Path(options.work) / f"{options.architecture}-{seed}.pt"
    if not path.exists():
        report = toolkit.train(
            "digits", path, architecture=options.architecture, input_size=options.input_size, seed=seed,
            epochs=options.epochs, resumable=False,
        )  # fmt: skip
        print(report.summary(), flush=True)
    return path


def answered(graph: Path) -> tuple[np.ndarray, np.ndarray]:
    """What a graph answers to the test split, float64 [N, classes], and the true classes."""
    import toolkit
    from toolkit.data import open_dataset, pixel_batches

    split = open_dataset("digits").test
    with toolkit.load(graph, device="cpu") as predictor:
        parts = [predictor.logits(pixels) for pixels, _ in pixel_batches(split, predictor.preprocess, 64)]
    return np.concatenate(parts), split.labels


def share(scores: np.ndarray, labels: np.ndarray) -> float:
    return float((scores.argmax(1) == labels).mean())


if __name__ == "__main__":
    main()
