"""Every kind of picture is shown as it is meant, or refused by name."""

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile, features

from engines.errors import DataError
from engines.preprocess import NamedBytes, Preprocess
from tests.zoo import Animal, chunk, encoded, noise, png, tiff, zoo

ZOO = zoo()
CUT = [
    "JPEG",
    "JPEG progressive",
    "PNG",
    "GIF",
    "WEBP",
    "TIFF",
    "BMP",
    "PPM",
    *(["AVIF"] if features.check("avif") else []),
]


def shown(picture: object, height: int, width: int, channels: int = 3) -> np.ndarray:
    half = (0.5,) * channels
    return Preprocess(height, width, channels=channels, resize="stretch", mean=half, std=half).pixels(picture)  # type: ignore[arg-type]


@pytest.mark.parametrize("animal", ZOO, ids=lambda animal: animal.name)
def test_each_kind_shows_what_it_is_meant_to(animal: Animal) -> None:
    height, width = animal.shown.shape[:2]
    found = shown(animal.data, height, width)
    assert np.abs(found.astype(int) - animal.shown).max() <= animal.tolerance
    grey = animal.shown @ np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
    assert np.abs(shown(animal.data, height, width, 1)[:, :, 0] - grey).max() <= animal.tolerance + 0.51


@pytest.mark.parametrize("animal", ZOO[::6], ids=lambda animal: animal.name)
@pytest.mark.parametrize("suffix", [".jpg", ".tiff", ".txt", ""])
def test_a_wrong_suffix_changes_nothing(tmp_path: Path, animal: Animal, suffix: str) -> None:
    path = tmp_path / f"picture{suffix}"
    path.write_bytes(animal.data)
    height, width = animal.shown.shape[:2]
    assert np.array_equal(shown(path, height, width), shown(animal.data, height, width))


def container(brand: bytes) -> bytes:
    return b"\0\0\0\x18ftyp" + brand + b"\0\0\0\0mif1" + brand + bytes(64)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (tiff(noise(6, 9).astype(np.float32), bits=32, sample=3), "'x' is a picture of floating-point values"),
        (b"Pf 9 6 -1.0\n" + bytes(6 * 9 * 4), "'x' is a picture of floating-point values"),
        (tiff(noise(6, 9).astype(np.uint32), bits=32), "'x' is a picture of 32-bit or signed integers"),
        (tiff(noise(6, 9).astype(np.int32), bits=32, sample=2, order=">"), "32-bit or signed integers"),
        (tiff(noise(6, 9).astype(np.int16), sample=2), "32-bit or signed integers"),
        (tiff(noise(6, 9).astype(np.float64), bits=64, sample=3), "can't read 'x' as an image"),
        (png(np.zeros((0, 9), np.uint8), 0, 8), "can't read 'x' as an image|'x' is empty"),
        (png(np.zeros((6, 0), np.uint8), 0, 8), "can't read 'x' as an image|'x' is empty"),
        (b"GIF89a" + bytes(7) + b",\0\0\0\0\0\0\0\0\0\x02\x02L\x01\0;", "can't read 'x' as an image|'x' is empty"),
        (b"P6 0 6 255\n", "can't read 'x' as an image|'x' is empty"),
        (container(b"heic"), "it is HEIC, which the Pillow here can't decode"),
        (container(b"hevc"), "it is HEIC"),
        (b"\xff\x0a" + bytes(50), "it is JPEG XL"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "it is SVG"),
        (b"<!DOCTYPE html>", "it is a web page"),
        (bytes(128) + b"DICM" + bytes(50), "it is DICOM"),
        (b"version https://git-lfs.github.com/spec/v1\n", "it is a Git LFS pointer"),
        (b"", "it is empty"),
        (b"what is this", "it is of no format that Pillow knows"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 6\n%%EndComments\nshowpage\n", r"drawing \(EPS\)"),
    ],
)
def test_what_cannot_be_shown_is_named(data: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(data)
    for given_as, name in ((NamedBytes(data, "'x'"), "'x'"), (path, f"'{path}'"), (data, "the image")):
        with pytest.raises(DataError, match=said.replace("'x'", name)) as caught:
            shown(given_as, 6, 9)
        assert caught.value.remedy
        assert " at 0x" not in caught.value.cause


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")
def test_avif_is_read_where_pillow_reads_it() -> None:
    levels = np.full((16, 16, 3), (200, 100, 50), np.uint8)
    found = shown(encoded(Image.fromarray(levels), "AVIF", quality=100), 16, 16)
    assert np.abs(found.astype(int) - levels).max() <= 4


def test_avif_is_named_where_pillow_does_not_read_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "ID", [name for name in Image.ID if name != "AVIF"])
    with pytest.raises(DataError, match="it is AVIF, which the Pillow here can't decode"):
        shown(container(b"avif"), 6, 9)


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow warns of what it then reads or refuses
@pytest.mark.parametrize("kind", CUT)
def test_a_picture_cut_off_anywhere_is_refused_or_whole(kind: str, tmp_path: Path) -> None:
    progressive = {"progressive": True} if kind.endswith("progressive") else {}
    data = encoded(Image.fromarray(noise(48, 64, 3)), kind.split(maxsplit=1)[0], **progressive)
    whole = shown(data, 48, 64)
    unnamed: list[str] = []
    for end in {*range(0, len(data), max(1, len(data) // 60)), *range(len(data) - 20, len(data))}:
        path = tmp_path / "cut"
        path.write_bytes(data[:end])
        try:
            found = shown(path, 48, 64)
        except DataError as error:
            unnamed += [] if str(path) in error.cause else [error.cause]
        else:
            assert np.array_equal(found, whole), end
    assert not unnamed


def test_a_process_that_wants_half_pictures_gets_none(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(Image.fromarray(noise(48, 64, 3)), "JPEG")
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(DataError, match="LOAD_TRUNCATED_IMAGES is set"):
        shown(data[: len(data) // 2], 48, 64)


def test_a_drawing_is_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_: pytest.fail("looked for Ghostscript"))
    drawing = Image.open(io.BytesIO(encoded(Image.fromarray(noise(6, 9, 3)), "EPS")))
    with drawing, pytest.raises(DataError, match="has to be run"):
        shown(drawing, 6, 9)


@settings(max_examples=30, deadline=None)
@given(level=st.integers(0, 65535), size=st.integers(1, 4))
def test_a_sixteen_bit_level_shows_the_same_in_every_picture(level: int, size: int) -> None:
    """No picture is scaled by its own values: next to others, or alone, a level stays what it is."""
    alone = shown(png(np.full((size, size), level, np.uint16), 0, 16), size, size)
    beside = np.array([[level, 65535], [0, level]], np.uint16)
    assert (alone == level >> 8).all()
    assert (shown(png(beside, 0, 16), 2, 2)[[0, 1], [0, 1]] == level >> 8).all()


def test_a_transparent_level_of_sixteen_bits_leaves_its_neighbours(tmp_path: Path) -> None:
    deep = np.array([[0x1234, 0x1235]], np.uint16)
    found = shown(png(deep, 0, 16, chunk(b"tRNS", b"\x12\x34")), 1, 2)
    assert found[0, :, 0].tolist() == [255, 0x12]
