from pathlib import Path

import pytest
from PIL import Image

from engines.errors import DataError, InputError
from tests.toolkit.pictures import folder, picture
from toolkit.data import PreprocessHint, open_dataset
from toolkit.data.folder import count_pictures, existing_pictures


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "WEBP", "GIF", "TIFF", "PPM"])
def test_a_folder_of_class_folders_is_split_by_class(tmp_path: Path, kind: str) -> None:
    data = open_dataset(folder(tmp_path / "pets", count=5, kind=kind))
    assert (data.name, data.labels) == ("pets", ("cat", "dog"))
    assert data.preprocess_hint == PreprocessHint("crop", 3)
    assert [int((data.train.labels == c).sum()) for c in (0, 1)] == [4, 4]
    assert [int((data.test.labels == c).sum()) for c in (0, 1)] == [1, 1]
    paths = {data.train.image(i) for i in range(8)} | {data.test.image(i) for i in range(2)}
    assert paths == set((tmp_path / "pets").rglob("*.*"))
    assert all(
        data.labels[label] == path.parent.name
        for path, label in zip(data.train.images, data.train.labels, strict=True)
    )


@pytest.mark.parametrize("name", ["test", "val"])
def test_splits_above_the_class_folders_are_kept(tmp_path: Path, name: str) -> None:
    folder(tmp_path / "train", ("cat", "dog", "eel"))
    folder(tmp_path / name, ("dog", "eel"), count=2)
    data = open_dataset(tmp_path)
    assert data.labels == ("cat", "dog", "eel")
    assert len(data.train) == 15
    assert data.test.labels.tolist() == [1, 1, 2, 2]
    assert all(str(path).startswith(str(tmp_path / name)) for path in data.test.images)


def test_a_lone_train_folder_is_split_and_test_wins_over_val(tmp_path: Path) -> None:
    folder(tmp_path / "a" / "train")
    assert (len(open_dataset(tmp_path / "a").train), len(open_dataset(tmp_path / "a").test)) == (8, 2)
    for part, count in (("train", 3), ("val", 2), ("test", 1)):
        folder(tmp_path / "b" / part, count=count)
    assert len(open_dataset(tmp_path / "b").test) == 2


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    assert open_dataset(folder(tmp_path, ("bus", "train"))).labels == ("bus", "train")


def test_hidden_files_and_other_files_are_passed_over(tmp_path: Path) -> None:
    folder(tmp_path)
    (tmp_path / "cat" / "._0.png").write_bytes(b"resource fork")
    (tmp_path / "cat" / "notes.txt").write_text("not a picture")
    (tmp_path / ".cache").mkdir()
    (tmp_path / "README").write_text("pets")
    data = open_dataset(tmp_path)
    assert data.labels == ("cat", "dog")
    assert len(data.train) + len(data.test) == 10


def test_grey_pictures_hint_at_one_channel(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    for index in range(2):
        Image.new("L", (4, 4), index).save(tmp_path / "x" / f"{index}.png")
    assert open_dataset(tmp_path).preprocess_hint.channels == 1
    assert open_dataset(tmp_path, channels=3).preprocess_hint.channels == 3
    with pytest.raises(InputError, match="2 channels"):
        open_dataset(tmp_path, channels=2)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "WEBP"])
@pytest.mark.parametrize("share", [0.0, 0.6, 0.9])
def test_a_damaged_picture_among_good_ones_is_named_before_any_work(tmp_path: Path, kind: str, share: float) -> None:
    folder(tmp_path, kind=kind)
    bad = tmp_path / "dog" / f"3.{kind.lower()}"
    bad.write_bytes(bad.read_bytes()[: int(len(bad.read_bytes()) * share)])
    with pytest.raises(DataError) as caught:
        open_dataset(tmp_path)
    assert str(bad) in caught.value.cause
    assert "more damaged" not in caught.value.cause
    assert caught.value.remedy == "replace or remove the file"


def test_what_pillow_cannot_decode_is_named_rather_than_passed_over(tmp_path: Path) -> None:
    folder(tmp_path)
    (tmp_path / "cat" / "IMG_1.HEIC").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64))
    with pytest.raises(DataError, match=r"IMG_1\.HEIC' as an image: it is HEIC"):
        open_dataset(tmp_path)


