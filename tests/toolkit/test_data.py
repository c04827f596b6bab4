import io
import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from engines.errors import DataError, InputError
from engines.preprocess import ImageLike, Preprocess
from tests.toolkit.pictures import folder, picture
from toolkit.data import Dataset, PreprocessHint, Split, align_labels, choose, open_dataset, suggest_preprocess
from toolkit.data.batches import MOST_THREADS, decoding_threads, float_batches, pixel_batches

SMALL = Preprocess(8, 8, resize="stretch")


def test_what_is_no_data_set_is_refused_with_the_kinds(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'imagenet' does not exist") as caught:
        open_dataset("imagenet")
    assert "'digits', an image folder" in caught.value.remedy
    (tmp_path / "a.csv").write_text("1,2")
    with pytest.raises(DataError, match="is not a data set"):
        open_dataset(tmp_path / "a.csv")


@settings(max_examples=80, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=8),
    share=st.floats(0.01, 1.2),
    seed=st.integers(0, 5),
)
def test_a_choice_gives_every_class_its_share(sizes: list[int], share: float, seed: int) -> None:
    labels = np.repeat(np.arange(len(sizes)), sizes)
    split = Split(np.zeros((len(labels), 1, 1), np.uint8), labels)
    count = max(1, round(share * len(labels)))
    chosen = choose(split, count, seed)
    assert len(chosen) == len(set(chosen.tolist())) == min(count, len(labels))
    for label, size in enumerate(sizes):
        exact = size * min(count, len(labels)) / len(labels)
        assert abs(int((labels[chosen] == label).sum()) - exact) < 1 + 1e-9
    assert np.array_equal(chosen, choose(split, count, seed))


def test_choices_differ_by_seed_and_mix_the_classes() -> None:
    split = Split(np.zeros((400, 1, 1), np.uint8), np.repeat(np.arange(4), 100))
    first = choose(split, 80, 0)
    assert set(first.tolist()) != set(choose(split, 80, 1).tolist())
    assert len(set(split.labels[first[:20]].tolist())) == 4


def test_nothing_is_chosen_from_nothing() -> None:
    split = Split(np.zeros((0, 1, 1), np.uint8), np.zeros(0, np.int64))
    with pytest.raises(DataError, match="no image"):
        choose(split, 1)
    with pytest.raises(InputError, match="0 images"):
        choose(open_dataset("digits").train, 0)


def test_a_split_holds_one_label_an_image() -> None:
    with pytest.raises(DataError, match="3 images but labels of shape"):
        Split(np.zeros((3, 1, 1), np.uint8), np.zeros(2, np.int64))


def test_the_suggested_preprocessing_follows_data_and_network(tmp_path: Path) -> None:
    digits, photos = open_dataset("digits"), open_dataset(folder(tmp_path))
    assert suggest_preprocess(digits, 224, 224, 3) == Preprocess(224, 224, resize="stretch")
    assert suggest_preprocess(photos, 227, 227) == Preprocess(227, 227)
    one = suggest_preprocess(digits, 28, 28)
    assert (one.channels, one.mean, one.std, one.resize) == (1, (0.5,), (0.5,), "stretch")
    assert suggest_preprocess(digits, 8, 8, 1, [0.1], [0.2]).std == (0.2,)


def labelled(names: tuple[str, ...]) -> Dataset:
    split = Split(np.zeros((len(names), 1, 1), np.uint8), np.arange(len(names)))
    return Dataset("some", names, split, split, PreprocessHint("stretch", 1, 1, 1))


def test_classes_are_matched_to_a_models_by_name() -> None:
    aligned = align_labels(labelled(("cat", "dog")), ("ant", "dog", "cat"))
    assert aligned.labels == ("ant", "dog", "cat")
    assert aligned.train.labels.tolist() == aligned.test.labels.tolist() == [2, 1]
    same = labelled(("cat", "dog"))
    assert align_labels(same, ["cat", "dog"]) is same


@pytest.mark.parametrize("names", [("0", "1", "2"), ("class 0", "class 1", "class 2")])
def test_a_model_without_names_takes_the_datas_numbers(names: tuple[str, ...]) -> None:
    aligned = align_labels(labelled(("cat", "dog")), names)
    assert aligned.labels == ("cat", "dog", names[2])
    assert aligned.train.labels.tolist() == [0, 1]


