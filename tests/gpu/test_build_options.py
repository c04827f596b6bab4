"""Build options that only TensorRT honours, on a real GPU: what they make runs, and a stripped plan is made whole."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engines.errors import EngineMismatchError
from engines.passport import Passport
from engines.sessions import open_session
from export.graph import save_graph
from tests.gpu.conftest import need
from tests.gpu.test_tensorrt import TOLERANCE
from tests.tiny import tiny_graph
from toolkit.building.report import BuildReport
from toolkit.steps.build import build_engine


@pytest.fixture
def master(tmp_path: Path) -> Path:
    need("tensorrt", "cuda.core")
    path = tmp_path / "model.onnx"
    save_graph(tiny_graph(), path)
    return path


def built(master: Path, precision: str = "fp16", **options: Any) -> BuildReport:
    return build_engine(master, precision=precision, backend="tensorrt", batch=["1:4:8"], cache=False, **options)


def check_parity(report: BuildReport, master: Path) -> None:
    data = np.random.default_rng(0).normal(0, 1, (4, 3, 16, 16)).astype(np.float32)
    with open_session(report.engine) as engine, open_session(master, device="cpu") as exact:
        got, want = (session.run({"input": data})["logits"] for session in (engine, exact))
    assert np.abs(got - want).max() <= TOLERANCE[report.precision] * max(1.0, np.abs(want).max())


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_stripped_plan_is_smaller_and_the_graph_beside_it_makes_it_whole(master: Path, precision: str) -> None:
    whole = built(master, precision)
    stripped = built(master, precision, weights_stripped=True)
    assert stripped.size < whole.size
    assert stripped.layers.shares() == {precision: 1.0}
    check_parity(stripped, master)


def test_a_stripped_plan_whose_graph_is_gone_is_refused_with_the_rebuild_command(master: Path) -> None:
    report = built(master, weights_stripped=True)
    report.typed_graph.unlink()
    with pytest.raises(EngineMismatchError, match="holds no weights") as caught:
        open_session(report.engine)
    assert Passport.read(report.passport).command in caught.value.remedy


@pytest.mark.parametrize(
    "options",
    [
        {"version_compatible": True},
        {"hardware_compatibility": "ampere_plus"},
        {"hardware_compatibility": "same_compute_capability"},
        {"optimization_level": 0},
        {"tf32": True},
    ],
    ids=str,
)
def test_an_engine_built_with_an_option_runs(master: Path, options: dict[str, Any]) -> None:
    report = built(master, **options)
    check_parity(report, master)
    passport = Passport.read(report.passport)
    assert options.items() <= passport.options.items()
    assert passport.gpu
    assert passport.driver
    assert passport.cuda
