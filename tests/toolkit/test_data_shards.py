import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.errors import DataError
from engines.preprocess import Preprocess
from tests.toolkit.pictures import picture
from toolkit.data import PreprocessHint, choose, open_dataset, pixel_batches
from toolkit.data.shards import find_shards
from toolkit.kinds import KINDS

SMALL = Preprocess(8, 8, resize="stretch")


def shard(path: Path, files: Sequence[tuple[str, bytes]], kind: int = tarfile.USTAR_FORMAT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=kind) as archive:
        for name, data in files:
            member = tarfile.TarInfo(name)
            member.size, member.mtime = len(data), 1234567890.5 if kind == tarfile.PAX_FORMAT else 0
            archive.addfile(member, io.BytesIO(data))
    return path


def samples(numbers: Sequence[int], classes: int = 2, start: str = "") -> list[tuple[str, bytes]]:
    return [
        part
        for number in numbers
        for part in (
            (f"{start}{number:06}.png", picture(number)),
            (f"{start}{number:06}.cls", b"%d\n" % (number % classes)),
        )
    ]


def shards(root: Path, count: int = 3, each: int = 4) -> Path:
    for number in range(count):
        shard(root / f"pets-{number:06}.tar", samples(range(number * each, (number + 1) * each)))
    return root


def pixels_of(data: object, part: str) -> list[tuple[bytes, int]]:
    split = getattr(data, part)
    return [(bytes(split.image(i)), int(split.labels[i])) for i in range(len(split))]


def test_shards_that_webdataset_wrote_give_the_samples_that_it_reads(tmp_path: Path) -> None:
    import webdataset
    from webdataset import tariterators

    for number in range(2):
        with webdataset.TarWriter(str(tmp_path / f"x-{number:06}.tar"), encoder=False) as writer:
            for index in range(number * 5, number * 5 + 5):
                writer.write({"__key__": f"a.folder/{index:04}", "png": picture(index), "cls": b"%d" % (index % 2)})
    data = open_dataset(tmp_path)
    ours = sorted(pixels_of(data, "train") + pixels_of(data, "test"))
    theirs: dict[str, bytes] = {}
    for number in range(2):
        with (tmp_path / f"x-{number:06}.tar").open("rb") as file:
            theirs |= {part["fname"]: part["data"] for part in tariterators.tar_file_iterator(file)}
    keys = {name.removesuffix(".png") for name in theirs if name.endswith("png")}
    assert ours == sorted((theirs[f"{key}.png"], int(theirs[f"{key}.cls"])) for key in keys)
    assert (data.labels, len(data.train), len(data.test)) == (("0", "1"), 8, 2)
    assert data.preprocess_hint == PreprocessHint("crop", 3)


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_kind_of_tar_is_indexed_and_long_names_are_kept(tmp_path: Path, kind: int) -> None:
    start = "d" * 90 + "/" + ("e" * 60 if kind != tarfile.USTAR_FORMAT else "")
    path = shard(tmp_path / "a.tar", samples(range(10), start=start), kind)
    data = open_dataset(path)
    found = sorted(pixels_of(data, "train") + pixels_of(data, "test"))
    assert found == sorted((picture(number), number % 2) for number in range(10))


@pytest.mark.parametrize(
    "spec",
    ["{}", "{}/pets-{{000000..000002}}.tar", "{}/*.tar", "{}/pets-00000[0-2].tar", "{}/pets-00000{{0,1,2}}.tar"],
)
def test_shards_are_named_by_a_folder_or_a_pattern(tmp_path: Path, spec: str) -> None:
    data = open_dataset(spec.format(shards(tmp_path / "s")))
    assert (len(data.train), len(data.test)) == (10, 2)
    assert np.bincount(data.test.labels).tolist() == [1, 1]