def test_a_class_that_the_model_lacks_is_refused() -> None:
    with pytest.raises(DataError, match="no class 'emu'"):
        align_labels(labelled(("cat", "emu")), ("cat", "dog"))
    with pytest.raises(DataError, match="no class 'cat'"):
        align_labels(labelled(("cat", "dog", "emu")), ("0", "1"))


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("batch_size", [1, 4, 7, 100])
def test_batches_hold_the_chosen_images_in_order(threads: int, batch_size: int) -> None:
    data = open_dataset("digits").train
    indices = choose(data, 23, 3)
    batches = list(pixel_batches(data, SMALL, batch_size, indices=indices, threads=threads))
    assert [len(labels) for _, labels in batches][:-1] == [batch_size] * (len(batches) - 1)
    assert np.concatenate([labels for _, labels in batches]).tolist() == data.labels[indices].tolist()
    pixels = np.concatenate([pixels for pixels, _ in batches])
    assert np.array_equal(pixels, np.repeat(np.asarray(data.images)[indices][..., None], 3, axis=3))


def test_pictures_may_be_of_any_form_and_each_is_read_in_its_turn(tmp_path: Path) -> None:
    array = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)
    (tmp_path / "1.png").write_bytes(picture(3))
    images = (picture(1), tmp_path / "1.png", array, Image.open(io.BytesIO(picture(2))))
    split = Split(images, np.arange(4))
    (pixels, labels), = pixel_batches(split.subset(np.array([3, 0, 2, 1])), SMALL, 9)  # fmt: skip
    assert labels.tolist() == [3, 0, 2, 1]
    assert np.array_equal(pixels, np.stack([SMALL.pixels(images[i]) for i in (3, 0, 2, 1)]))
    other = Split((picture(9), *images[1:]), np.arange(4))
    assert split.identity() == Split(images, np.zeros(4, np.int64)).identity() != other.identity()
    images[3].close()


def test_as_many_threads_decode_as_the_process_has_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(5)), raising=False)
    assert decoding_threads() == 5
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(200)), raising=False)
    assert decoding_threads() == MOST_THREADS
    used: set[str] = set()

    class Watched(Split):
        def image(self, index: int) -> ImageLike:
            used.add(threading.current_thread().name)
            time.sleep(0.002)
            return super().image(index)

    split = Watched(np.zeros((100, 4, 4), np.uint8), np.zeros(100, np.int64))
    assert len(list(pixel_batches(split, SMALL, 40))) == 3
    assert len(used) > 4
    assert threading.current_thread().name not in used


def test_float_batches_are_the_pixels_normalised() -> None:
    data = open_dataset("digits").test
    indices = np.arange(5)
    (pixels, _), (floats, labels) = (
        next(iter(kind(data, SMALL, 5, indices=indices))) for kind in (pixel_batches, float_batches)
    )
    assert np.array_equal(floats, SMALL.normalise(pixels))
    assert labels.tolist() == data.labels[:5].tolist()


def test_no_more_than_two_batches_are_decoded_ahead(tmp_path: Path) -> None:
    seen: list[int] = []

    class Watched(Split):
        def image(self, index: int) -> ImageLike:
            seen.append(index)
            return super().image(index)

    split = Watched(np.zeros((100, 4, 4), np.uint8), np.zeros(100, np.int64))
    batches = pixel_batches(split, SMALL, 5, threads=2)
    assert seen == []
    next(batches)
    assert len(seen) <= 15
    batches.close()  # type: ignore[attr-defined]


def test_a_picture_that_breaks_later_is_named_by_its_batch(tmp_path: Path) -> None:
    data = open_dataset(folder(tmp_path))
    broken = data.train.image(6)
    assert isinstance(broken, Path)
    broken.write_bytes(b"gone")
    batches = pixel_batches(data.train, SMALL, 4)
    next(batches)
    with pytest.raises(DataError, match=str(broken)):
        next(batches)


def test_batches_that_cannot_be_made_are_refused_at_once() -> None:
    data = open_dataset("digits").test
    with pytest.raises(InputError, match="batch size 0"):
        pixel_batches(data, SMALL, 0)
    with pytest.raises(InputError, match="leave the split"):
        pixel_batches(data, SMALL, 1, indices=np.array([len(data)]))
    with pytest.raises(InputError, match="leave the split"):
        pixel_batches(data, SMALL, 1, indices=np.array([-1]))


def test_a_path_object_is_a_folder_even_if_it_is_called_digits(tmp_path, monkeypatch):
    folder(tmp_path / "digits")
    monkeypatch.chdir(tmp_path)
    opened = open_dataset(Path("digits"))
    assert opened.labels == open_dataset("./digits").labels == ("cat", "dog")
    assert len(open_dataset("digits").labels) == 10
    assert open_dataset(opened) is opened
