"""Fixtures that every test may use; GPU tests are marked by their folder."""

import itertools
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

GPU_TESTS = Path(__file__).parent / "gpu"
_numbers = itertools.count()


def pytest_configure() -> None:
    """Let Ctrl-C interrupt, for the tests of that: a shell ignores it in what it runs in the background."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what lies in tests/gpu, and skip it where no NVIDIA driver answers; scripts/gpu-check has found one."""
    no_gpu = shutil.which("nvidia-smi") is None and not os.environ.get("TOOLKIT_GPU_REQUIRED")
    for item in items:
        if GPU_TESTS in item.path.parents:
            item.add_marker(pytest.mark.gpu)
            if no_gpu:
                item.add_marker(pytest.mark.skip(reason="no NVIDIA GPU on this machine"))


@pytest.fixture(scope="session", autouse=True)
def _no_users_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """No test reads or writes the user's cache folder; subprocesses inherit that."""
    folder = tmp_path_factory.mktemp("caches")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TOOLKIT_CACHE", str(folder / "shared"))
        patch.delenv("TOOLKIT_CACHE_LIMIT", raising=False)
        yield folder


@pytest.fixture(autouse=True)
def _own_cache(_no_users_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test has a cache of its own, so that none is answered with what another one built."""
    monkeypatch.setenv("TOOLKIT_CACHE", str(_no_users_cache / str(next(_numbers))))
