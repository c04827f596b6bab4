"""Outputs are whole or absent: tried with errors, a kill and a full disk."""

import errno
import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from engines.errors import InputError
from engines.files import atomic_file, digest_bytes, digest_file, read_start, write_atomically


def test_a_written_file_replaces_the_old_one_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "result"
    path.write_text("old")
    write_atomically(path, "new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_in_the_middle_keeps_the_old_file_and_removes_the_part(tmp_path: Path) -> None:
    path = tmp_path / "result"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic_file(path) as file:
        file.write(b"half of the ne")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_process_killed_while_writing_leaves_the_old_file_whole(tmp_path: Path) -> None:
    path = tmp_path / "result"
    path.write_text("old")
    program = (
        "import sys, time; from pathlib import Path; from engines.files import atomic_file\n"
        "with atomic_file(Path(sys.argv[1])) as f:\n f.write(b'x' * 100000); f.flush()\n"
        " print('ready', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program, path], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGKILL)
    assert path.read_text() == "old"


def test_a_full_disk_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="No space left on device"):
        write_atomically(tmp_path / "result", b"data")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file or directory"):
        write_atomically(tmp_path / "missing" / "result", b"data")


def test_digests_are_sha256_of_the_content(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(b"one" + b"two")
    expected = "sha256:" + hashlib.sha256(b"onetwo").hexdigest()
    assert digest_file(path) == digest_bytes(b"one", b"two") == expected


def test_digesting_a_folder_or_nothing_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a folder"):
        digest_file(tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        digest_file(tmp_path / "missing")


@pytest.mark.parametrize("read", [digest_file, lambda path: read_start(path, 4)])
def test_a_pipe_is_refused_instead_of_waited_for(tmp_path: Path, read: Callable[[Path], object]) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="is a pipe or a device"):
        read(tmp_path / "pipe")


def test_the_start_of_a_file_is_as_much_as_there_is(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(b"abcdef")
    assert (read_start(path, 4), read_start(path, 40)) == (b"abcd", b"abcdef")
    with pytest.raises(InputError, match="is a folder"):
        read_start(tmp_path, 4)
    with pytest.raises(InputError, match="does not exist"):
        read_start(tmp_path / "missing", 4)
