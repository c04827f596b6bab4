"""The GPU figures as far as a machine without a GPU can tell: the ways to run, and the goals."""

import numpy as np
import onnx
import pytest

from benchmarks import gpu_figures, gpu_goals, gpu_sessions
from benchmarks.gpu_sessions import Slotted
from engines.sessions.fake import FakeSession
from tests.conformance import samples
from tests.tiny import tiny_graph


def timing(speed, device=None, mean=None):
    return {
        "runs": 9,
        "images_per_second": speed,
        "latency_seconds": {"mean": mean},
        "stage_seconds": device and {"device": device},
    }


def test_goals_are_ratios_by_batch_and_say_what_was_not_measured():
    rows = [
        {"name": gpu_goals.PLAIN, "batches": {"1": timing(100.0), "8": {"not_measured": "died"}}},
        {"name": "ONNX Runtime CUDA FP16", "batches": {"1": timing(125.0, 0.002), "8": timing(9.0, 0.004)}},
        {"name": "ONNX Runtime CUDA FP16 from uint8", "batches": {"1": timing(150.0, 0.002), "8": timing(9.0)}},
        {"name": "ONNX Runtime CUDA FP16, slots in place", "batches": {"1": timing(1.0, None, 0.0021), "8": {}}},
        {"name": "tensorrt FP16", "batches": {"1": timing(1.0)}},
        {"name": "tensorrt FP16, slots in place", "batches": {"1": timing(1.0, None, 0.1)}},
    ]
    found = {goal["what"]: goal for goal in gpu_goals.goals(rows)}
    ours = found["ONNX Runtime CUDA FP16 / plain session.run"]
    assert (ours["ratios"], ours["met"]) == ({"1": 1.25, "8": "not measured"}, [])
    assert found["ONNX Runtime CUDA FP16 from uint8 / plain session.run"]["met"] == ["1"]
    slots = found["ONNX Runtime CUDA FP16, slots in place / device alone"]
    assert (slots["ratios"], slots["met"]) == ({"1": 1.05, "8": "not measured"}, ["1"])
    untold = found["tensorrt FP16, slots in place / device alone"]
    assert (untold["ratios"], untold["met"]) == ({"1": "not measured"}, []), "a run without times on the device"
    assert found["tensorrt FP16 from uint8, slots in place / device alone"]["ratios"] == {}


def test_every_row_that_a_goal_names_is_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_figures, "_graphs", lambda folder: (tmp_path / "a.pt", {}, "not made here"))
    names = {row.name for row in gpu_figures._artifacts(tmp_path)}
    assert gpu_goals.PLAIN in names
    assert {name for name, _ in gpu_goals.FASTER} <= names
    assert {name for engine in gpu_goals.OVERLAPPED for name in (engine, f"{engine}, slots in place")} <= names


@pytest.mark.parametrize("fill", [True, False])
def test_a_loop_through_slots_answers_what_was_asked_two_calls_before(fill):
    with Slotted(FakeSession(), fill=fill) as session:
        expected = FakeSession().expected
        for batch in (2, 4):
            data = [samples(batch, seed=seed) for seed in range(7)]
            answers = [session.run({"input": value})["logits"] for value in data]
            for number, asked in enumerate((0, 1, 2, 3, 4) if fill else (0, 1, 2, 0, 1), start=2):
                np.testing.assert_allclose(answers[number], expected(data[asked]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("opener", [gpu_sessions.slots_filled, gpu_sessions.slots_in_place])
def test_the_openers_run_a_graph(opener, tmp_path):
    path = tmp_path / "tiny.onnx"
    onnx.save(tiny_graph(), path)
    with opener(str(path), backend="auto", device="cpu", threads=1) as session:
        for _ in range(4):
            assert session.run({"input": samples(2)})["logits"].shape == (2, 5)
