"""The journal: rows that outlive a process, of one model and of the same pictures."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.errors import InputError
from toolkit.prediction.journal import FORMAT, Identity, Journal
from toolkit.prediction.row import Row
from toolkit.runtime.prediction import Candidate

IDENTITY = Identity("sha256:1", "sha256:2", "sha256:3", top=2, batch_size=4, runtime="fake on cpu")


def rows(count: int, start: int = 0) -> list[Row]:
    return [
        Row(f"{n}.png", error="damaged") if n % 5 == 3 else Row(f"{n}.png", (Candidate("a", n, 1 / (n + 3)),))
        for n in range(start, start + count)
    ]


def names(count: int) -> list[str]:
    return [f"{n}.png" for n in range(count)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "results.csv.partial"


def begun(path: Path, count: int) -> None:
    with Journal(path, IDENTITY) as journal:
        assert journal.resume(iter(names(100))) == 0
        journal.append(rows(count))


def test_rows_come_back_as_they_were_and_the_first_line_says_what_they_are_of(path: Path) -> None:
    begun(path, 8)
    with Journal(path, IDENTITY) as journal:
        assert list(journal.rows()) == rows(8)
    first = json.loads(path.read_text().splitlines()[0])
    assert first == {
        "format": FORMAT, "model": "sha256:1", "preprocess": "sha256:2", "labels": "sha256:3", "top": 2,
        "batch_size": 4, "runtime": "fake on cpu",
    }  # fmt: skip


@given(
    file=st.text().map(lambda text: text.encode("utf-8", "replace").decode())
    | st.binary().map(lambda raw: raw.decode("utf-8", "surrogateescape")),
    label=st.text(),
    probability=st.floats(0, 1),
)
def test_a_row_survives_its_line_whatever_its_name(file: str, label: str, probability: float) -> None:
    for row in (Row(file, (Candidate(label, 3, probability),)), Row(file, error="e" + label)):
        line = row.dumps()
        assert line.count(b"\n") == 1
        assert Row.loads(line) == row
        json.dumps(row.cells(), ensure_ascii=False).encode()


@pytest.mark.parametrize(("done", "kept"), [(0, 0), (3, 0), (4, 4), (7, 4), (12, 12)])
def test_it_goes_on_behind_the_last_whole_batch(path: Path, done: int, kept: int) -> None:
    begun(path, done)
    files = iter(names(100))
    with Journal(path, IDENTITY) as journal:
        assert journal.resume(files) == kept
        assert next(files) == f"{kept}.png"
        journal.append(rows(4, kept))
        assert list(journal.rows()) == rows(kept + 4)


@pytest.mark.parametrize(
    "torn", [b"{", b'{"file":"8.p', b"\0\0\0\0", b"\0\0\0\0\n", b"[]\n", b'{"file":1,"top":[[]]}\n']
)
def test_what_was_cut_off_is_dropped(path: Path, torn: bytes) -> None:
    begun(path, 8)
    whole = path.read_bytes()
    path.write_bytes(whole + torn)
    with Journal(path, IDENTITY) as journal:
        assert journal.resume(iter(names(100))) == 8
    assert path.read_bytes() == whole


def test_every_place_where_it_may_be_cut_off_is_one_to_go_on_from(path: Path) -> None:
    begun(path, 12)
    whole = path.read_bytes()
    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        with Journal(path, IDENTITY) as journal:
            kept = journal.resume(iter(names(100)))
            assert kept % 4 == 0
            journal.append(rows(12 - kept, kept))
        assert path.read_bytes() == whole


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model": "sha256:9"}, "another model"),
        ({"preprocess": "sha256:9"}, "another preprocess"),
        ({"labels": "sha256:9"}, "another labels"),
        ({"top": 3}, "--top 2, not 3"),
        ({"batch_size": 8}, "--batch-size 4, not 8"),
        ({"runtime": "fake on cuda"}, "fake on cpu, not fake on cuda"),
    ],
)
def test_what_another_model_began_is_refused_and_left_alone(path: Path, change: dict[str, object], said: str) -> None:
    begun(path, 8)
    before = path.read_bytes()
    with pytest.raises(InputError) as caught:
        Journal(path, replace(IDENTITY, **change))  # type: ignore[arg-type]
    assert said in caught.value.cause
    assert "remove it to begin again" in caught.value.remedy
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [b"hello", b'{"a": 1}', b'{"a": 1}\n', b"[1]\n", b"\xff\xfe\n", b"\n"])
def test_a_file_that_is_no_journal_is_left_alone(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(InputError, match="is no journal of predictions"):
        Journal(path, IDENTITY)
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (["0.png", "x.png", "2.png", "3.png", "4.png"], "number 2, '1.png', is 'x.png' now"),
        (["0.png", "1.png"], "number 3, '2.png', is gone"),
    ],
)
def test_other_pictures_are_refused_and_what_is_done_stays(path: Path, files: list[str], said: str) -> None:
    begun(path, 4)
    before = path.read_bytes()
    with Journal(path, IDENTITY) as journal, pytest.raises(InputError) as caught:
        journal.resume(iter(files))
    assert said in caught.value.cause
    assert path.read_bytes() == before


def test_only_one_process_writes_it(path: Path) -> None:
    with Journal(path, IDENTITY), pytest.raises(InputError, match="another process is writing"):
        Journal(path, IDENTITY)
    Journal(path, IDENTITY).close()


def test_a_journal_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"can't write .*No such file or directory"):
        Journal(tmp_path / "none" / "x.partial", IDENTITY)
