"""`toolkit cache`: what is kept, how much, and how it is emptied."""

import json
from pathlib import Path

import pytest

from engines.store import open_store, runtime_cache, save
from tests.toolkit.refusals import Refusal
from toolkit.cli import run

Capture = pytest.CaptureFixture[str]


def fill() -> None:
    store = open_store()
    store.put("engines", {"a": 1}, "model.fp16.rtx.engine", {}, {"plan": bytes(2_000_000)})
    store.put("graphs", {"a": 1}, "model.fp16.onnx", {})
    path = runtime_cache("sha256:0123456789abcdef", "tensorrt_rtx 1.7", "RTX 5090")
    assert path is not None
    save(path, bytes(3000))


@pytest.mark.parametrize("line", [["cache"], ["cache", "list"]])
def test_the_table_shows_kind_what_size_and_last_use(line: list[str], capsys: Capture) -> None:
    fill()
    assert run(line) == 0
    shown = capsys.readouterr().out
    rows = {row.split()[0]: row for row in shown.splitlines() if row.strip()}
    assert "model.fp16.rtx.engine" in rows["engines"]
    assert "2.0 MB" in rows["engines"]
    assert "just now" in rows["engines"]
    assert "0123456789ab, RTX 5090, tensorrt_rtx 1.7" in rows["runtime"]
    assert "of 1 large files" in rows["digests"]
    assert "2.0 MB of 10.7 GB" in shown.splitlines()[-1]


@pytest.mark.parametrize("line", [["cache", "--json"], ["cache", "list", "--json"]])
def test_json_has_every_entry(line: list[str], capsys: Capture) -> None:
    fill()
    assert run(line) == 0
    shown = json.loads(capsys.readouterr().out)
    assert sorted(entry["kind"] for entry in shown["entries"]) == ["digests", "engines", "graphs", "runtime"]
    assert shown["size_bytes"] == sum(entry["size_bytes"] for entry in shown["entries"])
    assert Path(shown["entries"][0]["folder"]).is_dir()


def test_clear_empties_one_kind_or_all(capsys: Capture) -> None:
    fill()
    assert run(["cache", "clear", "runtime"]) == 0
    assert capsys.readouterr().out.startswith("removed 1 entry, 3.")
    assert {entry.kind for entry in open_store().entries()} == {"engines", "graphs", "digests"}
    assert run(["cache", "clear"]) == 0
    assert capsys.readouterr().out.startswith("removed 3 entries, 2.0 MB")
    assert open_store().entries() == ()
    assert run(["cache", "clear"]) == 0
    assert capsys.readouterr().out == "there was nothing to remove\n"


def test_an_empty_cache_says_where_it_is(capsys: Capture) -> None:
    assert run(["cache"]) == 0
    assert capsys.readouterr().out == f"{open_store().folder}: empty; 0 B of 10.7 GB\n"


def test_bad_requests_are_refused(refused: Refusal, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "'photos' is not one of" in refused("cache", "clear", "photos")
    assert "no such command" in refused("cache", "empty").lower()
    monkeypatch.setenv("TOOLKIT_CACHE_LIMIT", "-3")
    assert "TOOLKIT_CACHE_LIMIT: '-3' is not a size" in refused("cache")
    assert "TOOLKIT_CACHE_LIMIT" in refused("cache", "clear")
