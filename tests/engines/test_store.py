"""The cache folder: whole entries or none, several processes, limits, damage, folders that can't be used."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from engines.errors import InputError
from engines.files import digest_bytes, digest_file
from engines.store import Store, cache_folder, open_store, runtime_cache, save, timing_cache
from engines.store import entries as store_entries
from engines.store import store as stores

KEY = {"graph": "sha256:1", "options": {"batch": ["1:8:32"]}}
BIG = bytes(range(256)) * (5 << 12)  # 5 MiB: large enough to have its digest remembered


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


def used(store: Store, what: str, seconds_ago: float) -> None:
    """Pretend that an entry was last used so long ago."""
    entry = next(entry for entry in store.entries() if entry.what == what)
    then = time.time() - seconds_ago
    os.utime(entry.folder / "entry.json", (then, then))


def test_what_is_put_is_found_with_its_facts_and_files(store: Store) -> None:
    assert store.find("engines", KEY) is None
    store.put("engines", KEY, "a.engine", {"seconds": 1.5}, {"plan": b"abc", "log": b""})
    entry = store.find("engines", dict(reversed(KEY.items())))
    assert entry is not None
    assert entry.facts == {"seconds": 1.5}
    assert entry.path("plan").read_bytes() == b"abc"
    assert entry.files["plan"] == digest_bytes(b"abc")
    assert store.find("engines", {**KEY, "graph": "sha256:2"}) is None
    assert store.find("graphs", KEY) is None
    assert store.notes == []


def test_an_entry_that_is_put_again_replaces_the_one_before(store: Store) -> None:
    for content in (b"first", b"second"):
        store.put("engines", KEY, "a.engine", {}, {"plan": content})
    entry = store.find("engines", KEY)
    assert entry is not None
    assert entry.path("plan").read_bytes() == b"second"
    assert [path.name for path in entry.folder.parent.iterdir()] == [entry.folder.name]


@pytest.mark.parametrize("content", [b"abc", BIG], ids=["small", "large"])
@pytest.mark.parametrize("damage", ["changed", "cut", "gone"])
def test_a_damaged_file_is_found_and_the_entry_dropped(store: Store, content: bytes, damage: str) -> None:
    entry = store.put("engines", KEY, "a.engine", {}, {"plan": content})
    assert entry is not None
    assert store.find("engines", KEY) is not None
    path = entry.path("plan")
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(content[:-1] + (b"" if damage == "cut" else b"\xee"))
    assert store.find("engines", KEY) is None
    assert not entry.folder.exists()


@pytest.mark.parametrize("record", [b"", b"{", b"[]", b"null", b'{"format": 99}', b"\xff" * 9, b"[" * 100_000])
def test_a_damaged_record_is_no_entry_and_can_be_replaced(store: Store, record: bytes) -> None:
    entry = store.put("engines", KEY, "a.engine", {}, {"plan": b"abc"})
    assert entry is not None
    (entry.folder / "entry.json").write_bytes(record)
    assert store.find("engines", KEY) is None
    assert store.entries() == ()
    assert store.put("engines", KEY, "a.engine", {}, {"plan": b"abc"}) is not None
    assert store.find("engines", KEY) is not None


def test_the_least_recently_used_goes_when_the_limit_is_reached(tmp_path: Path) -> None:
    store = Store(tmp_path, limit=3500)
    for name, age in (("old", 300), ("older", 400), ("young", 100)):
        store.put("engines", {"name": name}, name, {}, {"plan": bytes(1000)})
        used(store, name, age)
    assert store.find("engines", {"name": "older"}) is not None  # now it is the last used
    store.put("engines", {"name": "new"}, "new", {}, {"plan": bytes(1000)})
    assert {entry.what for entry in store.entries()} == {"older", "young", "new"}
    assert sum(entry.size for entry in store.entries()) <= 3500


def test_what_is_larger_than_the_limit_is_not_kept_and_drives_nothing_out(tmp_path: Path) -> None:
    store = Store(tmp_path, limit=3500)
    store.put("engines", KEY, "small", {}, {"plan": bytes(1000)})
    assert store.put("engines", {"name": "big"}, "big", {}, {"plan": bytes(4000)}) is None
    assert [entry.what for entry in store.entries()] == ["small"]
    assert store.notes == ["'big' is larger than the cache may be (3.5 kB): it is not kept"]


def test_a_limit_of_nothing_keeps_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path / "cache", limit=0)
    assert store.put("graphs", KEY, "a", {}) is None
    assert store.mutable("runtime", KEY, "kernels") is None
    assert not (tmp_path / "cache").exists()
    assert store.notes == []


def test_a_folder_that_cannot_be_written_is_one_note(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    store = Store(tmp_path / "file" / "cache")
    for number in range(3):
        assert store.put("engines", {"number": number}, "a", {}, {"plan": b"abc"}) is None
        assert store.find("engines", {"number": number}) is None
    assert store.mutable("runtime", KEY, "kernels") is None
    assert store.digest(tmp_path / "file") == digest_file(tmp_path / "file")
    assert len(store.notes) == 1
    assert "nothing is kept" in store.notes[0]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device here that is always full")
def test_a_full_disk_is_a_note_and_leaves_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.open

    def onto_a_full_disk(path: Path, mode: str = "r") -> object:
        return real(Path("/dev/full") if mode == "wb" and path.name.startswith("plan") else path, mode)

    monkeypatch.setattr(Path, "open", onto_a_full_disk)
    assert store.put("engines", KEY, "a", {}, {"plan": b"abc"}) is None
    monkeypatch.undo()
    assert "No space left" in store.notes[0]
    assert list((store.folder or Path()).glob("engines/*")) == []


def test_ctrl_c_while_an_entry_is_written_leaves_the_one_before(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put("engines", KEY, "a", {}, {"plan": b"abc"})
    real = store_entries._write

    def pressed(path: Path, data: bytes) -> None:
        real(path, data)
        raise KeyboardInterrupt

    monkeypatch.setattr(store_entries, "_write", pressed)
    with pytest.raises(KeyboardInterrupt):
        store.put("engines", KEY, "a", {}, {"plan": b"another"})
    entry = store.find("engines", KEY)
    assert entry is not None
    assert entry.path("plan").read_bytes() == b"abc"
    assert list(entry.folder.parent.iterdir()) == [entry.folder]


def test_tests_have_a_cache_of_their_own(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = cache_folder()
    assert folder is not None
    assert folder.is_relative_to(tmp_path_factory.getbasetemp())


def test_clear_takes_entries_and_leaves_other_files(store: Store) -> None:
    store.put("engines", KEY, "a", {}, {"plan": b"abc"})
    store.put("graphs", KEY, "b", {})
    assert store.folder is not None
    mine = store.folder / "engines" / "notes.txt"
    mine.write_text("mine")
    (store.folder / "photos").mkdir()
    assert store.clear("graphs")[0] == 1
    assert [entry.what for entry in store.entries()] == ["a"]
    assert store.clear()[0] == 1
    assert store.entries() == ()
    assert mine.read_text() == "mine"
    assert (store.folder / "photos").is_dir()


def test_what_a_killed_process_left_is_swept_after_a_day(store: Store) -> None:
    entry = store.put("engines", KEY, "a", {}, {"plan": b"abc"})
    assert entry is not None
    left = [entry.folder.parent / f".part-{age}" for age in ("fresh", "stale")]
    for path in left:
        path.mkdir()
        (path / "plan").write_bytes(b"ab")
    then = time.time() - 2 * 24 * 3600
    os.utime(left[1], (then, then))
    store.put("engines", {"other": 1}, "b", {}, {"plan": b"abc"})
    assert left[0].exists()
    assert not left[1].exists()


def test_a_digest_is_remembered_until_the_file_changes(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(BIG)
    right = digest_file(path)
    assert store.digest(path) == right
    record = next(entry for entry in store.entries("digests"))
    (record.folder / "entry.json").write_text(
        (record.folder / "entry.json").read_text().replace(right, "sha256:remembered")
    )
    assert store.digest(path) == "sha256:remembered"  # so it wasn't read
    before = path.stat()
    path.write_bytes(BIG[::-1])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # even when its time is put back
    assert store.digest(path) == digest_bytes(BIG[::-1])


def test_a_change_right_after_a_digest_is_seen(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "large"
    for number in range(5):
        content = bytes([number]) * len(BIG)
        with path.open("r+b" if path.exists() else "wb") as file:  # in place: the inode stays
            file.write(content)
        assert store.digest(path) == digest_bytes(content)


def test_a_missing_file_has_no_digest(store: Store, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        store.digest(tmp_path / "gone")


def test_timing_and_runtime_caches_are_files_by_library_and_gpu(tmp_path: Path) -> None:
    timing = timing_cache("tensorrt 10.16", "H200, 590.1")
    runtime = runtime_cache("sha256:0123456789abcdef", "tensorrt_rtx 1.7", "RTX 5090, 590.1")
    assert timing is not None
    assert runtime is not None
    assert timing.parent.is_dir()
    assert not runtime.exists()
    assert save(runtime, b"kernels") is None
    assert runtime_cache("sha256:0123456789abcdef", "tensorrt_rtx 1.7", "RTX 5090, 590.1") == runtime
    assert runtime_cache("sha256:0123456789abcdef", "tensorrt_rtx 1.8", "RTX 5090, 590.1") != runtime
    assert timing_cache("tensorrt 10.16", "H200, 600.0") != timing
    assert open_store().clear("runtime")[0] == 2
    assert save(runtime, b"kernels again") is None  # cleared while a session was open
    assert runtime.read_bytes() == b"kernels again"
    assert save(tmp_path / "a file" / "x", b"") is None
    (tmp_path / "a file" / "x").chmod(0o600)
    assert "couldn't be written" in (save(tmp_path / "a file" / "x" / "y", b"") or "")


def test_a_mutable_file_counts_for_the_limit(tmp_path: Path) -> None:
    store = Store(tmp_path, limit=3000)
    path = store.mutable("runtime", KEY, "kernels")
    assert path is not None
    save(path, bytes(2500))
    used(store, "kernels", 100)
    store.put("engines", KEY, "engine", {}, {"plan": bytes(1000)})
    assert [entry.what for entry in store.entries()] == ["engine"]


_WRITER = """
import sys
from pathlib import Path
from engines.store import Store
store = Store(Path(sys.argv[1]), limit=200_000)
for turn in range(40):
    key = {"number": turn % 7}
    store.put("engines", key, f"{turn % 7}", {"length": 10_000 + turn % 7}, {"plan": bytes([turn % 7]) * 10_000})
    found = store.find("engines", key)
    if found is not None:
        try:
            data = found.path("plan").read_bytes()
        except FileNotFoundError:
            continue
        assert data == bytes([turn % 7]) * 10_000, len(data)