def test_folder_and_pattern_hold_back_the_same_images(tmp_path: Path) -> None:
    for number in range(8, 12):
        shard(tmp_path / f"x-{number}.tar", samples(range(number * 4, number * 4 + 4)))
    whole = pixels_of(open_dataset(tmp_path), "test")
    for pattern in ("x-{8..11}.tar", "x-{11,10,9,8}.tar", "x-*.tar", "x-{{8,9},{8..11}}.tar"):
        opened = open_dataset(f"{tmp_path}/{pattern}")
        assert pixels_of(opened, "test") == whole, pattern
        assert opened.name == tmp_path.name


def test_braces_expand_as_in_a_shell(tmp_path: Path) -> None:
    names = ["a-8-x.tar", "a-9-x.tar", "a-10-x.tar", "b-8-x.tar", "b-9-x.tar", "b-10-x.tar"]
    for name in names:
        (tmp_path / name).touch()
    assert find_shards(f"{tmp_path}/{{a,b}}-{{8..10}}-x.tar") == [tmp_path / name for name in names]
    (tmp_path / "{odd}.tar").touch()
    with pytest.raises(DataError, match=r"shard '.*/a-11-x.tar' of .* does not exist"):
        find_shards(f"{tmp_path}/a-{{9..11}}-x.tar")
    with pytest.raises(DataError, match="no range of shards"):
        find_shards(f"{tmp_path}/a-{{9..3}}-x.tar")
    with pytest.raises(DataError, match="no shard matches"):
        open_dataset(f"{tmp_path}/z-*.tar")


@pytest.mark.parametrize(
    "names", [("train/a.tar", "val/a.tar"), ("x-train-0.tar", "x-val-0.tar"), ("train_1.tar", "validation_1.tar")]
)
def test_splits_are_told_by_folders_or_names(tmp_path: Path, names: tuple[str, str]) -> None:
    shard(tmp_path / names[0], samples(range(6)))
    shard(tmp_path / names[1], samples(range(6, 9)))
    data = open_dataset(tmp_path)
    assert pixels_of(data, "train") == [(picture(n), n % 2) for n in range(6)]
    assert pixels_of(data, "test") == [(picture(n), n % 2) for n in range(6, 9)]


def test_a_half_told_split_is_refused(tmp_path: Path) -> None:
    for number, name in enumerate(("x-train-0.tar", "x-val-0.tar", "y-0.tar")):
        shard(tmp_path / name, samples(range(number * 4, number * 4 + 4)))
    with pytest.raises(DataError, match=r"y-0\.tar' doesn't say whether"):
        open_dataset(tmp_path)
    shard(tmp_path / "b" / "val" / "0.tar", samples(range(4)))
    with pytest.raises(DataError, match="has val/ but no train/"):
        open_dataset(tmp_path / "b")
    (tmp_path / "b" / "train").mkdir()
    with pytest.raises(DataError, match="train' holds no shards"):
        open_dataset(tmp_path / "b")


@pytest.mark.parametrize(
    ("kind", "label"),
    [
        ("cls", lambda n: b"%d" % (n % 2)),
        ("txt", lambda n: b" %d\n" % (n % 2)),
        ("json", lambda n: json.dumps({"label": n % 2, "width": 3}).encode()),
        ("json", lambda n: json.dumps({"label": ["cat", "dog"][n % 2]}).encode()),
        ("txt", lambda n: ["cat", "dog"][n % 2].encode()),
    ],
)
def test_labels_are_numbers_or_names_in_several_files(tmp_path: Path, kind: str, label: object) -> None:
    files = [part for n in range(10) for part in ((f"{n}.jpg", picture(n, kind="JPEG")), (f"{n}.{kind}", label(n)))]  # type: ignore[operator]
    data = open_dataset(shard(tmp_path / "a.tar", files))
    named = label(0) not in {b"0", b" 0\n"} and b"cat" in label(0)  # type: ignore[operator]
    assert data.labels == (("cat", "dog") if named else ("0", "1"))
    assert sorted(pixels_of(data, "test") + pixels_of(data, "train")) == sorted(
        (picture(n, kind="JPEG"), n % 2) for n in range(10)
    )


