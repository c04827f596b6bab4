"""Fixtures that every test may use; GPU tests are marked by their folder."""

import shutil
from pathlib import Path

import pytest

GPU_TESTS = Path(__file__).parent / "gpu"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what lies in tests/gpu, and skip it where no NVIDIA driver answers."""
    no_gpu = shutil.which("nvidia-smi") is None
    for item in items:
        if GPU_TESTS in item.path.parents:
            item.add_marker(pytest.mark.gpu)
            if no_gpu:
                item.add_marker(pytest.mark.skip(reason="no NVIDIA GPU on this machine"))
