"""Where the cache folder is."""

import os
from pathlib import Path


def cache_folder() -> Path | None:
    """Where the cache is; None where neither the environment nor a home folder says."""
    if own := os.environ.get("TOOLKIT_CACHE"):
        return Path(own).absolute()
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not base.is_absolute():  # as the XDG specification has it
        try:
            base = Path.home() / ".cache"
        except RuntimeError:
            return None
    return base / "onnx-tensorrt-toolkit"