def test_a_listing_names_the_numbers(tmp_path: Path) -> None:
    shard(tmp_path / "train" / "0.tar", samples(range(6)))
    (tmp_path / "labels.txt").write_text("cat\ndog\neel\n")
    assert open_dataset(tmp_path).labels == ("cat", "dog", "eel")
    (tmp_path / "labels.txt").write_text("cat\n")
    with pytest.raises(DataError, match=r"from 0 to 1, outside 0 to 0, which '.*labels.txt' names"):
        open_dataset(tmp_path)
    (tmp_path / "labels.txt").write_text("cat\ncat\n")
    with pytest.raises(DataError, match="names class 'cat' twice"):
        open_dataset(tmp_path)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ([("1.png", b"x")], r"sample '1' of shard '.*' has no label: it holds png"),
        ([("1.cls", b"0"), ("2.png", b"x"), ("2.cls", b"0")], "sample '1' of .*' has no picture: it holds cls"),
        ([("1.png", b"x"), ("1.jpg", b"x"), ("1.cls", b"0")], r"several pictures \(jpg, png\)"),
        ([("1.png", b"x"), ("2.cls", b"0")], "sample '1' .* has no label"),
        ([*samples([1, 2]), *samples([1])], "sample '000001' is in shard '.*' twice"),
        ([("a/1.png", b"x"), ("a/1.png", b"x")], r"'a/1\.png' is in shard"),
        ([("1.png", b"x"), ("1.cls", b"cat")], "the .cls of sample '1' .* is 'cat'"),
        ([("1.png", b"x"), ("1.cls", b"1.5")], "is '1.5'"),
        ([("1.png", b"x"), ("1.json", b"{")], "the .json of sample '1' .* can't be read"),
        ([("1.png", b"x"), ("1.json", b'{"labels": 1}')], "has no label"),
        ([("1.png", b"x"), ("1.json", b'{"label": true}')], "the label of sample '1' .* is 'True'"),
        ([("1.png", b"x"), ("1.txt", b"\xff\xfe")], "the .txt of sample '1'"),
        ([("1.png", b"x"), ("1.txt", b"")], "the label of sample '1'"),
        ([*samples([1]), ("2.png", b"x"), ("2.txt", b"cat")], "some labels .* are numbers and others are names"),
        ([("1.png", b"x"), ("1.cls", b"-1")], "go from -1 to -1, outside 0 to 65535"),
        ([("1.png", b"x"), ("1.cls", b"70000")], "go from 70000 to 70000"),
        ([("1.png", b"x"), ("1.json", b" " * (1 << 20) + b"1")], "has 1048577 bytes"),
        ([("._1.png", b"x"), ("__meta__.json", b"x")], "has shards without a sample"),
        ([], "has shards without a sample"),
        ([("1.png", picture(1)), ("1.cls", b"0")], "class '0' has one image"),
    ],
)  # fmt: skip
def test_bad_samples_are_named(tmp_path: Path, files: list[tuple[str, bytes]], said: str) -> None:
    with pytest.raises(DataError, match=said) as caught:
        open_dataset(shard(tmp_path / "a.tar", files))
    assert caught.value.remedy


