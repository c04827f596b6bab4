r"""The server against LitServe, KServe's Python server, MLServer and Triton (by way of PyTriton).

    python benchmarks/serving.py --peer litserve=PYTHON --peer kserve=PYTHON --peer mlserver=PYTHON \
        --peer pytriton=PYTHON

Run it on a quiet machine; it takes about an hour. Everyone serves the same INT8 AlexNet with the same settings
of ONNX Runtime and batches of up to 32, and is asked the same pictures, uint8 [1, 224, 224, 3], by one process that
checks every answer against the session's own. All servers are started first and stopped where they stand (SIGSTOP)
but for the one whose turn it is.

Three parts. *Tuning*: each rival with several delays and ways to run, of which the best stands for it, by requests a
second here, and by the 99th percentile at equal load there. *Capacity*: requests a second with 16 connections that
ask one after the other. *Load*: ours and one rival in turns, both at the same random arrivals, 50 and 80 % of what
the slower of the two manages; times count from when a request was due. The record goes to
``benchmarks/results/serving.json``. The environments::

    for name in litserve kserve mlserver nvidia-pytriton; do
        python3 -m venv .peers/${name#nvidia-}; .peers/${name#nvidia-}/bin/pip install $name onnxruntime==1.31.1
    done
    .peers/litserve/bin/pip install uvloop httptools
    .peers/mlserver/bin/pip install "uvloop<0.22"   # its worker processes don't start with a newer one
"""

import argparse
import datetime as dt
import json
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).resolve().parent
# Python puts a script's folder first, where calibration.py would be taken for the package of the same name.
sys.path[:] = [str(FOLDER.parent), *(entry for entry in sys.path if Path(entry or ".").resolve() != FOLDER)]

from benchmarks.serving_parts import CALLERS, Field, measure  # noqa: E402
from benchmarks.serving_servers import OURS, RIVALS, Server, describe, python_of, servers_of  # noqa: E402

RESULTS = FOLDER / "results"


def parser_of() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=PYTHON", help="a rival's interpreter")
    parser.add_argument("--graph", type=Path, help="a graph with a uint8 input [an INT8 AlexNet made here]")
    parser.add_argument("--threads", type=int, default=2, help="of ONNX Runtime in every server [2]")
    parser.add_argument("--max-batch", type=int, default=32, help="[32]")
    parser.add_argument("--rounds", type=int, default=3, help="[3]")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each turn [10]")
    parser.add_argument("--tuning", type=float, default=4.0, help="seconds of each turn of the tuning [4]")
    parser.add_argument("--loads", default="0.5,0.8", help="shares of the slower one's capacity [0.5,0.8]")
    parser.add_argument("--without", action="append", default=[], help="leave a server out (repeatable)")
    parser.add_argument("--output", type=Path, default=RESULTS / "serving.json")
    return parser


def main() -> None:
    options = parser_of().parse_args()
    # Servers that stand still would outlive this process.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    from benchmarks.serving_model import make_model, pictures, truth_of
    from engines.files import write_atomically
    from toolkit.machine import describe as describe_machine

    pythons = dict(peer.split("=", 1) for peer in options.peer)
    entrants = [entrant for entrant in (OURS, *RIVALS) if entrant.name not in options.without]
    names = [entrant.name for entrant in entrants]
    missing = [name for name in names if python_of(name, pythons) is None]
    with tempfile.TemporaryDirectory(prefix="serving-") as name:
        folder = Path(name)
        graph, images = options.graph or make_model(folder), pictures()
        truth = truth_of(graph, images)
        np.save(folder / "images.npy", images)
        np.save(folder / "expected.npy", truth.expected)
        (folder / "names.json").write_text(json.dumps(vars(truth.names)))
        given = [str(folder / "images.npy"), str(folder / "expected.npy"), str(truth.tolerance)]
        command = [sys.executable, str(FOLDER / "serving_load.py"), *given, str(folder / "names.json")]
        servers: list[Server] = []
        for entrant in entrants:
            if python := python_of(entrant.name, pythons):
                servers += servers_of(entrant, python, graph, options.threads, options.max_batch, folder)
        load = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            for server in servers:
                server.start()
                label = f"{server.entrant.name} {' '.join(server.variant)}"
                print(f"{label:48} {server.failure or f'{server.idle_cores:.3f} cores when idle'}", flush=True)
            found = measure(Field(servers, load), options)
        finally:
            for server in servers:
                server.end()
            load.kill()
            load.wait()
    record = {
        "schema": "onnx-tensorrt-toolkit/serving-benchmark",
        "version": 1,
        "created": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "command": " ".join(["python", "benchmarks/serving.py", *sys.argv[1:]]),
        "machine": describe_machine().to_json(),
        "tools": {name: versions(python) for name in names if (python := python_of(name, pythons))},
        "settings": {
            "graph": graph.name, "threads": options.threads, "max_batch": options.max_batch, "callers": CALLERS,
            "rounds": options.rounds, "seconds": options.seconds,
            "answers": {"noise": truth.noise, "apart": truth.apart, "tolerance": truth.tolerance},
        },
        "not_measured": missing,
        "servers": [
            {"name": server.entrant.name, "about": server.entrant.about, **describe(server)} for server in servers
        ],
        **found,
    }  # fmt: skip
    options.output.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(options.output, json.dumps(record, indent=2, allow_nan=False) + "\n")
    print(f"wrong answers: {found['wrong_answers']}\nrecord: {options.output.name}")


def versions(python: str) -> dict[str, str]:
    """What an environment has installed of what matters."""
    script = (
        "import importlib.metadata as m, json; "
        "names = ('onnxruntime', 'numpy', 'uvicorn', 'httptools', 'uvloop', 'grpcio', 'litserve', 'kserve', "
        "'mlserver', 'nvidia-pytriton'); "
        "have = {d.metadata['Name'].lower(): d.version for d in m.distributions()}; "
        "print(json.dumps({n: have[n] for n in names if n in have}))"
    )
    return dict(json.loads(subprocess.run([python, "-c", script], capture_output=True, text=True, check=True).stdout))


if __name__ == "__main__":
    main()
