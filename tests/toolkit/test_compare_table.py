import io
import re

import pytest
from rich.console import Console

from engines.sessions.base import SessionInfo, StageTimes
from engines.tensors import TensorSpec
from toolkit.benchmarking.messages import Block, Opened
from toolkit.benchmarking.timing import Interval, Timing
from toolkit.comparison.accuracy import Accuracy, Share
from toolkit.comparison.record import Comparison, DataFacts, Failure, Row, Speed
from toolkit.comparison.table import render
from toolkit.comparison.warn import warnings_of
from toolkit.machine import Machine, busy_cores, describe, usable_cores


def opened(backend="onnxruntime", device="cpu", provider="CPUExecutionProvider") -> Opened:
    spec = TensorSpec("input", "float32", ("batch", 3, 16, 16))
    return Opened((spec,), (spec,), None, SessionInfo(backend, device, provider), 0.5, 0.1)


def speed(batch, second, ratio=None, stages=None) -> Speed:
    blocks = [Block((second, second), (stages, stages) if stages else ())] * 6
    return Speed(Timing.of(batch, blocks), ratio)


def comparison(*, stages=None) -> Comparison:
    rows = (
        Row("model.pt", "model.pt", 228_051_234, "sha256:1", opened("torch", "cpu", "eager"),
            Accuracy(Share(353, 360), Share(360, 360), None, 0), {b: speed(b, 0.0123 * b) for b in (1, 8, 32)}),
        Row("model.int8.ort.onnx", "model.int8.ort.onnx", 57_051_234, "sha256:2", opened(),
            Accuracy(Share(352, 360), Share(360, 360), Share(359, 360), 0),
            {b: speed(b, 0.00434 * b, Interval(2.834, 2.811, 2.907), stages) for b in (1, 8, 32)}),
        Row("model.int8.rtx.engine", "model.int8.rtx.engine", 57_051, "sha256:3",
            failure=Failure("this machine has no NVIDIA driver", "run it on a machine with a GPU")),
        Row("model.fixed.engine", "model.fixed.engine", 57, "sha256:4", opened("tensorrt", "cuda:0", ""),
            Accuracy(Share(352, 360), Share(360, 360), Share(359, 360), 0), {8: speed(8, 1.5)},
            {1: "the engine takes batches of exactly 8", 32: "the engine takes batches of exactly 8"},
            notes=("carries no metadata: labels and preprocessing are those of model.pt",)),
    )  # fmt: skip
    machine = Machine("Linux 6.1", "x86_64", "Some Processor", 2)
    data = DataFacts("digits", "test", 360, 0, "sha256:5")
    return Comparison("2026-11-22T00:00:00+00:00", "toolkit compare", machine, {}, data, "model.pt", rows, ("busy",))


def text(value: Comparison, width: int = 100, *, plain: bool = False) -> str:
    file = io.StringIO()
    Console(file=file, width=width, force_terminal=not plain, color_system=None, highlight=False).print(
        render(value, plain=plain)
    )
    return file.getvalue()


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("stages", [None, StageTimes(0.00011, 0.00022, 0.00033)])
def test_at_100_columns_every_figure_of_every_artifact_is_there_uncut(plain, stages):
    shown = text(comparison(stages=stages), plain=plain)
    assert "…" not in shown
    assert all(len(line) <= 100 for line in shown.splitlines())
    words = re.sub(r"\s+", " ", shown)
    for figure in ("98.06 %", "97.78 %", "99.72 %", "228 MB", "57.1 MB", "12.3", "4.34", "394", "230", "81.3"):
        assert figure in words, figure
    assert words.count("2.83x (2.81–2.91)") == 3
    if stages:
        assert all(value in words for value in ("0.11", "0.22", "0.33", "copy in", "end to end"))
    for name in ("model.pt", "model.int8.ort.onnx", "model.fixed.engine"):
        assert name in shown
    assert "not run: model.int8.rtx.engine: this machine has no NVIDIA driver" in shown
    assert "model.fixed.engine at batch 1, 32: the engine takes batches of exactly 8" in words
    assert "warning: busy" in shown


def test_plain_output_is_lines_of_columns_without_a_box():
    assert not re.search("[─━│┃]", text(comparison(), plain=True))
    assert "─" in text(comparison())


def test_the_reference_is_marked_and_agreement_carries_its_interval():
    lines = text(comparison(), 140, plain=True).splitlines()
    assert "reference" in next(line for line in lines if line.startswith("model.pt"))
    assert "99.72 % (98.4–100.0)" in next(line for line in lines if line.startswith("model.int8.ort"))


def test_other_work_and_unsteady_times_are_warned_of():
    steady, unsteady = speed(8, 0.01), Speed(Timing.of(8, [Block((0.01,) * 9 + (0.1,) * 2)]))
    rows = [
        Row("calm", "calm", 1, "", opened(), speeds={8: steady}),
        Row("wild", "wild", 1, "", opened(), speeds={8: unsteady}),
    ]
    found = warnings_of(rows, 0.5 * usable_cores())
    assert len(found) == 2
    assert "cores busy" in found[0]
    assert "wild at batch 8" in found[1]
    assert "calm" not in found[1]
    assert warnings_of(rows[:1], 0.0) == warnings_of(rows[:1], None) == ()


def test_a_machine_is_described_without_naming_the_host_or_the_user():
    machine = describe()
    assert machine.cores >= 0.1
    assert machine.memory > 1e8
    assert machine.libraries["numpy"]
    import getpass
    import json
    import platform

    shown = json.dumps(machine.to_json())
    assert platform.node() not in shown or len(platform.node()) < 4
    assert f'"{getpass.getuser()}"' not in shown
    assert 0 <= busy_cores(0.05) <= 1024
