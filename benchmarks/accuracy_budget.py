"""An accuracy budget on a network that INT8 ruins whatever the ranges: the time it takes, and what it keeps.

    python benchmarks/accuracy_budget.py --work FOLDER

The network is the AlexNet of ``benchmarks/calibration.py`` (digits at 224×224), with one sensor in other units: the
first input channel is 256 times as large as the others, and the weights that read it as much smaller. The same
function; but one scale for the input leaves the other two channels next to nothing, and an input can't be equalised.
The record goes to ``benchmarks/results/accuracy_budget.json``.
"""

import argparse
import datetime as dt
import json
import shutil
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
# Python puts a script's folder first, where calibration.py would be taken for the package of the same name.
sys.path[:] = [str(FOLDER.parent), *(entry for entry in sys.path if Path(entry or ".").resolve() != FOLDER)]

UNITS = 256.0


def other_units(source: Path, target: Path) -> None:
    """``source`` with its first input channel in other units."""
    import onnx

    from export.graph import load_graph, read_metadata, save_graph, write_metadata

    model = load_graph(source)
    metadata = read_metadata(model)
    assert metadata is not None
    std = metadata.preprocess.std
    preprocess = replace(metadata.preprocess, std=(std[0] / UNITS, *std[1:]))
    for tensor in model.graph.initializer:
        if tensor.name == "features.0.weight":
            values = onnx.numpy_helper.to_array(tensor).copy()
            values[:, 0] /= UNITS
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    write_metadata(model, replace(metadata, pictures=preprocess))
    save_graph(model, target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="a folder that keeps the trained network")
    parser.add_argument("--max-drop", type=float, default=0.5)
    parser.add_argument("--output", type=Path, default=FOLDER / "results" / "accuracy_budget.json")
    options = parser.parse_args()
    from benchmarks.calibration import ordinary_network
    from engines.files import write_atomically
    from toolkit.machine import describe
    from toolkit.steps.build import build_engine
    from toolkit.steps.calibrate import calibrate

    rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="budget-") as name:
        graph = Path(name) / "units.onnx"
        other_units(ordinary_network(options.work), graph)
        start = time.perf_counter()
        table = calibrate(graph, "digits")
        rows["calibrate"] = {"seconds": time.perf_counter() - start, "best": table.facts["best"]}
        print(f"calibrate: {rows['calibrate']}", flush=True)
        measured = graph.with_name("units.calibration.json")
        for backend in ("tensorrt-rtx", "onnxruntime"):
            given = Path(name) / f"{backend}.calibration.json"
            shutil.copyfile(measured, given)
            for label, budget in (("everything in INT8", 100.0), ("within the budget", options.max_drop)):
                start = time.perf_counter()
                report = build_engine(
                    graph, precision="int8", backend=backend, table=given, data="digits", max_drop=budget, force=True
                )
                assert report.budget is not None
                value = {"seconds": time.perf_counter() - start, "kept": list(report.kept), **report.budget.facts()}
                rows[f"{backend}: {label}"] = value
                print(f"{backend}, {label}: {value['seconds']:.0f} s", *report.budget.lines(), sep="\n  ", flush=True)
    record = {
        "schema": "onnx-tensorrt-toolkit/accuracy-budget-benchmark",
        "version": 1,
        "created": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "machine": describe().to_json(),
        "max_drop_points": options.max_drop,
        "rows": rows,
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(options.output, json.dumps(record, indent=2, allow_nan=False) + "\n")
    print(f"record: {options.output.name}")


if __name__ == "__main__":
    main()
