"""Archives of tensors: one array an input, checked against what the network takes."""

from dataclasses import replace

import numpy as np
import pytest

from engines.errors import DataError, InputError
from engines.metadata import ModelMetadata
from engines.tensors import TensorSpec
from toolkit.data.tensors import TensorDataset, choose_samples, open_tensors

IDS = TensorSpec("ids", "int64", ("batch", 3))
X = TensorSpec("x", "float32", ("batch", 2))
TEXT = ModelMetadata("text", ("no", "yes"), None, inputs=(IDS, X))


def arrays(count=10):
    return {"ids": np.arange(count * 3).reshape(count, 3), "x": np.ones((count, 2)) * np.arange(count)[:, None]}


def saved(folder, **values):
    path = folder / "data.npz"
    np.savez(path, **values)
    return path


def test_whole_arrays_are_split_once_and_for_all(tmp_path):
    path = saved(tmp_path, **arrays(), other=np.zeros(4))
    first, again = open_tensors(path, TEXT), open_tensors(path, TEXT)
    assert (len(first.train), len(first.test), first.labels) == (8, 2, ())
    assert first.train.identity() == again.train.identity() != first.test.identity()
    assert list(first.train.arrays) == ["ids", "x"]
    assert first.train.arrays["x"].dtype == np.float32
    together = np.concatenate([first.train.arrays["x"], first.test.arrays["x"]])[:, 0]
    assert sorted(together.tolist()) == list(range(10))
    rows = first.test.arrays["ids"][:, 0] // 3
    assert np.array_equal(rows, first.test.arrays["x"][:, 0])  # inputs stay beside each other


def test_a_split_of_its_own_is_kept_and_labels_may_be_names(tmp_path):
    train, test = arrays(4), arrays(3)
    values = {f"train/{name}": array for name, array in train.items()}
    values |= {f"test/{name}": array for name, array in test.items()}
    values |= {"train/labels": np.array(["yes", "no", "yes", "yes"]), "test/labels": np.array([0, 1, 0])}
    found = open_tensors(saved(tmp_path, **values), TEXT)
    assert np.array_equal(found.train.arrays["ids"], train["ids"])
    assert found.train.labels.tolist() == [1, 0, 1, 1]
    assert found.test.labels.tolist() == [0, 1, 0]
    assert found.labels == ("no", "yes")
    assert open_tensors(found, TEXT) is found


def test_batches_are_of_all_inputs_in_the_order_asked_for(tmp_path):
    split = open_tensors(saved(tmp_path, **arrays()), TEXT).train
    order = choose_samples(split, 5, seed=1)
    batches = list(split.batches(2, order))
    assert [len(batch["x"]) for batch in batches] == [2, 2, 1]
    assert np.array_equal(np.concatenate([batch["ids"] for batch in batches]), split.arrays["ids"][order])
    assert len(set(choose_samples(split, 99).tolist())) == 8
    with pytest.raises(InputError):
        choose_samples(split, 0)


def test_labels_of_a_network_without_classes_are_another_array(tmp_path):
    found = open_tensors(saved(tmp_path, **arrays(), labels=np.zeros(10)), replace(TEXT, labels=(), scores="none"))
    assert found.train.labels is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"ids": None}, "has no ids"),
        ({"ids": None, "x": None}, "and no ids"),
        ({"x": np.ones((9, 2))}, "different numbers of samples"),
        ({"x": np.ones((10, 3))}, "'x' in .* is \\[10, 3\\]"),
        ({"x": np.ones((10, 2), int)}, "'x' in .* is int64"),
        ({"ids": np.ones((10, 3))}, "'ids' in .* is float64"),
        ({"ids": np.full((10, 3), 2**63, np.uint64)}, "'ids' in .* is uint64"),
        ({"x": np.full((10, 2), np.nan)}, "NaN or infinity"),
        ({"x": np.full((10, 2), 1e300)}, "NaN or infinity"),
        ({"labels": np.full(10, 2)}, "no class numbers from 0 to 1"),
        ({"labels": np.array(["maybe"] * 10)}, "no class 'maybe'"),
        ({"labels": np.zeros(9, int)}, "for 10 samples"),
        ({"train/x": np.ones((10, 2))}, "holds both"),
        ({"x": np.array([[None] * 2] * 10)}, "pickled objects"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, change, said):
    values = {name: value for name, value in (arrays() | change).items() if value is not None}
    with pytest.raises(DataError, match=said):
        open_tensors(saved(tmp_path, **(values or {"z": np.zeros(3)})), TEXT)


def test_what_is_no_archive_is_refused(tmp_path):
    with pytest.raises(InputError):
        open_tensors(tmp_path / "none.npz", TEXT)
    (tmp_path / "a.csv").write_text("1")
    with pytest.raises(DataError, match=r"is no \.npz, but text takes ids: int64"):
        open_tensors(tmp_path / "a.csv", TEXT)
    (tmp_path / "b.npz").write_bytes(b"PK nothing")
    with pytest.raises(DataError, match="can't read"):
        open_tensors(tmp_path / "b.npz", TEXT)
    with pytest.raises(DataError, match="one sample"):
        open_tensors(saved(tmp_path, ids=np.zeros((1, 3), int), x=np.zeros((1, 2))), TEXT)


def test_a_dataset_that_is_open_is_taken(tmp_path):
    assert isinstance(open_tensors(saved(tmp_path, **arrays()), TEXT), TensorDataset)


def test_a_name_that_only_pictures_have_is_told_by_what_the_network_takes():
    with pytest.raises(DataError, match=r"'digits' is no \.npz, but text takes ids: int64"):
        open_tensors("digits", TEXT)