def test_what_is_no_plain_tar_is_refused_with_what_to_do(tmp_path: Path) -> None:
    import gzip

    good = shard(tmp_path / "good.tar", samples(range(4))).read_bytes()
    for name, content, said in (
        ("a.tar.gz", gzip.compress(good), "is compressed"), ("a.tgz", gzip.compress(good), "is compressed"),
        ("b.tar", gzip.compress(good), "is compressed"), ("c.tar", b"\x28\xb5\x2f\xfd" + good, "is compressed"),
        ("d.tar", b"", "is empty"), ("e.tar", b"<html>" * 200, "not a tar"), ("f.tar", bytes(100), "not a tar"),
    ):  # fmt: skip
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=said) as caught:
            open_dataset(tmp_path / name)
        assert caught.value.remedy, name
    with pytest.raises(DataError, match=r"data set '.*none\.tar' does not exist"):
        open_dataset(tmp_path / "none.tar")
    with tarfile.open(tmp_path / "link.tar", "w") as archive:
        link = tarfile.TarInfo("1.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        archive.addfile(link)
    with pytest.raises(DataError, match="is a link"):
        open_dataset(tmp_path / "link.tar")


@settings(max_examples=40, deadline=None)
@given(share=st.floats(0, 0.999))
def test_a_shard_that_was_cut_off_anywhere_is_named(tmp_path_factory: pytest.TempPathFactory, share: float) -> None:
    path = shard(tmp_path_factory.mktemp("cut") / "a.tar", samples(range(4)))
    whole = path.read_bytes()
    end = len(whole.rstrip(b"\0")) + 1  # tar fills its last record up, far beyond the end mark
    path.write_bytes(whole[: int(end * share)])
    with pytest.raises(DataError, match=r"a\.tar'"):
        open_dataset(path)


@pytest.mark.parametrize("place", range(0, 4096, 509))
def test_a_damaged_header_is_named(tmp_path: Path, place: int) -> None:
    path = shard(tmp_path / "a.tar", [(f"{n}.{k}", b"0" * 10) for n in range(4) for k in ("png", "cls")])
    content = bytearray(path.read_bytes())
    header = place // 1024 * 1024
    content[header + 124 + place % 11] ^= 0x05  # the size
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.tar'"):
        open_dataset(path)


def test_a_damaged_picture_is_named_with_its_shard(tmp_path: Path) -> None:
    files = samples(range(10))
    files[8] = ("000004.png", picture(4)[:-40])
    data = open_dataset(shard(tmp_path / "a.tar", files))
    with pytest.raises(DataError, match=r"can't read '000004\.png' of shard '.*a\.tar' as an image"):
        for part in (data.train, data.test):
            list(pixel_batches(part, SMALL, 4))


def test_a_shard_that_changes_while_it_is_read_is_noticed(tmp_path: Path) -> None:
    path = shard(tmp_path / "a.tar", samples(range(10)))
    data = open_dataset(path)
    assert data.train.image(0) == picture(0)
    shard(path, samples(range(20, 30)))
    with pytest.raises(DataError, match="was replaced while it was in use"):
        data.train.image(0)
    path.unlink()
    with pytest.raises(DataError, match="can't read shard"):
        data.train.image(1)


def test_shuffled_batches_take_pictures_from_everywhere_and_hold_none(tmp_path: Path) -> None:
    data = open_dataset(shards(tmp_path, 5, 8))
    order = np.random.default_rng(0).permutation(len(data.train))
    batches = list(pixel_batches(data.train, SMALL, 8, indices=order, threads=4))
    expected = [SMALL.pixels(bytes(data.train.image(int(i)))) for i in order]
    assert np.array_equal(np.concatenate([pixels for pixels, _ in batches]), np.stack(expected))
    first = {str(data.train.image(int(i)).name)[-8:] for i in order[:8]}  # type: ignore[union-attr]
    assert len(first) >= 3  # shards in the first batch
    assert choose(data.train, 8).shape == (8,)


def test_the_identity_follows_the_shards_and_the_choice(tmp_path: Path) -> None:
    path = shard(tmp_path / "a.tar", samples(range(10)))
    data = open_dataset(path)
    whole, part = data.train.identity(), data.train.subset(np.arange(3)).identity()
    assert whole == open_dataset(path).train.identity() != part
    moved = shard(tmp_path / "b" / "a.tar", samples(range(10)))
    assert open_dataset(moved).train.identity() == whole
    assert open_dataset(moved).train.identity(strict=True) != open_dataset(path).train.identity(strict=True)
    shard(path, samples(range(10)) + samples(range(10, 12)))
    assert open_dataset(path).train.identity() != whole


def test_the_kinds_of_data_are_told() -> None:
    assert all(word in KINDS for word in ("CIFAR", "WebDataset", "hf:NAME", "IDX", ".npz", "digits"))
