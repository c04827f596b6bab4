"""What the benchmark of comparisons counts as equal and as slower."""

import numpy as np
import onnx
import pytest

from benchmarks.comparison_power import (
    WAYS,
    _bootstrap,
    _torch_figures,
    _torch_iqr,
    _verdict,
    _welch,
    slowed,
    summary,
)
from engines.sessions import open_session
from tests.tiny import PREPROCESS, tiny_graph, tiny_images

RNG = np.random.default_rng(0)
QUICK = list(RNG.normal(0.010, 0.0005, 100))
SAME = list(RNG.normal(0.010, 0.0005, 100))
SLOW = list(RNG.normal(0.011, 0.0005, 90))


def measured(times: list[float], trimmed: float) -> dict:
    return {"times": times, "median": float(np.median(times)), "trimmed": trimmed}


@pytest.mark.parametrize(("second", "verdict"), [(SAME, "equal"), (SLOW, "slower")])
def test_every_way_tells_equal_from_slower_where_nothing_disturbs(second, verdict):
    assert _bootstrap(QUICK, second)["verdict"] == verdict
    assert _welch(QUICK, second)["verdict"] == verdict
    figures = [measured(times, round(float(np.median(times)), 3)) for times in (QUICK, second)]
    assert _torch_iqr(*figures)["verdict"] == verdict
    assert _torch_figures(*figures)["verdict"] == verdict


def test_an_interval_without_one_is_a_difference():
    assert [_verdict(*bounds) for bounds in [(0.9, 1.1), (0.8, 0.95), (1.05, 1.2), (None, None)]] == [
        "equal",
        "slower",
        "faster",
        "none",
    ]


def test_a_slowed_session_answers_the_same(tmp_path):
    path = tmp_path / "tiny.onnx"
    onnx.save(tiny_graph(), path)
    feeds = {"input": PREPROCESS.normalise(tiny_images(3))}
    with open_session(path, device="cpu") as session:
        expected = session.run(feeds)["logits"]
    with slowed(str(path), backend="auto", device="cpu", threads=1) as session:
        np.testing.assert_allclose(session.run(feeds)["logits"], expected, rtol=1e-5, atol=1e-6)


def test_the_summary_counts_what_each_way_got_right():
    right = {way: {"verdict": "equal"} for way in WAYS}, {way: {"verdict": "slower"} for way in WAYS}
    wrong = {way: {"verdict": "faster"} for way in WAYS}
    found = summary([{"equal": right[0], "slower": right[1]}, {"equal": right[0], "slower": wrong}])
    assert found["welch"] == {"equal_called_equal": 2, "slower_called_slower": 1, "of": 2}
