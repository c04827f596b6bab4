from dataclasses import replace

import numpy as np
import pytest
import torch

from engines.errors import DataError
from engines.preprocess import Preprocess
from export.augment import ten_crops
from export.evaluation import tally_ten_crops
from export.training import TrainingData, ten_crop_frame, train
from tests.export.tiny_training import PREPROCESS, QUICK, data, net, pictures


def test_ten_crops_are_corners_and_centre_and_their_mirror_images() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (3, 8, 9, 3), np.uint8)
    views = ten_crops(frames, 4, 5)
    expected = [
        frames[:, :4, :5],
        frames[:, :4, -5:],
        frames[:, -4:, :5],
        frames[:, -4:, -5:],
        frames[:, 2:6, 2:7],
    ]
    assert len(views) == 10
    for view, mirrored, hand in zip(views[:5], views[5:], expected, strict=True):
        assert np.array_equal(view, hand)
        assert np.array_equal(mirrored, np.flip(hand, 2))


def test_the_centre_is_what_the_preprocessing_cuts_out() -> None:
    preprocess = Preprocess(14, 14)
    picture = np.random.default_rng(0).integers(0, 256, (40, 31, 3), np.uint8)
    frame = ten_crop_frame(preprocess).pixels(picture)
    assert frame.shape == (16, 16, 3)
    assert np.array_equal(ten_crops(frame[None], 14, 14)[4][0], preprocess.pixels(picture))


def test_ten_crop_accuracy_is_that_of_the_mean_softmax() -> None:
    preprocess = replace(PREPROCESS, crop_fraction=16 / 20)
    frames = np.random.default_rng(1).integers(0, 256, (40, 20, 20, 3), np.uint8)
    module = net().eval()
    means = np.zeros((40, 3))
    for index, frame in enumerate(frames):
        for top, left in [(0, 0), (0, 4), (4, 0), (4, 4), (2, 2)]:
            for step in (1, -1):
                crop = np.ascontiguousarray(frame[top : top + 16, left : left + 16][:, ::step])
                with torch.no_grad():
                    logits = module(torch.from_numpy(preprocess.normalise(crop[None]))).double().numpy()[0]
                means[index] += np.exp(logits) / np.exp(logits).sum() / 10
    labels = np.random.default_rng(2).integers(0, 3, 40)
    batches = [(frames[:25], labels[:25]), (frames[25:], labels[25:])]
    right, seen = tally_ten_crops(module, batches, preprocess)
    assert (right, seen) == (int((means.argmax(1) == labels).sum()), 40)
    assert 0 < right < 40


def test_a_recipe_asks_for_the_ten_crop_accuracy_at_the_end() -> None:
    pixels, labels = pictures(30, 2)
    frames = np.pad(pixels, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    source: TrainingData = replace(data(), test_frames=lambda: [(frames, labels)])
    module = net()
    result = train(module, source, PREPROCESS, replace(QUICK, epochs=2, ten_crop=True))
    right, seen = tally_ten_crops(module, [(frames, labels)], PREPROCESS)
    assert result.ten_crop_accuracy == right / seen == result.to_json()["ten_crop_accuracy"]
    assert train(net(), source, PREPROCESS, replace(QUICK, epochs=1)).ten_crop_accuracy is None
    with pytest.raises(DataError, match="ten crops need test pictures that are larger"):
        train(net(), data(), PREPROCESS, replace(QUICK, ten_crop=True))
