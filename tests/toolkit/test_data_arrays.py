import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from engines.errors import DataError
from toolkit.data import PreprocessHint, open_dataset


def idx(array: np.ndarray) -> bytes:
    return struct.pack(">BBBB", 0, 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def mnist(root: Path, *, zipped: bool, train: int = 40, test: int = 20) -> tuple[np.ndarray, np.ndarray]:
    root.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (train + test, 7, 5), np.uint8)
    labels = np.arange(train + test, dtype=np.uint8) % 4
    for part, chosen in (("train", slice(0, train)), ("t10k", slice(train, None))):
        for name, array in ((f"{part}-images-idx3-ubyte", images), (f"{part}-labels-idx1-ubyte", labels)):
            data = idx(array[chosen])
            (root / (name + ".gz" * zipped)).write_bytes(gzip.compress(data) if zipped else data)
    return images, labels


def test_the_digits_are_split_by_class_and_scaled_to_bytes() -> None:
    data, source = open_dataset("digits"), load_digits()
    assert data.labels == tuple("0123456789")
    assert data.preprocess_hint == PreprocessHint("stretch", 1, 8, 8)
    assert len(data.train) + len(data.test) == len(source.images) == 1797
    for digit in range(10):
        total = int((source.target == digit).sum())
        assert abs(int((data.test.labels == digit).sum()) - total / 5) <= 0.5
    found = sorted(
        (int(label), image.tobytes())
        for s in (data.train, data.test)
        for image, label in zip(s.images, s.labels, strict=True)
    )
    levels = [[round(v * 255 / 16) for v in image.ravel()] for image in source.images]
    assert found == sorted((int(t), bytes(v)) for t, v in zip(source.target, levels, strict=True))


def test_the_split_is_the_same_for_the_same_seed_and_another_for_another() -> None:
    first, again, other = open_dataset("digits"), open_dataset("digits"), open_dataset("digits", seed=1)
    assert np.array_equal(first.test.images, again.test.images)
    assert not np.array_equal(first.test.images, other.test.images)


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("where", ["", "raw"])
def test_idx_files_are_read_as_published(tmp_path: Path, zipped: bool, where: str) -> None:
    images, labels = mnist(tmp_path / where, zipped=zipped)
    data = open_dataset(tmp_path)
    assert np.array_equal(data.train.images, images[:40])
    assert np.array_equal(data.test.images, images[40:])
    assert np.array_equal(data.test.labels, labels[40:])
    assert data.labels == ("0", "1", "2", "3")
    assert data.preprocess_hint == PreprocessHint("stretch", 1, 7, 5)


def test_idx_without_a_test_pair_is_split(tmp_path: Path) -> None:
    mnist(tmp_path, zipped=True)
    for name in ("images-idx3", "labels-idx1"):
        (tmp_path / f"t10k-{name}-ubyte.gz").unlink()
    data = open_dataset(tmp_path)
    assert (len(data.train), len(data.test)) == (32, 8)
    assert np.bincount(data.test.labels).tolist() == [2, 2, 2, 2]


def test_idx_classes_are_named_by_labels_txt(tmp_path: Path) -> None:
    mnist(tmp_path, zipped=False)
    (tmp_path / "labels.txt").write_text("ant\nbee\ncow\ndog\n")
    assert open_dataset(tmp_path).labels == ("ant", "bee", "cow", "dog")
    (tmp_path / "labels.txt").write_text("ant\nbee\n")
    with pytest.raises(DataError, match="names 2 classes, but labels go up to 3"):
        open_dataset(tmp_path)


def test_fashion_mnist_is_told_from_mnist_by_its_labels(tmp_path: Path) -> None:
    labels = np.tile(np.arange(10, dtype=np.uint8), 6000)
    labels[:10] = [9, 0, 0, 3, 0, 2, 7, 2, 5, 5]
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(labels))
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx(np.zeros((60_000, 1, 1), np.uint8)))
    assert open_dataset(tmp_path).labels[9] == "Ankle boot"


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda data: gzip.compress(data)[:-20], "truncated or damaged"),
        (lambda data: gzip.compress(data)[:30] + b"\xff" * 40, "truncated or damaged"),
        (lambda data: b"not gzip at all", "truncated or damaged"),
        (lambda data: gzip.compress(data[:-1]), "holds 1399 of 1400"),
        (lambda data: gzip.compress(data + b"\0"), "more than 1400"),
        (lambda data: gzip.compress(data[:9]), "ends inside its header"),
        (lambda data: gzip.compress(b""), "not an IDX file: it begins with nothing"),
        (lambda data: gzip.compress(b"\x89PNG" + data), "begins with 89 50 4e 47"),
        (lambda data: gzip.compress(b"\0\0\x0d\x03" + data[4:]), "IDX type 0x0d"),
        (lambda data: gzip.compress(data[:4] + b"\xff" * 12), "declares 4294967295"),
        (lambda data: gzip.compress(idx(np.zeros((40, 35), np.uint8))), r"shape \[40, 35\]"),
        (lambda data: gzip.compress(idx(np.zeros((39, 7, 5), np.uint8))), "for 39 pictures"),
    ],
)
def test_a_damaged_idx_file_is_refused(tmp_path: Path, damage: object, said: str) -> None:
    images, _ = mnist(tmp_path, zipped=True)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(damage(idx(images[:40])))  # type: ignore[operator]
    with pytest.raises(DataError, match=said):
        open_dataset(tmp_path)


def test_an_idx_file_without_its_partner_is_refused(tmp_path: Path) -> None:
    mnist(tmp_path, zipped=True)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataError, match=r"t10k-images-idx3-ubyte\.gz but not its labels"):
        open_dataset(tmp_path)


def arrays(count: int = 20, classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (count, 6, 5, 3), np.uint8), np.arange(count) % classes