assert not store.notes, store.notes
"""


def test_several_processes_share_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    writers = [
        subprocess.Popen([sys.executable, "-c", _WRITER, str(folder)], stderr=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    for writer in writers:
        _, errors = writer.communicate(timeout=60)
        assert writer.returncode == 0, errors
    entries = Store(folder).entries()
    assert entries
    assert all(Store(folder).find("engines", entry.key) for entry in entries)
    assert not list(folder.rglob(".part-*"))


def test_the_environment_names_folder_and_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOOLKIT_CACHE_LIMIT", "2GiB")
    assert open_store().limit == 2 << 30
    monkeypatch.setenv("TOOLKIT_CACHE_LIMIT", "much")
    with pytest.raises(InputError, match="TOOLKIT_CACHE_LIMIT: 'much' is not a size"):
        open_store()
    monkeypatch.delenv("TOOLKIT_CACHE_LIMIT")
    assert open_store().limit == stores.DEFAULT_LIMIT
    monkeypatch.setenv("TOOLKIT_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"
    monkeypatch.delenv("TOOLKIT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "onnx-tensorrt-toolkit"
    monkeypatch.setenv("HOME", str(tmp_path))
    for unusable in ("", "relative/folder"):
        monkeypatch.setenv("XDG_CACHE_HOME", unusable)
        assert cache_folder() == tmp_path / ".cache" / "onnx-tensorrt-toolkit"
    assert not (tmp_path / ".cache").exists()


def test_without_a_home_folder_nothing_is_kept_and_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TOOLKIT_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)

    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    store = open_store()
    assert store.put("engines", KEY, "a", {}, {"plan": b"abc"}) is None
    assert store.find("engines", KEY) is None
    assert store.entries() == ()
    assert store.clear() == (0, 0)
    assert len(store.notes) == 1
