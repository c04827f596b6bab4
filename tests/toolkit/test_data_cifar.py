import io
import pickle
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest

from engines.errors import DataError
from toolkit.data import PreprocessHint, open_dataset
from toolkit.data.pickled import read_plain_pickle

TEN = ("plane", "car", "bird", "cat")
FINE, COARSE = ("apple", "bear", "crab"), ("fruit", "animal")


def pictures(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), np.uint8)


def planes(image: np.ndarray) -> bytes:
    """As the data set's page says: 1024 bytes of red, row by row, then green, then blue."""
    return b"".join(bytes(image[y, x, c] for y in range(32) for x in range(32)) for c in range(3))


def ten_binary() -> tuple[dict[str, bytes], np.ndarray, np.ndarray]:
    files, images, labels = {"batches.meta.txt": "\n".join(TEN).encode() + b"\n\n"}, [], []
    for number, name in enumerate([*(f"data_batch_{n}.bin" for n in range(1, 6)), "test_batch.bin"]):
        part, classes = pictures(3, number), [number % 4, (number + 1) % 4, 3]
        files[name] = b"".join(bytes([label]) + planes(image) for label, image in zip(classes, part, strict=True))
        images.append(part)
        labels.append(classes)
    return files, np.stack(images), np.array(labels)


def hundred_binary() -> tuple[dict[str, bytes], np.ndarray, np.ndarray]:
    files = {"fine_label_names.txt": "\n".join(FINE).encode(), "coarse_label_names.txt": "\n".join(COARSE).encode()}
    images, labels = pictures(6, 9), np.array([2, 1, 0, 1, 1, 2])
    for name, part in (("train.bin", slice(0, 4)), ("test.bin", slice(4, 6))):
        records = zip(labels[part], images[part], strict=True)
        files[name] = b"".join(bytes([int(fine > 0), fine]) + planes(image) for fine, image in records)
    return files, images, labels


def old_string(value: bytes) -> bytes:
    """A string as Python 2 pickles it: BINSTRING."""
    return b"T" + struct.pack("<i", len(value)) + value


def old_list(items: list[bytes]) -> bytes:
    return b"](" + b"".join(items) + b"e"


