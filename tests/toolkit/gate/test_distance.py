import math

import numpy as np
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tests.tiny import tiny_images
from tests.toolkit.gate.networks import IMAGES, batch, built, halved, scales
from toolkit.gate.distance import Distance, Shift, disturbed
from toolkit.gate.limits import Limits


def session(model: str | bytes, *, optimised: bool = True, threads: int = 1) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    if not optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module", params=[0, 1])
def graph(request, tmp_path_factory):
    return built(tmp_path_factory.mktemp("distance"), seed=request.param)


def movements(graph):
    """Asks a session how far its logits are from the graph's and how far one way, in units of the graph's floor."""
    images = tiny_images(IMAGES, seed=5)
    values = batch(images)
    old = session(str(graph))
    logits = old.run(None, {"input": values})[0]
    floor = Distance()
    floor.add(logits, old.run(None, {"input": batch(disturbed(images, (0,)))})[0])

    def movement(new: onnxruntime.InferenceSession) -> tuple[float, float]:
        moved, shift = Distance(), Shift()
        for one in (moved, shift):
            one.add(logits, new.run(None, {"input": values})[0])
        return moved.rms / floor.rms, shift.rms / floor.rms

    return movement


def test_other_kernels_stay_far_below_the_limits_and_every_halved_scale_is_far_above(graph):
    movement, limits = movements(graph), np.array([Limits().max_distance, Limits().max_shift])
    honest = [session(str(graph)), session(str(graph), threads=2), session(str(graph), optimised=False)]
    assert (np.array(list(map(movement, honest))) < limits / 3).all()
    wrong = {scale: movement(session(halved(graph, scale).SerializeToString())) for scale in scales(graph)}
    assert len(wrong) == 10  # four layers' weights, the input, five activations
    assert (np.array(list(wrong.values())) > 2 * limits).all(), wrong


def test_a_shift_is_what_lines_explain_whatever_the_batches():
    rng = np.random.default_rng(0)
    old = rng.normal(size=(500, 3))
    new = old + 0.5 * old[:, [0]] * [1, 0, 0] + [0, 0.25, 0] + rng.normal(0, 0.1, old.shape)
    parts = Shift()
    for start in range(0, 500, 32):
        parts.add(old[start : start + 32].astype(np.float32), new[start : start + 32].astype(np.float32))
    explained = []
    for number in range(3):
        lines = np.polyfit(old[:, number], new[:, number] - old[:, number], 1)
        explained.append(np.mean(np.polyval(lines, old[:, number]) ** 2))
    assert parts.rms == pytest.approx(np.sqrt(np.mean(explained)), rel=0.01)


def test_mere_noise_is_no_shift_however_few_the_images():
    rng = np.random.default_rng(0)
    found = []
    for _ in range(200):
        old = rng.normal(size=(10, 4)).astype(np.float32)
        shift = Shift()
        shift.add(old, old + rng.normal(size=old.shape).astype(np.float32))
        found.append(shift.rms**2)
    assert np.mean(found) < 0.1  # 0.2 without the correction: two of ten pictures' worth


def test_nothing_systematic_is_told_of_a_handful():
    shift = Shift()
    shift.add(np.ones((7, 2), np.float32), np.ones((7, 2), np.float32))
    assert shift.rms is None
    shift.add(np.ones((1, 2), np.float32), np.ones((1, 2), np.float32))
    assert shift.rms == 0


@given(arrays(np.uint8, (3, 4, 4, 1)), st.integers(0, 5))
def test_a_disturbance_moves_every_value_by_one_step_and_stays_in_range(pixels, seed):
    moved = disturbed(pixels, (seed, 7))
    assert moved.dtype == np.uint8
    assert (np.abs(moved.astype(int) - pixels.astype(int)) == 1).all()
    assert (moved == disturbed(pixels, (seed, 7))).all()


def test_the_disturbance_goes_both_ways_and_another_one_for_another_seed():
    grey = np.full((4, 8, 8, 3), 128, np.uint8)
    moved = disturbed(grey, (0, 0))
    assert 0.4 < (moved > grey).mean() < 0.6
    assert (moved != disturbed(grey, (0, 32))).any()


def test_a_distance_is_the_root_mean_square_whatever_the_batches():
    rng = np.random.default_rng(0)
    old, new = rng.normal(size=(2, 50, 7)).astype(np.float32)
    parts = Distance()
    for start in range(0, 50, 8):
        parts.add(old[start : start + 8], new[start : start + 8])
    assert parts.rms == pytest.approx(np.sqrt(np.mean((old.astype(float) - new) ** 2)))
    assert (parts.images, parts.values) == (50, 350)
    assert parts.flips == int((old.argmax(1) != new.argmax(1)).sum())
    assert Distance.from_json(parts.to_json()) == parts


def test_images_without_numbers_are_left_out():
    old, new = np.ones((3, 4), np.float32), np.full((3, 4), 2, np.float32)
    old[0, 0], new[1, 2] = math.nan, math.inf
    distance = Distance()
    distance.add(old, new)
    assert (distance.images, distance.rms) == (1, 1.0)
    distance = Distance()
    distance.add(old[:2], new[:2])
    assert distance.rms is None
