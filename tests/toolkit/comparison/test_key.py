"""The key of a run: the same for the same question, another one for any other."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.tiny import METADATA, tiny_images
from toolkit import machine
from toolkit.benchmarking.messages import Contestant
from toolkit.comparison.measuring.key import key_of
from toolkit.comparison.measuring.plan import Plan
from toolkit.data import Dataset, PreprocessHint, Split

HERE = machine.describe()
LABELS = np.arange(10) % 5


def dataset(images: object, labels: np.ndarray = LABELS) -> Dataset:
    split = Split(images, labels)  # type: ignore[arg-type]
    return Dataset("blobs", METADATA.labels, split, split, PreprocessHint("stretch", 3, 16, 16))


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    (tmp_path / "a.onnx").write_bytes(b"weights")
    (tmp_path / "a.onnx.data").write_bytes(b"more of them")
    return Plan((Contestant(str(tmp_path / "a.onnx"), "a.onnx"),), (1, 8), dataset(tiny_images(10, seed=1)))


def turned(plan: Plan) -> Plan:
    images = tiny_images(10, seed=1)
    images[-1, -1, -1, -1] ^= 1
    return replace(plan, dataset=dataset(images))


OTHERS: dict[str, Callable[[Plan], Plan]] = {
    "a batch size": lambda plan: replace(plan, batch_sizes=(1,)),
    "a sweep": lambda plan: replace(plan, batch_sizes="sweep"),
    "images": lambda plan: replace(plan, images=5),
    "a reference": lambda plan: replace(plan, reference="a.onnx"),
    "seconds": lambda plan: replace(plan, pace=replace(plan.pace, seconds=2.0)),
    "launches": lambda plan: replace(plan, pace=replace(plan.pace, launches=3)),
    "a seed": lambda plan: replace(plan, pace=replace(plan.pace, seed=1)),
    "a backend": lambda plan: replace(plan, contestants=(replace(plan.contestants[0], backend="openvino"),)),
    "threads": lambda plan: replace(plan, contestants=(replace(plan.contestants[0], threads=1),)),
    "an option": lambda plan: replace(plan, contestants=(replace(plan.contestants[0], options={"x": 1}),)),
    "a rival": lambda plan: replace(plan, contestants=plan.contestants * 2),
    "no data": lambda plan: replace(plan, dataset=None),
    "a pixel": turned,
    "a label": lambda plan: replace(plan, dataset=dataset(tiny_images(10, seed=1), LABELS[::-1].copy())),
}


@pytest.mark.parametrize("name", OTHERS)
def test_another_question_has_another_key(name: str, plan: Plan) -> None:
    assert key_of(plan, HERE) == key_of(replace(plan), HERE)
    assert key_of(OTHERS[name](plan), HERE) != key_of(plan, HERE)


@pytest.mark.parametrize("name", ["a.onnx", "a.onnx.data"])
def test_a_file_that_has_changed_has_another_key(name: str, plan: Plan, tmp_path: Path) -> None:
    before = key_of(plan, HERE)
    (tmp_path / name).write_bytes(b"others")
    assert key_of(plan, HERE) != before


def test_another_library_or_machine_has_another_key(plan: Plan) -> None:
    upgraded = replace(HERE, libraries={**HERE.libraries, "onnxruntime": "99"})
    assert len({key_of(plan, one) for one in (HERE, upgraded, replace(HERE, processor="another"))}) == 3


def test_pictures_in_files_count_by_name_size_and_time(plan: Plan, tmp_path: Path) -> None:
    paths = tuple(tmp_path / f"{number}.png" for number in range(10))
    for path in paths:
        path.write_bytes(b"picture")
    files = replace(plan, dataset=dataset(paths))
    before = key_of(files, HERE)
    assert key_of(files, HERE) == before
    os.utime(paths[3], (1, 1))
    assert key_of(files, HERE) != before
