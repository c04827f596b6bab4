import io
import re
from dataclasses import replace

import pytest
from rich.console import Console

from engines.sessions.base import SessionInfo, StageTimes
from engines.sessions.proof import Proof
from engines.tensors import TensorSpec
from toolkit.benchmarking.conditions import Conditions, GpuConditions, Spread
from toolkit.benchmarking.messages import Block, Opened
from toolkit.benchmarking.timing import Interval, Timing
from toolkit.comparison.accuracy.accuracy import Accuracy, Against, Share
from toolkit.comparison.layers import Layers
from toolkit.comparison.records.merging import merge
from toolkit.comparison.records.record import Comparison, DataFacts, Failure, Row, Speed, Verdict
from toolkit.comparison.records.row import ColdStart
from toolkit.comparison.table import render
from toolkit.comparison.warn import warnings_of
from toolkit.machine import Machine, busy_cores, describe, usable_cores


def opened(backend="onnxruntime", device="cpu", provider="CPUExecutionProvider") -> Opened:
    spec = TensorSpec("input", "float32", ("batch", 3, 16, 16))
    return Opened((spec,), (spec,), None, SessionInfo(backend, device, provider), 0.5, 0.1)


def speed(batch, second, ratio=None, stages=None) -> Speed:
    blocks = [Block((second, second), (stages, stages) if stages else ())] * 6
    return Speed(Timing.of(batch, [blocks]), ratio)


def accuracy(right) -> Accuracy:
    against = Against(Share(1, 360), 0.0, 0, 0, 1, Interval(1 / 360, -0.0082, 0.0156), 1.0)
    return Accuracy(Share(right, 360), Share(360, 360), Share(359, 360), 0, against=against)


def comparison(*, stages=None) -> Comparison:
    starts = (ColdStart(1.5, 0.5), ColdStart(0.5, 0.25), ColdStart(1, 0.25))
    rows = (
        Row("model.pt", "model.pt", 228_051_234, "sha256:1", opened("torch", "cpu", "eager"),
            accuracy=Accuracy(Share(353, 360), Share(360, 360), None, 0), cold_starts=starts, memory=748_000_000,
            speeds={b: speed(b, 0.0123 * b) for b in (1, 8, 32)}),
        Row("model.int8.ort.onnx", "model.int8.ort.onnx", 57_051_234, "sha256:2", opened(), accuracy=accuracy(352),
            speeds={b: speed(b, 0.00434 * b, Interval(2.834, 2.811, 2.907), stages) for b in (1, 8, 32)},
            layers=Layers("graph", {"int8": 0.75, "fp32": 0.25}, 8, ("a", "b"), "int8"), device_memory=345_000_000),
        Row("model.int8.rtx.engine", "model.int8.rtx.engine", 57_051, "sha256:3",
            failure=Failure("this machine has no NVIDIA driver", "run it on a machine with a GPU")),
        Row("model.fixed.engine", "model.fixed.engine", 57, "sha256:4", opened("tensorrt", "cuda:0", ""),
            accuracy=accuracy(352), speeds={8: speed(8, 1.5)},
            skipped={1: "the engine takes batches of exactly 8", 32: "the engine takes batches of exactly 8"},
            notes=("carries no metadata: labels and preprocessing are those of model.pt",)),
    )  # fmt: skip
    machine = Machine("Linux 6.1", "x86_64", "Some Processor", 2)
    data = DataFacts("digits", "test", 360, 0, "sha256:5")
    return Comparison(
        "2026-11-22T00:00:00+00:00", "toolkit compare", (machine,), {}, data, "model.pt", rows, ("busy",)
    )


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
    for figure in ("98.06 %", "97.78 %", "99.72 %", "228 MB", "57.1 MB", "12.3", "4.34", "394", "230", "81.3",
                   "0.28 (-0.8 to 1.6)", "1.25", "748 MB", "345 MB", "int8 6 of 8"):  # fmt: skip
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


def calm_and_wild() -> list[Row]:
    steady, unsteady = speed(8, 0.01), Speed(Timing.of(8, [[Block((0.01,) * 9 + (0.1,) * 2)]]))
    return [
        Row("calm", "calm", 1, "", opened(), speeds={8: steady}),
        Row("wild", "wild", 1, "", opened(), speeds={8: unsteady}),
    ]


def test_other_work_and_unsteady_times_are_warned_of():
    rows = calm_and_wild()
    found = warnings_of(rows, 0.5 * usable_cores())
    assert len(found) == 2
    assert "cores busy" in found[0]
    assert "wild at batch 8" in found[1]
    assert "calm" not in found[1]
    assert warnings_of(rows[:1], 0.0) == warnings_of(rows[:1], None) == ()


