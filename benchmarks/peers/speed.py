"""One graph in one runtime, run when told to: GRAPH onnxruntime|openvino [--precision f32].

Each line of standard input is ``BATCH SECONDS``; the answer is a line of JSON, the seconds of every run.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np


def onnxruntime_runner(graph: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return session.get_inputs()[0].shape, lambda batch: session.run(None, {name: batch})


def openvino_runner(graph: Path, precision: str | None) -> Any:
    import openvino

    core = openvino.Core()
    model = core.read_model(str(graph))
    shape = [side.get_length() if side.is_static else None for side in model.input(0).partial_shape]
    config = {"INFERENCE_PRECISION_HINT": precision} if precision else {}
    request = core.compile_model(model, "CPU", config).create_infer_request()
    return shape, lambda batch: request.infer({0: batch}, share_inputs=True, share_outputs=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("graph", type=Path)
    parser.add_argument("runtime", choices=("onnxruntime", "openvino"))
    parser.add_argument("--precision")
    options = parser.parse_args()
    if options.runtime == "openvino":
        shape, run = openvino_runner(options.graph, options.precision)
    else:
        shape, run = onnxruntime_runner(options.graph)
    rng = np.random.default_rng(0)
    feeds: dict[int, Any] = {}
    for line in sys.stdin:
        batch, seconds = int(line.split()[0]), float(line.split()[1])
        if batch not in feeds:
            feeds[batch] = rng.standard_normal((batch, *shape[1:]), np.float32)
        run(feeds[batch])  # finds caches that a rival has filled, and threads asleep
        times: list[float] = []
        until = time.perf_counter() + seconds
        while not times or time.perf_counter() < until:
            start = time.perf_counter()
            run(feeds[batch])
            times.append(time.perf_counter() - start)
        time.sleep(0.05)  # spinning threads fall asleep before a rival's turn
        print(json.dumps(times), flush=True)


if __name__ == "__main__":
    main()
