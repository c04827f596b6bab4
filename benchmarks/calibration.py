r"""Calibration against the peers: time, memory, accuracy on ordinary and on hard networks, speed of the result.

    python benchmarks/calibration.py --work FOLDER --peer nncf=PYTHON --peer modelopt=PYTHON
    python benchmarks/calibration.py --work FOLDER --parts hard --only loud_channels

Run it on a quiet machine; it takes about 20 minutes on two cores, and some five more where FOLDER doesn't hold the
trained networks yet. The record goes to ``benchmarks/results/calibration.json``; parts that aren't run keep what the
record holds of them. Tools whose environment isn't given are "not measured". The environments::

    python3 -m venv nncf
    nncf/bin/pip install nncf==3.4.* openvino onnx onnxruntime
    python3 -m venv modelopt
    modelopt/bin/pip install torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu
    modelopt/bin/pip install --no-deps "nvidia-modelopt==0.47.*"
    modelopt/bin/pip install "onnx~=1.21.0" "onnxruntime~=1.24.2" "onnxconverter-common~=1.16" onnx-graphsurgeon \
        onnxscript onnxslim polygraphy lief ml_dtypes scipy pydantic omegaconf pulp PyYAML regex rich safetensors \
        tqdm ninja cppimport setuptools nvidia-ml-py

``quantize_static`` is the one of this toolkit's own ONNX Runtime. All get the same images.
"""

import argparse
import datetime as dt
import json
import sys
import time
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
# Python puts a script's folder first, where this file would be taken for the package of the same name.
sys.path[:] = [str(FOLDER.parent), *(entry for entry in sys.path if Path(entry or ".").resolve() != FOLDER)]

RESULTS = FOLDER / "results"
PARTS = ("turns", "time", "commands", "ordinary", "hard", "speed")


def ordinary_network(work: Path) -> Path:
    """The AlexNet that `toolkit train` makes of the digits at 224×224, exported; made once."""
    folder = work / "ordinary"
    graph = folder / "model.onnx"
    if not graph.is_file():
        from toolkit.steps.export import export
        from toolkit.steps.train import train

        folder.mkdir(parents=True, exist_ok=True)
        checkpoint = folder / "model.pt"
        if not checkpoint.is_file():
            print(train("digits", checkpoint, resumable=False, force=True).summary(), flush=True)
        export(checkpoint, graph, verify=False)
    return graph


def ordinary(work: Path, pythons: dict[str, str], images: int) -> dict[str, Any]:
    """INT8 by every tool and FP8 by ours, on an ordinary network."""
    from benchmarks.accuracy import logits_of, measure, ours, score, write_images
    from export.graph import peek_metadata
    from toolkit.data import open_dataset

    graph = ordinary_network(work)
    found = measure(graph, "digits", pythons, images=images)
    test, metadata = open_dataset("digits").test, peek_metadata(graph)
    assert metadata is not None
    unseen = work / "ordinary" / "test.npy"
    write_images(test, metadata.preprocess, unseen)
    reference = logits_of(graph, unseen)
    for method, failure, path in ours(graph, "digits", images, (None,), "fp8"):
        value = {"failure": failure} if failure else score(logits_of(path, unseen), test.labels, reference)
        found["toolkit"][f"fp8 {method}"] = value
        print(f"  toolkit fp8 {method}: {value}", flush=True)
    unseen.unlink()
    return found


def hard(work: Path, pythons: dict[str, str], images: int, only: list[str] | None) -> dict[str, Any]:
    """INT8 by every tool on the hard networks."""
    from benchmarks.accuracy import measure
    from benchmarks.hard_networks import NETWORKS, prepare

    found = {}
    for name in only or NETWORKS:
        folder = prepare(work, NETWORKS[name])
        print(f" {name}", flush=True)
        result = measure(folder / "model.onnx", str(folder / "data.npz"), pythons, images=images)
        found[name] = {"about": NETWORKS[name].about, **result}
    return found


def parser_of() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, help="a folder that keeps the trained networks")
    parser.add_argument("--parts", default=",".join(PARTS), help=f"which [{','.join(PARTS)}]")
    parser.add_argument("--only", action="append", help="this hard network only (repeatable)")
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=PYTHON", help="modelopt or nncf")
    parser.add_argument("--graph", type=Path, help="the network of the parts time, commands and speed [ordinary]")
    parser.add_argument("--images", default="512", help="calibration images of the tools [512]")
    parser.add_argument("--counts", default="128:5,512:5,2048:3,8192:1", help="IMAGES:ROUNDS of the part time")
    parser.add_argument("--rounds", type=int, default=4, help="of the part commands [4]")
    parser.add_argument("--seconds", type=float, default=4.0, help="timed running a graph and batch in speed [4]")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--output", type=Path, default=RESULTS / "calibration.json")
    parser.add_argument("--child", choices=("plain", "toolkit"), help=argparse.SUPPRESS)
    return parser


def main() -> None:
    options = parser_of().parse_args()
    from benchmarks import calibration_time, calibration_turns, int8_speed

    if options.child:
        side = calibration_time.SIDES[options.child]
        print(json.dumps(side(options.graph, int(options.images), options.batch_size)))
        return
    from engines.files import write_atomically
    from toolkit.machine import describe

    if options.work is None:
        raise SystemExit("give --work FOLDER: the trained networks are kept there")
    pythons = {"toolkit": sys.executable, **dict(peer.split("=", 1) for peer in options.peer)}
    images = int(options.images)
    graph = options.graph or ordinary_network(options.work)
    counts = {int(part.split(":")[0]): int(part.split(":")[1]) for part in options.counts.split(",")}
    actions = {
        "turns": lambda: calibration_turns.turns(graph, images, options.batch_size, rounds=10),
        "time": lambda: calibration_time.against_inference(graph, counts, options.batch_size),
        "commands": lambda: calibration_time.commands(graph, pythons, images, options.rounds),
        "ordinary": lambda: ordinary(options.work, pythons, images),
        "hard": lambda: hard(options.work, pythons, images, options.only),
        "speed": lambda: int8_speed.measure(graph, pythons, seconds=options.seconds),
    }
    record: dict[str, Any] = {"schema": "onnx-tensorrt-toolkit/calibration-benchmark", "version": 2, "parts": {}}
    if options.output.is_file():
        before = json.loads(options.output.read_text())
        record["parts"] = before["parts"] if before.get("version") == 2 else {}
    for part in options.parts.split(","):
        print(part, flush=True)
        start = time.monotonic()
        result = actions[part]()
        if part == "hard" and options.only and "hard" in record["parts"]:
            result = record["parts"]["hard"]["result"] | result
        record["parts"][part] = {
            "created": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
            "took_seconds": round(time.monotonic() - start, 1),
            "images": images,
            "result": result,
        }
        record["machine"] = describe().to_json()
        record["tools"] = versions(pythons)
        options.output.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(options.output, json.dumps(record, indent=2, allow_nan=False) + "\n")
    print(f"record: {options.output.name}")


def versions(pythons: dict[str, str]) -> dict[str, Any]:
    """What each environment has installed of the tools."""
    from benchmarks.children import run

    script = (
        "import importlib.metadata as m, json; "
        "names = ('onnxruntime', 'onnx', 'nncf', 'openvino', 'nvidia-modelopt', 'torch', 'numpy'); "
        "have = {d.metadata['Name'].lower(): d.version for d in m.distributions()}; "
        "print(json.dumps({n: have[n] for n in names if n in have}))"
    )
    return {name: json.loads(run([python, "-c", script]).output or "{}") for name, python in pythons.items()}


if __name__ == "__main__":
    main()