CALM = Conditions(
    10.0, Spread(0, 0.1, 0.9), 0.01, Spread(2000, 2050, 2100), 0,
    (GpuConditions(0, "Some GPU", Spread(300, 1900, 1950), utilisation=Spread(0, 0.9, 1)),),
)  # fmt: skip


def test_conditions_as_they_should_be_are_not_warned_of():
    assert warnings_of(calm_and_wild()[:1], None, CALM, 2) == ()
    assert warnings_of([], None, Conditions(1.0), 2) == ()
    assert warnings_of([], 2.0, CALM, 2) == ()  # what went on before doesn't matter where the timing was watched


@pytest.mark.parametrize(
    ("worse", "words"),
    [
        ({"other_load": Spread(0, 0.5, 1.5)}, ("kept 0.5 of 2 cores busy during the timing", "1.5 at most", "15%")),
        ({"stolen": 0.031}, ("3.1% of the cores' time", "2%")),
        ({"throttled": 3}, ("slowed 3 times",)),
        ({"throttled": 1}, ("slowed once",)),
        ({"cpu_mhz": Spread(1800, 2100, 2900)}, ("from 1800 to 2900 MHz", "10%")),
        (
            {"gpus": (GpuConditions(1, "H", throttle_reasons=("power cap", "heat")),)},
            ("GPU 1 (H)", "power cap, heat"),
        ),
        (
            {"gpus": (GpuConditions(0, "H", Spread(300, 1400, 1980), utilisation=Spread(0, 0.9, 1)),)},
            ("1400 MHz mostly", "1980 MHz at best"),
        ),
        ({"gpus": (GpuConditions(0, "H", utilisation_others=Spread(0, 0.4, 1)),)}, ("other processes 40%",)),
    ],
)
def test_each_condition_that_spoils_figures_is_warned_of_alone(worse, words):
    found = warnings_of([], None, replace(CALM, **worse), 2)
    assert len(found) == 1
    for word in words:
        assert word in found[0]


def test_clocks_of_a_gpu_that_idles_for_half_of_the_time_say_nothing():
    idle = GpuConditions(0, "H", Spread(300, 300, 1980), utilisation=Spread(0, 0.1, 1))
    assert warnings_of([], None, replace(CALM, gpus=(idle,)), 2) == ()


def test_verdicts_follow_the_tables_and_those_of_the_same_words_are_one_line():
    verdicts = (
        Verdict("recommended", "model.int8.ort.onnx", "the fastest"),
        Verdict("dominated", "model.fixed.engine", "slower than all"),
        Verdict("confident-flips", "model.fixed.engine", "3 of 4"),
        Verdict("not-measured", "model.int8.rtx.engine", "not run: no GPU here"),
        Verdict("not-measured", "model.fixed.engine", "not run: no GPU here"),
    )
    lines = text(replace(comparison(), verdicts=verdicts), plain=True).splitlines()
    below = lines[lines.index("recommended: model.int8.ort.onnx: the fastest") :]
    assert below[:4] == [
        "recommended: model.int8.ort.onnx: the fastest",
        "dominated: model.fixed.engine: slower than all",
        "confident flips: model.fixed.engine: 3 of 4",
        "not run: model.int8.rtx.engine, model.fixed.engine: no GPU here",
    ]
    assert "this machine has no NVIDIA driver" not in "\n".join(lines)


def test_what_ran_elsewhere_than_was_asked_for_is_told():
    found = comparison()
    proof = Proof("CUDAExecutionProvider", "node times", {}, ("Slice_3 (Slice) ran on CPUExecutionProvider",))
    rows = (replace(found.rows[0], proof=proof), *found.rows[1:])
    told = "ran elsewhere: model.pt: Slice_3 (Slice) ran on CPUExecutionProvider"
    assert told in text(replace(found, rows=rows))
    assert "ran elsewhere" not in text(found)


def test_an_interrupted_comparison_is_marked():
    assert "interrupted: not everything was measured" in text(replace(comparison(), complete=False))
    assert "interrupted" not in text(comparison())


def test_runs_side_by_side_have_tables_of_their_own():
    here = comparison()
    gpu = Machine("Linux 6.1", "x86_64", "Some Processor", 2, gpus=({"name": "Some GPU"},))
    there = replace(here, machines=(gpu,), verdicts=())
    merged = merge([here, there], ["here.json", "there.json"])
    best = next(row for row in merged.rows if row.machine == 1)
    merged = replace(merged, verdicts=(Verdict("recommended", best.name, "the fastest"),))
    shown = text(merged, 140, plain=True)
    assert shown.count("Accuracy on 360 test images of digits") == 2
    assert "On Some Processor, 2 cores, Some GPU, Linux 6.1" in shown
    assert f"recommended on Some GPU: {best.name}: the fastest" in shown
    assert "Measured on" not in shown


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