def test_an_archive_with_two_splits_keeps_them(tmp_path: Path) -> None:
    images, labels = arrays()
    np.savez(
        tmp_path / "a.npz", x_train=images[:12], y_train=labels[:12], x_test=images[12:], y_test=labels[12:, None]
    )
    data = open_dataset(tmp_path / "a.npz")
    assert (data.name, data.labels) == ("a", ("0", "1", "2", "3"))
    assert np.array_equal(data.train.images, images[:12])
    assert np.array_equal(data.test.labels, labels[12:])
    assert data.preprocess_hint == PreprocessHint("stretch", 3, 6, 5)


def test_an_archive_with_one_set_is_split_and_may_name_its_classes(tmp_path: Path) -> None:
    images, labels = arrays()
    np.savez_compressed(tmp_path / "a.npz", images=images, labels=labels, label_names=["a", "b", "c", "d"])
    data = open_dataset(tmp_path / "a.npz")
    assert data.labels == ("a", "b", "c", "d")
    assert (len(data.train), len(data.test)) == (16, 4)


@pytest.mark.parametrize(
    ("given_as", "channels"),
    [
        (lambda x: x.transpose(0, 3, 1, 2), 3),
        (lambda x: x / 255, 3),
        (lambda x: (x / 255).astype(np.float32), 3),
        (lambda x: x.astype(np.int64), 3),
        (lambda x: x[..., 0], 1),
        (lambda x: x[..., :1], 1),
        (lambda x: x[:, None, :, :, 0], 1),
    ],
)
def test_archives_hold_pictures_in_many_forms(tmp_path: Path, given_as: object, channels: int) -> None:
    images, labels = arrays()
    pair = {"x_train": given_as(images), "y_train": labels, "x_test": given_as(images), "y_test": labels}  # type: ignore[operator]
    np.savez(tmp_path / "a.npz", **pair)
    data = open_dataset(tmp_path / "a.npz")
    assert np.array_equal(data.train.images, images if channels == 3 else images[..., 0])
    assert data.preprocess_hint.channels == channels


def test_string_labels_become_sorted_classes(tmp_path: Path) -> None:
    images, _ = arrays(6)
    names = np.array(["dog", "cat", "dog", "cat", "eel", "eel"])
    np.savez(tmp_path / "a.npz", x_train=images, y_train=names, x_test=images, y_test=names)
    data = open_dataset(tmp_path / "a.npz")
    assert data.labels == ("cat", "dog", "eel")
    assert data.train.labels.tolist() == [1, 0, 1, 0, 2, 2]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"images": np.zeros((20, 30), np.uint8)}, r"'images' of '.*' has shape \[20, 30\]"),
        ({"images": np.zeros((20, 4, 4, 2), np.uint8)}, "has shape"),
        ({"images": np.full((20, 4, 4), 1.5)}, "float64 from 1.5 to 1.5"),
        ({"images": np.full((20, 4, 4), np.nan)}, "from nan to nan"),
        ({"images": np.full((20, 4, 4), -1)}, "from -1 to -1"),
        ({"images": np.full((20, 4, 4), 256)}, "to 256"),
        ({"images": np.zeros((20, 4, 4), bool)}, "is bool"),
        ({"images": np.zeros((19, 4, 4), np.uint8)}, "19 images but labels of shape"),
        ({"labels": np.eye(20)}, r"'labels' of '.*' is float64 \[20, 20\]"),
        ({"labels": np.arange(20) - 1}, "go from -1 to 18, outside"),
        ({"labels": np.arange(20) * 10_000}, "to 190000, outside 0 to 65535"),
        ({"label_names": np.array(["a", "b"])}, "go from 0 to 3, outside 0 to 1"),
        ({"labels": np.array(["a", "b"] * 10), "label_names": np.array(["a"])}, "label 'b'"),
        ({"labels": np.array([1, "x"] * 10, object)}, "pickled objects"),
    ],
)
def test_an_archive_whose_arrays_do_not_fit_is_refused(
    tmp_path: Path, change: dict[str, np.ndarray], said: str
) -> None:
    images, labels = arrays()
    np.savez(tmp_path / "a.npz", **({"images": images, "labels": labels} | change))
    with pytest.raises(DataError, match=said):
        open_dataset(tmp_path / "a.npz")


def test_an_archive_without_a_pair_says_what_it_holds(tmp_path: Path) -> None:
    images, labels = arrays()
    np.savez(tmp_path / "a.npz", x_train=images, y_test=labels)
    with pytest.raises(DataError, match="holds 'x_train' but not 'y_train'"):
        open_dataset(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", pictures=images)
    with pytest.raises(DataError, match="it holds pictures"):
        open_dataset(tmp_path / "b.npz")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_truncated_archive_is_refused(tmp_path: Path, share: float) -> None:
    images, labels = arrays()
    path = tmp_path / "a.npz"
    np.savez_compressed(path, images=images, labels=labels)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(DataError, match=r"can't read '.*a\.npz'"):
        open_dataset(path)


def test_a_damaged_member_of_an_archive_is_refused(tmp_path: Path) -> None:
    images, labels = arrays()
    path = tmp_path / "a.npz"
    np.savez(path, images=images, labels=labels)
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(DataError, match="CRC"):
        open_dataset(path)


@pytest.mark.parametrize("installed", [True, False], ids=["read from its file", "through scikit-learn"])
def test_the_digits_are_those_of_scikit_learn(installed, monkeypatch):
    from sklearn.datasets import load_digits

    from toolkit.data import digits

    if not installed:
        monkeypatch.setattr(digits.importlib.util, "find_spec", lambda name: None)
    bunch = load_digits()
    assert np.array_equal(digits._table(), np.column_stack([bunch.data, bunch.target]))