def test_links_that_lead_nowhere_or_in_circles_are_named(tmp_path: Path) -> None:
    folder(tmp_path / "a")
    (tmp_path / "a" / "eel").symlink_to(tmp_path / "a" / "eel")
    with pytest.raises(DataError, match="eel' is a link that leads nowhere"):
        open_dataset(tmp_path / "a")
    folder(tmp_path / "b")
    (tmp_path / "b" / "cat" / "x.png").symlink_to("x.png")
    with pytest.raises(DataError, match=r"x\.png' as an image: .*symbolic links"):
        open_dataset(tmp_path / "b")
    folder(tmp_path / "c")
    (tmp_path / "c" / "cat" / "all").symlink_to(tmp_path / "c")
    assert len(open_dataset(tmp_path / "c").train) == 8
    assert count_pictures([tmp_path / "c"]) == 10


def test_several_damaged_pictures_are_counted(tmp_path: Path) -> None:
    folder(tmp_path)
    for index in range(3):
        (tmp_path / "cat" / f"{index}.png").write_bytes(b"<html>")
    with pytest.raises(DataError, match=r"cat/0\.png.* \(and 2 more damaged pictures\)"):
        open_dataset(tmp_path)


def test_a_whole_jpeg_with_bytes_behind_its_end_is_taken(tmp_path: Path) -> None:
    folder(tmp_path, kind="JPEG")
    path = tmp_path / "cat" / "0.jpeg"
    path.write_bytes(path.read_bytes() + b"\0" * 500)  # motion photos carry a film there
    assert len(open_dataset(tmp_path).train) == 8


def test_folders_without_usable_pictures_are_refused_with_the_layout(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no pictures") as caught:
        open_dataset(tmp_path / "empty")
    assert "DATA/cat/1.jpg" in caught.value.remedy
    (tmp_path / "flat").mkdir()
    (tmp_path / "flat" / "1.png").write_bytes(picture(1))
    with pytest.raises(DataError, match="1 pictures but no class folders"):
        open_dataset(tmp_path / "flat")
    folder(tmp_path / "holes")
    (tmp_path / "holes" / "eel").mkdir()
    with pytest.raises(DataError, match=r"class folder '.*eel' holds no pictures"):
        open_dataset(tmp_path / "holes")
    (tmp_path / "deep" / "a" / "b").mkdir(parents=True)
    with pytest.raises(DataError, match=r"no folder in '.*deep' holds pictures"):
        open_dataset(tmp_path / "deep")


def test_splits_that_do_not_fit_each_other_are_refused(tmp_path: Path) -> None:
    folder(tmp_path / "a" / "train")
    folder(tmp_path / "a" / "test", ("cat", "emu"))
    with pytest.raises(DataError, match=r"has class 'emu', which '.*train' lacks"):
        open_dataset(tmp_path / "a")
    folder(tmp_path / "b" / "val")
    with pytest.raises(DataError, match="has val/ but no train/"):
        open_dataset(tmp_path / "b")
    for part in ("train", "test"):
        (tmp_path / "c" / part).mkdir(parents=True)
        (tmp_path / "c" / part / "1.png").write_bytes(picture(1))
    with pytest.raises(DataError, match="train' has 1 pictures but no class folders"):
        open_dataset(tmp_path / "c")


def test_a_class_with_one_picture_cannot_be_split(tmp_path: Path) -> None:
    folder(tmp_path)
    (tmp_path / "eel").mkdir()
    (tmp_path / "eel" / "1.png").write_bytes(picture(1))
    with pytest.raises(DataError, match="class 'eel' has one image"):
        open_dataset(tmp_path)


def test_the_check_of_the_pictures_tells_how_far_it_is(tmp_path: Path) -> None:
    told: list[object] = []

    class Listener:
        def begin(self, task: str, total: int | None = None, unit: str = "") -> None:
            told.extend((task, total, unit))

        def advance(self, steps: int = 1, **facts: object) -> None:
            told.append(steps)

        def end(self) -> None:
            told.append("end")

    open_dataset(folder(tmp_path / "pets", count=150), progress=Listener())
    assert told == ["Checking the pictures of pets", 300, "pictures", 256, 44, "end"]


def test_pictures_for_prediction_come_from_files_and_folders(tmp_path: Path) -> None:
    folder(tmp_path / "pets", count=2)
    lone = tmp_path / "lone.tiff"
    found = list(existing_pictures([lone, tmp_path / "pets"]))
    assert count_pictures([lone, tmp_path / "pets"]) == len(found)
    assert [str(path.relative_to(tmp_path)) for path in found] == [
        "lone.tiff", "pets/cat/0.png", "pets/cat/1.png", "pets/dog/0.png", "pets/dog/1.png",
    ]  # fmt: skip
    (tmp_path / "void").mkdir()
    with pytest.raises(DataError, match="void' holds no pictures"):
        list(existing_pictures([tmp_path / "void"]))
    with pytest.raises(DataError, match="void' holds no pictures"):
        count_pictures([tmp_path / "void"])
