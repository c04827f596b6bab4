"""The platform and the versions of libraries that a passport is held against, without importing any of them."""

import importlib.metadata
import platform as host

_DISTRIBUTIONS: dict[str, tuple[str, ...]] = {
    "tensorrt": ("tensorrt", "tensorrt-cu13", "tensorrt-cu12", "tensorrt-cu13-bindings", "tensorrt-cu12-bindings"),
    "tensorrt-rtx": ("tensorrt-rtx", "tensorrt-rtx-cu13", "tensorrt-rtx-cu12"),
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu"),
}


def this_platform() -> str:
    """System and architecture of this machine, under the names that Linux has for them: "linux-x86_64"."""
    machine = host.machine().lower()
    return f"{host.system().lower()}-{ {'amd64': 'x86_64', 'arm64': 'aarch64'}.get(machine, machine) }"


def library_version(backend: str) -> str | None:
    """The installed version of a backend's library by its package metadata, without importing it."""
    for name in _DISTRIBUTIONS.get(backend, (backend,)):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None
