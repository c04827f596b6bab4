"""What an engine was built on: GPU, driver, and the CUDA that the driver speaks."""

import ctypes
import sys

from engines.target import find_gpus


def built_on(backend: str) -> dict[str, str]:
    """GPU, compute capability, driver and CUDA version of the machine that builds, as far as it has them.

    Args:
        backend: TensorRT builds on the first GPU; TensorRT for RTX builds without one, so there is nothing to tell.

    Returns:
        "gpu", "compute_capability", "driver", "cuda"; those that don't exist are left out.
    """
    if backend != "tensorrt":
        return {}
    gpus, driver = find_gpus()
    facts = {}
    if gpus:
        facts = {"gpu": gpus[0].name, "compute_capability": gpus[0].compute_capability}
    if driver:
        facts["driver"] = driver
    if cuda := cuda_of_driver():
        facts["cuda"] = cuda
    return facts


def cuda_of_driver() -> str | None:
    """The newest CUDA that the driver speaks ("13.0"), from the driver itself; None without one."""
    version = ctypes.c_int(0)
    try:
        library = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
        failed = library.cuDriverGetVersion(ctypes.byref(version))
    except (OSError, AttributeError):
        return None
    # 13020 is CUDA 13.2.
    return None if failed or not version.value else f"{version.value // 1000}.{version.value % 1000 // 10}"