def old_array(data: np.ndarray) -> bytes:
    """A uint8 matrix as numpy under Python 2 pickles it in protocol 2."""
    dtype = (
        b"cnumpy\ndtype\n"
        + old_string(b"u1")
        + b"K\x00K\x01\x87R"
        + (b"(K\x03" + old_string(b"|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb")
    )
    start = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + old_string(b"b") + b"\x87R"
    shape = b"".join(b"J" + struct.pack("<i", side) for side in data.shape) + b"\x86"
    return start + b"(K\x01" + shape + dtype + b"\x89" + old_string(data.tobytes()) + b"tb"


def old_pickle(fields: dict[bytes, bytes]) -> bytes:
    return b"\x80\x02}(" + b"".join(old_string(key) + value for key, value in fields.items()) + b"u."


def numbers(values: list[int]) -> bytes:
    return old_list([b"K" + bytes([value]) for value in values])


def ten_python() -> dict[str, bytes]:
    _, images, labels = ten_binary()
    files = {"batches.meta": old_pickle({b"label_names": old_list([old_string(n.encode()) for n in TEN])})}
    for name, part, classes in zip(
        [*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"], images, labels, strict=True
    ):
        data = np.stack([np.frombuffer(planes(image), np.uint8) for image in part])
        files[name] = old_pickle({
            b"batch_label": old_string(b"one of 5"), b"labels": numbers(classes.tolist()), b"data": old_array(data),
        })  # fmt: skip
    return files


def hundred_python() -> dict[str, bytes]:
    _, images, labels = hundred_binary()
    files = {"meta": old_pickle({b"fine_label_names": old_list([old_string(n.encode()) for n in FINE])})}
    for name, part in (("train", slice(0, 4)), ("test", slice(4, 6))):
        data = np.stack([np.frombuffer(planes(image), np.uint8) for image in images[part]])
        fine = numbers(labels[part].tolist())
        files[name] = old_pickle({b"data": old_array(data), b"fine_labels": fine, b"coarse_labels": fine})
    return files


FORMS = {
    "cifar-10-batches-bin": lambda: ten_binary()[0], "cifar-10-batches-py": ten_python,
    "cifar-100-binary": lambda: hundred_binary()[0], "cifar-100-python": hundred_python,
}  # fmt: skip


def packed(path: Path, root: str, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w") as archive:
        folder = tarfile.TarInfo(root)
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for name, data in files.items():
            member = tarfile.TarInfo(f"{root}/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def unpacked(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


@pytest.mark.parametrize("lies", ["folder", "folder above", "tar.gz", "tar"])
@pytest.mark.parametrize("form", FORMS)
def test_the_published_files_are_read_in_every_form(tmp_path: Path, form: str, lies: str) -> None:
    if lies.startswith("folder"):
        folder = unpacked(tmp_path / form, FORMS[form]())
        data = open_dataset(tmp_path if lies == "folder above" else folder)
    else:
        data = open_dataset(packed(tmp_path / f"download.{lies}", form, FORMS[form]()))
    assert data.preprocess_hint == PreprocessHint("stretch", 3, 32, 32)
    if "100" in form:
        _, images, labels = hundred_binary()
        assert (data.name, data.labels) == ("cifar-100", FINE)
        expected = images[:4], images[4:], labels[:4], labels[4:]
    else:
        _, images, labels = ten_binary()
        assert (data.name, data.labels) == ("cifar-10", TEN)
        expected = images[:5].reshape(-1, 32, 32, 3), images[5], labels[:5].ravel(), labels[5]
    found = data.train.images, data.test.images, data.train.labels, data.test.labels
    assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize(
    ("form", "name", "damage", "said"),
    [
        ("cifar-10-batches-bin", "data_batch_3.bin", lambda d: d[:-1], r"data_batch_3\.bin' has 9218 bytes"),
        ("cifar-10-batches-bin", "data_batch_3.bin", lambda d: b"", "has 0 bytes"),
        ("cifar-10-batches-bin", "data_batch_3.bin", None, r"lacks data_batch_3\.bin"),
        ("cifar-10-batches-bin", "test_batch.bin", None, r"lacks test_batch\.bin"),
        ("cifar-10-batches-bin", "batches.meta.txt", None, r"lacks batches\.meta\.txt"),
        ("cifar-10-batches-bin", "data_batch_2.bin", lambda d: b"\x04" + d[1:], "from 2 to 4, outside the 4 classes"),
        ("cifar-100-binary", "test.bin", lambda d: b"\0\x03" + d[2:], "from 2 to 3, outside the 3 classes"),
        ("cifar-10-batches-py", "data_batch_1", lambda d: d[:500], "can't read the pickle"),
        ("cifar-10-batches-py", "test_batch", lambda d: pickle.dumps([1, 2]), "holds no pictures of 3072"),
        ("cifar-10-batches-py", "batches.meta", lambda d: pickle.dumps({}), "names no classes"),
        ("cifar-10-batches-py", "data_batch_4", lambda d: d.replace(b"K\x03e", b"e"), "no label for each of its 3"),
        ("cifar-10-batches-py", "data_batch_4", lambda d: d.replace(b"u1", b"f4"), "isn't of plain bytes"),
        ("cifar-10-batches-py", "data_batch_4", None, "lacks data_batch_4"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("in_archive", [False, True])
def test_damaged_files_are_named(
    tmp_path: Path, form: str, name: str, damage: object, said: str, in_archive: bool
) -> None:
    files = FORMS[form]()
    content = files.pop(name)
    if damage is not None:
        files[name] = damage(content)  # type: ignore[operator]
    source = packed(tmp_path / "a.tar.gz", form, files) if in_archive else unpacked(tmp_path / form, files)
    with pytest.raises(DataError, match=said) as caught:
        open_dataset(source)
    assert caught.value.remedy


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_download_that_was_cut_off_is_named(tmp_path: Path, share: float) -> None:
    path = packed(tmp_path / "cifar-10-binary.tar.gz", "cifar-10-batches-bin", FORMS["cifar-10-batches-bin"]())
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(DataError, match=r"cifar-10-binary\.tar\.gz' is truncated or damaged"):
        open_dataset(path)


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("touched"),)  # type: ignore[return-value]


def test_code_in_a_pickle_does_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = unpacked(tmp_path / "py", ten_python() | {"data_batch_2": pickle.dumps({b"data": Bomb()})})
    with pytest.raises(DataError, match=r"data_batch_2': it names pathlib"):
        open_dataset(folder)
    assert not Path("touched").exists()
    for call in (b"cposix\nsystem\n", b"cbuiltins\neval\n", b"cnumpy\nload\n", b"cnumpy.core.multiarray\nfromfile\n"):
        with pytest.raises(DataError, match="it names"):
            read_plain_pickle("x", io.BytesIO(b"\x80\x02" + call + old_string(b"touch touched") + b"\x85R."))
    huge = b"\x80\x02}" + old_string(b"data") + b"cnumpy\nndarray\nJ\xff\xff\xff\x7f\x85\x85R" + b"s."
    with pytest.raises(DataError, match="isn't of plain bytes"):  # two gigabytes that are never asked for
        read_plain_pickle("x", io.BytesIO(huge))
