"""Load the CUDA libraries that pip installs, which the system's loader doesn't find by itself."""

import contextlib
import ctypes
import functools
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

# In the order in which they need each other.
_LIBRARIES = ("cudart", "nvJitLink", "nvrtc", "cublasLt", "cublas", "cufft", "curand", "cudnn")


@functools.cache
def load_nvidia_wheels() -> tuple[str, ...]:
    """Load the CUDA and cuDNN libraries of ``nvidia-*`` wheels into this process, once.

    The wheels lie below ``nvidia/`` in any folder of ``sys.path``, which need not be the folder of the
    library that wants them. Once one is loaded, a library that links it by name finds it. Nothing
    fails here: what could not be loaded is reported by the library that needs it.

    Returns:
        The paths that were loaded.
    """
    loaded = []
    for name in _LIBRARIES:
        for path in _candidates(name):
            with contextlib.suppress(OSError):
                ctypes.CDLL(str(path))
                loaded.append(str(path))
    return tuple(loaded)


def has_nvidia_driver() -> bool:
    """Whether the driver's own library is here: without it no CUDA device can be used."""
    name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True


def _candidates(name: str) -> Iterator[Path]:
    try:
        spec = importlib.util.find_spec("nvidia")
    except ValueError:  # a module without a spec put into sys.modules by hand
        spec = None
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for pattern in (f"*/lib/lib{name}.so.*", f"*/bin/{name}64_*.dll", f"*/bin/x86_64/{name}64_*.dll"):
            # Wheels of two CUDA versions can lie beside each other; their file names differ, so both load.
            yield from sorted(Path(folder).glob(pattern))
