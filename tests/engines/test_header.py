"""Plan headers: what they tell, and every kind of file that isn't a plan."""

import struct
import zipfile
from pathlib import Path

import pytest

from engines.errors import EngineFormatError, InputError
from engines.header import parse_header, plan_kind, read_header
from tests.tiny import tiny_graph


def rtx_plan(size: int = 200, version: tuple[int, ...] = (1, 7, 1, 116), mask: int = 0x7E) -> bytes:
    """A plan that is a header and padding, laid out as TensorRT for RTX 1.7 writes it."""
    head = b"vtrt" + struct.pack("<IQQ4B4sQ", 0, 2, size, *version, b"vtrt", mask)
    return head.ljust(64, b"\0").ljust(size, b"\x5a")


def tensorrt_plan(version: tuple[int, ...] = (10, 13, 3, 9)) -> bytes:
    return (b"ftrt" + struct.pack("<IQQ4B", 0, 239, 0, *version)).ljust(300, b"\x11")


def written(folder: Path, data: bytes, name: str = "model.engine") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def test_an_rtx_header_tells_kind_version_size_and_compute_capabilities(tmp_path: Path) -> None:
    header = read_header(written(tmp_path, rtx_plan()))
    assert header.kind == "tensorrt-rtx"
    assert header.version == (1, 7, 1, 116)
    assert header.size == header.file_size == 200
    assert header.compute_capabilities == ("8.0", "8.6", "8.9", "12.0", "12.1")
    assert header.library == "TensorRT for RTX 1.7.1.116"
    assert header.to_json()["compute_capabilities"] == ["8.0", "8.6", "8.9", "12.0", "12.1"]


@pytest.mark.parametrize(("mask", "expected"), [(0x1, ("7.5",)), (0x18, ("8.9", "12.0")), (0x40, ()), (0, ())])
def test_each_bit_of_the_mask_is_one_compute_capability(mask: int, expected: tuple[str, ...]) -> None:
    assert parse_header(rtx_plan(mask=mask), 200).compute_capabilities == expected


def test_a_tensorrt_header_tells_its_version_and_claims_no_more(tmp_path: Path) -> None:
    header = read_header(written(tmp_path, tensorrt_plan()))
    assert (header.kind, header.version_text) == ("tensorrt", "10.13.3.9")
    assert header.size is None
    assert header.compute_capabilities is None
    assert header.to_json()["compute_capabilities"] is None


def test_the_tag_alone_tells_the_kind() -> None:
    assert plan_kind(b"vtrt") == "tensorrt-rtx"
    assert plan_kind(b"ftrt....") == "tensorrt"
    assert plan_kind(b"PK\x03\x04") is None
    assert plan_kind(b"") is None


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is empty"),
        (b"ftrt", "truncated"),
        (rtx_plan()[:40], "truncated"),
        (rtx_plan()[:150], "truncated: 150 bytes, its header says 200"),
        (rtx_plan() + b"more", "longer than it should be"),
        (rtx_plan()[:28] + b"oops" + rtx_plan()[32:], "header is damaged"),
        (b"\x01\x02\x03\x04 no plan at all", "begins with 01 02 03 04"),
        (tiny_graph().SerializeToString(), "is an ONNX graph"),
        (b'{"format": "onnx-tensorrt-toolkit/passport"}', "JSON"),
        (b"<!DOCTYPE html><html>404", "HTML"),
        (b"version https://git-lfs.github.com/spec/v1", "Git LFS pointer"),
        (b"\x1f\x8b\x08\x00compressed", "gzip"),
        (struct.pack("<I", 20) + b'{"names": {}}       ' + tensorrt_plan(), "JSON before the plan"),
    ],
)
def test_what_is_no_whole_plan_is_named_for_what_it_is(tmp_path: Path, data: bytes, words: str) -> None:
    path = written(tmp_path, data)
    with pytest.raises(EngineFormatError) as caught:
        read_header(path)
    assert words in caught.value.cause
    assert path.name in caught.value.cause
    assert caught.value.remedy


def test_a_zip_archive_is_named_as_a_possible_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "model.engine"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/data.pkl", b"x")
    with pytest.raises(EngineFormatError, match="PyTorch checkpoint"):
        read_header(path)


def test_a_folder_and_a_missing_file_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(EngineFormatError, match="is a folder"):
        read_header(tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        read_header(tmp_path / "none.engine")
