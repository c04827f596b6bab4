"""examples/ray_app.py on a cluster of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import toolkit
from tests.tiny import tiny_images
from tests.toolkit.server.plane.models import write

pytest.importorskip("ray")

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import json, socket, sys, urllib.error, urllib.request
import ray
from ray import serve
from examples.ray_app import build

with socket.create_server(("127.0.0.1", 0)) as found:
    port = found.getsockname()[1]
ray.init(address="local", num_cpus=3, object_store_memory=128 << 20, include_dashboard=False, log_to_driver=False)
serve.start(http_options={"host": "127.0.0.1", "port": port})
serve.run(build({"model": sys.argv[1], "replicas": "1"}))

def ask(body):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", body, timeout=30) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)

picture = open(sys.argv[2], "rb").read()
print(json.dumps([ask(picture), ask(picture[:60])]))
serve.shutdown()
ray.shutdown()
"""


def test_a_picture_is_classified_and_a_damaged_one_refused(tmp_path: Path) -> None:
    graph, picture = write(tmp_path / "tiny.onnx"), tmp_path / "one.png"
    Image.fromarray(np.squeeze(tiny_images(1)[0])).save(picture)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(graph), str(picture)],
        capture_output=True, text=True, check=False, timeout=120, cwd=ROOT,
        env={**os.environ, "RAY_ADDRESS": "", "RAY_USAGE_STATS_ENABLED": "0"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    good, bad = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("[[")))
    with toolkit.load(graph) as predictor:
        expected = predictor.classify([picture])[0]
    assert good[0] == 200
    assert good[1]["label"] == expected.label
    assert good[1]["top"][0]["probability"] == pytest.approx(expected.probability, abs=1e-6)
    assert bad[0] == 400
    assert "image" in bad[1]["error"]
