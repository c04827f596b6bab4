"""What a passport gets to know of the machine that built: GPU, driver, CUDA."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from engines.builders import machine
from engines.builders.machine import built_on
from engines.target import Gpu

ROOT = Path(__file__).parents[2]
ASK = "from engines.builders.machine import cuda_of_driver; print(cuda_of_driver())"


def asked(folder: Path) -> str:
    """What a process answers that finds its driver's library in ``folder``."""
    result = subprocess.run(
        [sys.executable, "-c", ASK],
        env={**os.environ, "LD_LIBRARY_PATH": str(folder), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return result.stdout.strip()


@pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("gcc") is None, reason="plays the driver with gcc on Linux"
)
@pytest.mark.parametrize(
    ("body", "answer"),
    [
        ("*version = 13020; return 0;", "13.2"),
        ("*version = 12090; return 0;", "12.9"),
        ("return 100;", "None"),  # no device
        ("*version = 0; return 0;", "None"),
    ],
)
def test_the_driver_is_asked_which_cuda_it_speaks(tmp_path: Path, body: str, answer: str) -> None:
    source = tmp_path / "driver.c"
    source.write_text(f"int cuDriverGetVersion(int *version) {{ {body} }}")
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", str(tmp_path / "libcuda.so.1"), str(source)], check=True)
    assert asked(tmp_path) == answer


def test_what_is_no_driver_has_no_cuda(tmp_path: Path) -> None:
    (tmp_path / "libcuda.so.1").write_bytes(b"no library")
    assert asked(tmp_path) == "None"


def test_tensorrt_tells_its_gpu_and_rtx_needs_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "find_gpus", lambda: ((Gpu(0, "NVIDIA L4", "8.9", None),), "570.1"))
    monkeypatch.setattr(machine, "cuda_of_driver", lambda: "12.9")
    known = {"gpu": "NVIDIA L4", "compute_capability": "8.9", "driver": "570.1", "cuda": "12.9"}
    assert built_on("tensorrt") == known
    assert built_on("tensorrt-rtx") == {}
    monkeypatch.setattr(machine, "find_gpus", lambda: ((), None))
    monkeypatch.setattr(machine, "cuda_of_driver", lambda: None)
    assert built_on("tensorrt") == {}
