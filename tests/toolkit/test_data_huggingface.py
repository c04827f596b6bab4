import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest

from engines.errors import DataError, MissingLibraryError
from engines.preprocess import Preprocess
from tests.toolkit.pictures import folder, picture
from toolkit.data import PreprocessHint, open_dataset, pixel_batches

SMALL = Preprocess(8, 8, resize="stretch")
NAMES = ["cat", "dog"]


@pytest.fixture(autouse=True)
def quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No bars, no hub, and a cache of its own."""
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


def table(numbers: range, *, label: Any = None, kind: Any = None, **more: Any) -> datasets.Dataset:
    kinds = {"image": datasets.Image(), "label": kind or datasets.ClassLabel(names=NAMES)}
    columns = {"image": [{"bytes": picture(n), "path": None} for n in numbers]}
    columns["label"] = [n % 2 for n in numbers] if label is None else label
    for name, (values, value_kind) in more.items():
        columns[name], kinds[name] = values, value_kind
    return datasets.Dataset.from_dict(columns, features=datasets.Features(kinds))


def saved(path: Path, **splits: datasets.Dataset) -> Path:
    datasets.DatasetDict(splits).save_to_disk(str(path))
    return path


def held(split: Any) -> list[tuple[bytes, int]]:
    return [(bytes(split.image(i)), int(split.labels[i])) for i in range(len(split))]


@pytest.mark.parametrize("spelt", ["{}", "hf:{}"])
def test_a_saved_data_set_gives_its_bytes_and_classes(tmp_path: Path, spelt: str) -> None:
    path = saved(tmp_path / "pets", train=table(range(6)), test=table(range(6, 10)), validation=table(range(10, 12)))
    data = open_dataset(spelt.format(path))
    assert (data.name, data.labels) == ("pets", ("cat", "dog"))
    assert data.preprocess_hint == PreprocessHint("crop", 3)
    assert held(data.train) == [(picture(n), n % 2) for n in range(6)]
    assert held(data.test) == [(picture(n), n % 2) for n in range(6, 10)]
    (pixels, labels), = pixel_batches(data.test, SMALL, 8, threads=3)  # fmt: skip
    assert np.array_equal(pixels, np.stack([SMALL.pixels(picture(n)) for n in range(6, 10)]))
    assert labels.tolist() == [0, 1, 0, 1]


def test_one_table_is_split_by_class_and_rows_that_were_chosen_stay_chosen(tmp_path: Path) -> None:
    table(range(20)).select(range(5, 15)).save_to_disk(str(tmp_path / "one"))
    data = open_dataset(tmp_path / "one")
    assert (len(data.train), len(data.test)) == (8, 2)
    assert sorted(held(data.train) + held(data.test)) == sorted((picture(n), n % 2) for n in range(5, 15))
    assert np.bincount(data.test.labels).tolist() == [1, 1]


def test_a_folder_of_pictures_is_opened_by_the_library_and_read_from_its_files(tmp_path: Path) -> None:
    folder(tmp_path / "data" / "train")
    folder(tmp_path / "data" / "test", count=2)
    data = open_dataset(f"hf:{tmp_path / 'data'}")
    assert data.labels == ("cat", "dog")
    ours = open_dataset(tmp_path / "data")
    for mine, plain in ((data.train, ours.train), (data.test, ours.test)):
        mine_pixels, plain_pixels = (
            sorted((SMALL.pixels(s.image(i)).tobytes(), int(s.labels[i])) for i in range(len(s)))
            for s in (mine, plain)
        )
        assert mine_pixels == plain_pixels


def test_a_test_split_without_labels_gives_way_to_validation(tmp_path: Path) -> None:
    hidden = table(range(6, 10), label=[-1] * 4)
    path = saved(tmp_path / "a", train=table(range(6)), test=hidden, validation=table(range(10, 13)))
    assert [label for _, label in held(open_dataset(path).test)] == [0, 1, 0]
    with pytest.raises(DataError, match=r"split 'test' of .* rows without a label"):
        open_dataset(f"hf:{path}?test=test")
    assert len(open_dataset(f"hf:{path}?train=validation&test=train").train) == 3
    partly = saved(tmp_path / "b", train=table(range(6)), test=table(range(6, 8), label=[0, -1]))
    with pytest.raises(DataError, match="rows without a label"):
        open_dataset(partly)
    with pytest.raises(DataError, match=r"split 'train' of .* rows without a label"):
        open_dataset(saved(tmp_path / "c", train=hidden))
    only = saved(tmp_path / "d", train=table(range(10)), test=hidden)
    assert (len(open_dataset(only).train), len(open_dataset(only).test)) == (8, 2)


def test_columns_are_found_by_type_and_chosen_where_several_fit(tmp_path: Path) -> None:
    fine = ([n % 3 for n in range(6)], datasets.ClassLabel(names=["a", "b", "c"]))
    path = saved(tmp_path / "a", train=table(range(6), fine=fine))
    with pytest.raises(DataError, match=r"several columns of classes \(ClassLabel\): label, fine") as caught:
        open_dataset(path)
    assert caught.value.remedy == f"choose one: hf:{path}?label=label"
    assert open_dataset(f"hf:{path}?label=fine").labels == ("a", "b", "c")
    other = ([{"bytes": picture(n + 50), "path": None} for n in range(6)], datasets.Image())
    path = saved(tmp_path / "b", train=table(range(6), mask=other), test=table(range(6), mask=other))
    with pytest.raises(DataError, match=r"several columns of pictures \(Image\): image, mask"):
        open_dataset(path)
    assert held(open_dataset(f"hf:{path}?image=mask").train)[2] == (picture(52), 0)


@pytest.mark.parametrize(
    ("kind", "label", "names"),
    [("int64", [3, 0, 3, 0, 3, 0], ("0", "1", "2", "3")), ("string", ["dog", "cat"] * 3, ("cat", "dog"))],
)
def test_plain_labels_will_do(tmp_path: Path, kind: str, label: list[Any], names: tuple[str, ...]) -> None:
    path = saved(tmp_path / "a", train=table(range(6), label=label, kind=datasets.Value(kind)))
    data = open_dataset(path)
    assert data.labels == names
    assert {data.labels[n] for n in data.train.labels} == {str(value) for value in label}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("?label=nothing", "no column 'nothing'"), ("?image=label", "column 'label' of .* holds ClassLabel"),
        ("?label=image", "column 'image' of .* holds Image"), ("?test=nothing", "no split 'nothing'"),
        ("?colour=1", "has the option 'colour=1'"), ("?label=", "has the option 'label='"), ("?x", "the option 'x='"),
    ],
)  # fmt: skip
def test_choices_that_do_not_fit_are_refused(tmp_path: Path, options: str, said: str) -> None:
    path = saved(tmp_path / "a", train=table(range(6)))
    with pytest.raises(DataError, match=said) as caught:
        open_dataset(f"hf:{path}{options}")
    assert caught.value.remedy


def test_data_sets_of_another_kind_are_refused(tmp_path: Path) -> None:
    text = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]})
    with pytest.raises(DataError, match=r"no column of pictures \(Image\): it has text \(Value\), label \(Value\)"):
        open_dataset(saved(tmp_path / "a", train=text))
    with pytest.raises(DataError, match=r"no column of classes"):
        open_dataset(saved(tmp_path / "b", train=table(range(4)).remove_columns("label")))
    with pytest.raises(DataError, match=r"no split 'train', but left, right"):
        open_dataset(saved(tmp_path / "c", left=table(range(4)), right=table(range(4))))
    with pytest.raises(DataError, match=r"label' of split 'test' .* has other classes than 'train'"):
        other = table(range(4), kind=datasets.ClassLabel(names=["dog", "cat"]))
        open_dataset(saved(tmp_path / "d", train=table(range(4)), test=other))
    with pytest.raises(DataError, match="has no picture"):
        empty = table(range(4)).to_dict() | {"image": [None] * 4}
        open_dataset(
            saved(tmp_path / "e", train=datasets.Dataset.from_dict(empty, features=table(range(1)).features))
        )
    broken = saved(tmp_path / "f", train=table(range(4)))
    next((broken / "train").glob("*.arrow")).write_bytes(b"gone")
    with pytest.raises(DataError, match="can't open the Hugging Face data set"):
        open_dataset(broken)
    with pytest.raises(DataError, match="can't open the Hugging Face data set 'nobody/nothing'") as caught:
        open_dataset("hf:nobody/nothing")
    assert "HF_HUB_OFFLINE" in caught.value.remedy
    with pytest.raises(DataError, match="names no data set"):
        open_dataset("hf:")


def test_a_damaged_picture_is_named_by_its_row(tmp_path: Path) -> None:
    rows = table(range(4)).to_dict()
    rows["image"] = [{"bytes": picture(n)[: 1000 if n < 3 else 60], "path": f"{n}.png"} for n in range(4)]
    bad = datasets.Dataset.from_dict(rows, features=table(range(1)).features)
    data = open_dataset(saved(tmp_path / "a", train=table(range(4)), test=bad))
    with pytest.raises(DataError, match=r"can't read row 3 of split 'test' of '.*' \(3\.png\) as an image"):
        list(pixel_batches(data.test, SMALL, 4))


def test_the_identity_follows_the_pictures_and_the_choice(tmp_path: Path) -> None:
    first = open_dataset(saved(tmp_path / "a", train=table(range(10)))).train
    again = open_dataset(saved(tmp_path / "b", train=table(range(10)))).train
    other = open_dataset(saved(tmp_path / "c", train=table(range(1, 11)))).train
    assert first.identity() == again.identity() not in {other.identity(), first.subset(np.arange(3)).identity()}
    assert first.identity(strict=True) != again.identity(strict=True)


def test_without_the_library_the_error_tells_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "a", train=table(range(4)))
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(
        MissingLibraryError, match=r"needs the package 'datasets'.*onnx-tensorrt-toolkit\[huggingface\]"
    ):
        open_dataset(path)
