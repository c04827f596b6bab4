"""Our index of a tar against the standard library's."""

import io
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolkit.data.tar import BLOCK, Entry, TarError, entries

NAMES = st.text(
    st.characters(codec="utf-8", exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=60
)
PATHS = st.lists(NAMES.filter(lambda part: part.strip("/.") == part), min_size=1, max_size=5).map("/".join)
FORMATS = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)


def written(files: list[tuple[str, bytes]], kind: int, **facts: object) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=kind) as archive:
        for name, data in files:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            for key, value in facts.items():
                setattr(member, key, value)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def ours(data: bytes) -> list[Entry]:
    return list(entries(io.BytesIO(data), len(data)))


def theirs(data: bytes) -> list[Entry]:
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
        return [Entry(m.name, m.offset_data, m.size, m.isreg()) for m in archive if not m.isdir()]


@settings(max_examples=80, deadline=None)
@given(
    files=st.lists(st.tuples(PATHS, st.binary(max_size=1500)), max_size=6),
    kind=st.sampled_from(FORMATS[1:]),
    mtime=st.sampled_from([0, 1.5]),
)
def test_names_places_and_sizes_are_the_librarys(files: list[tuple[str, bytes]], kind: int, mtime: float) -> None:
    data = written(files, kind, mtime=mtime if kind == tarfile.PAX_FORMAT else 0)
    assert ours(data) == theirs(data)


@pytest.mark.parametrize("kind", FORMATS)
def test_folders_are_passed_over_and_links_are_told(kind: int) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=kind) as archive:
        for name, type_ in (
            ("a", tarfile.DIRTYPE),
            ("b", tarfile.SYMTYPE),
            ("c", tarfile.LNKTYPE),
            ("d", tarfile.FIFOTYPE),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = type_, "elsewhere" * 20 if kind != tarfile.USTAR_FORMAT else "x"
            archive.addfile(member)
    found = ours(buffer.getvalue())
    assert [(entry.name, entry.plain) for entry in found] == [("b", False), ("c", False)]


def test_a_size_beyond_eight_gibibytes_is_read() -> None:
    """As GNU tar and pax write it; the file isn't there, so that its content goes beyond the end."""
    for kind in FORMATS[1:]:
        member = tarfile.TarInfo("large")
        member.size = 9 << 30
        data = member.tobuf(kind)
        with pytest.raises(TarError, match=f"has {9 << 30} bytes, which go beyond"):
            ours(data)
        place = len(data)
        assert next(entries(io.BytesIO(data), 10 << 30)) == Entry("large", place, 9 << 30, plain=True)


@settings(max_examples=150, deadline=None)
@given(place=st.integers(0, 2600), value=st.integers(0, 255))
def test_a_damaged_byte_never_crashes_the_reader(place: int, value: int) -> None:
    data = bytearray(written([("é" * 70, b"x" * 100), ("b.cls", b"1")], tarfile.PAX_FORMAT))
    data[place] = value
    try:
        found = ours(bytes(data))
    except TarError:
        return
    assert all(entry.offset % BLOCK == 0 and entry.offset + entry.size <= len(data) for entry in found)
