"""Q/DQ graphs that TensorRT would run in float or refuse: the lint catches them, and without it the audit does.

Real builds of TensorRT for RTX: without lint and audit each of the first two would ship as an INT8 engine.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest

from engines.builders.tensorrt import build_plan
from engines.errors import AuditError, BuildError, GraphError
from engines.passport import Passport
from tests.calibration.foreign_graphs import good, options, stock, with_pool, with_weight
from tests.tiny import tiny_graph
from toolkit.cli import run
from toolkit.steps.build import build_engine

pytest.importorskip("tensorrt_rtx")

CHANNELS = 8
"""Input channels of conv2, and of its data."""

SCALES, ZEROS = np.full(CHANNELS, 0.01, np.float32), np.zeros(CHANNELS, np.int8)


@dataclass(frozen=True)
class Fault:
    """A graph that must not ship.

    Attributes:
        make: makes it; takes an empty folder.
        said: what the lint says.
        later: the error that stops it where the lint is blind.
        node: the node that the later error names.
        floats: the nodes that the library runs in float, if it builds at all.
    """

    make: Callable[[Path], onnx.ModelProto]
    said: str
    later: type[Exception]
    node: str
    floats: frozenset[str] = frozenset()


FAULTS = {
    "weights along the wrong axis": Fault(
        lambda _: with_weight("conv2", None, SCALES, ZEROS, axis=1),
        "'conv2' of .*: its weight has scales along axis 1, not 0", AuditError, "'conv2'", frozenset({"conv2"}),
    ),
    "activations a channel": Fault(
        lambda _: with_pool(SCALES, ZEROS),
        "'conv2' of .*: its data has 8 scales, one a channel", AuditError, "'conv2'", frozenset({"conv2"}),
    ),
    "stock quantize_static": Fault(
        lambda folder: stock(tiny_graph(), folder, **options("defaults")), "an int32 bias", BuildError, "bias",
    ),
    "stock quantize_static in uint8": Fault(
        lambda folder: stock(tiny_graph(), folder, **options("uint8")), "TensorRT refuses", BuildError, "bias",
    ),
}  # fmt: skip


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph that a test with a blind lint has let through must not be remembered for the next test."""
    monkeypatch.setenv("TOOLKIT_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(params=FAULTS)
def fault(request: pytest.FixtureRequest) -> Fault:
    return FAULTS[request.param]


@pytest.fixture
def graph(fault: Fault, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The graph as a foreign file, alone in its folder."""
    model = fault.make(tmp_path_factory.mktemp("stock"))
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "foreign.onnx")
    return tmp_path / "foreign.onnx"


def test_the_lint_refuses_it_before_the_build(fault: Fault, graph: Path) -> None:
    with pytest.raises(GraphError, match=fault.said) as caught:
        build_engine(graph, precision="int8", backend="tensorrt-rtx")
    assert caught.value.remedy
    assert list(graph.parent.iterdir()) == [graph]


def test_the_command_says_so_in_two_lines(graph: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["build-engine", str(graph), "--int8", "--backend", "tensorrt-rtx"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert [line[:7] for line in captured.err.splitlines()[-2:]] == ["error: ", "  try: "]
    assert list(graph.parent.iterdir()) == [graph]


def test_without_the_lint_the_build_or_its_audit_stops_it(
    fault: Fault, graph: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("calibration.lint.require_fusible", lambda *_, **__: ())
    with pytest.raises(fault.later, match=fault.node):
        build_engine(graph, precision="int8", backend="tensorrt-rtx")
    assert {path.suffix for path in graph.parent.iterdir()} <= {".onnx", ".log"}  # of a failed build its log is kept


def test_what_the_audit_stops_is_what_the_library_really_runs_in_float(fault: Fault, graph: Path) -> None:
    if not fault.floats:
        with pytest.raises(BuildError):
            build_plan(graph, "tensorrt-rtx")
        return
    layers = build_plan(graph, "tensorrt-rtx").layers.heavy
    assert {layer.label for layer in layers if layer.type != "int8"} == fault.floats


def test_who_allows_a_partial_engine_is_told_what_in_it_is_not_int8(fault: Fault, graph: Path) -> None:
    if not fault.floats:
        with pytest.raises(GraphError):  # nothing makes the parser take it
            build_engine(graph, precision="int8", backend="tensorrt-rtx", allow_partial=True)
        return
    report = build_engine(graph, precision="int8", backend="tensorrt-rtx", allow_partial=True)
    passport = Passport.read(report.passport)
    assert report.layers.shares() == {"int8": 0.75, "fp32": 0.25}
    assert passport.partial == report.partial == ("'conv2' (conv) is fp32",)
    assert any("conv2" in note for note in report.notes)


def test_the_same_graph_without_a_fault_ships(tmp_path: Path) -> None:
    model = good()
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "foreign.onnx")
    report = build_engine(tmp_path / "foreign.onnx", precision="int8", backend="tensorrt-rtx")
    assert report.layers.shares() == {"int8": 1.0}
