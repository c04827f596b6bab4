"""What GPU tests share: a library that is missing skips them, and on a GPU host says so loudly."""

import importlib.util
import os
from pathlib import Path

import numpy as np
import onnx
import pytest

from engines.builders.options import BuildOptions
from engines.builders.profiles import parse_profiles
from engines.builders.tensorrt import build_plan
from engines.errors import ToolkitError
from engines.files import write_atomically
from engines.passport import Passport, passport_path
from tests.engines.graphs import int8_graph, typed_graph
from tests.tiny import METADATA, tiny_graph

REQUIRED = bool(os.environ.get("TOOLKIT_GPU_REQUIRED"))
"""Set by scripts/gpu-check: what is installed has to work, so a skip for another reason is a failure."""


def need(*modules: str) -> None:
    """Skip where a library isn't installed."""
    for module in modules:
        try:
            found = importlib.util.find_spec(module)
        except ModuleNotFoundError:
            found = None
        if found is None:
            pytest.skip(f"the package '{module}' is not installed")


def cannot(reason: str) -> None:
    """Skip because something installed doesn't work here; a failure where that is required to work."""
    if REQUIRED:
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The tiny network's graph in FP32, FP16 and INT8 (Q/DQ where TensorRT fuses), by precision."""
    folder = tmp_path_factory.mktemp("graphs")
    models = {"fp32": tiny_graph(), "fp16": typed_graph(tiny_graph()), "int8": int8_graph()}
    paths = {}
    for name, model in models.items():
        paths[name] = folder / f"tiny.{name}.onnx"
        onnx.save(model, paths[name])
    return paths


@pytest.fixture(scope="session")
def on_cpu(graphs: dict[str, Path]):
    """Logits of a graph by ONNX Runtime on the CPU: ``on_cpu(precision, samples)``."""
    from engines.sessions import open_session

    sessions = {name: open_session(path, device="cpu") for name, path in graphs.items()}

    def run(precision: str, data: np.ndarray) -> np.ndarray:
        return sessions[precision].run({"input": data})["logits"]

    yield run
    for session in sessions.values():
        session.close()


@pytest.fixture(scope="session")
def plan(graphs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory):
    """Builds a plan with its passport: ``plan(backend, precision, *profiles, **options)`` gives the path."""
    folder = tmp_path_factory.mktemp("plans")

    def build(backend: str, precision: str, *profiles: str, **options: object) -> Path:
        settings = BuildOptions(profiles=parse_profiles(profiles or ("1:4:8",)), **options)
        built = build_plan(graphs[precision], backend, settings)
        path = folder / f"{len(list(folder.iterdir()))}.engine"
        write_atomically(path, built.data)
        passport = Passport.of(
            path, backend=backend, precision=precision, command="toolkit build-engine", metadata=METADATA
        )
        passport.write(passport_path(path))
        return path

    def build_or_say(*arguments: str, **options: object) -> Path:
        try:
            return build(*arguments, **options)
        except ToolkitError as error:
            cannot(f"no plan could be built: {error}")
            raise

    return build_or_say
