"""Import an optional library, or say in one line which package is missing and how to get it."""

import importlib
from types import ModuleType

from engines.errors import MissingLibraryError, UnsupportedError


def require(module: str, feature: str, extra: str) -> ModuleType:
    """Import ``module`` for ``feature``; ``extra`` is the extra that installs it.

    Raises:
        MissingLibraryError: the package isn't installed.
        UnsupportedError: it is installed but fails to import (a missing shared library, say).
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != module.split(".", maxsplit=1)[0]:
            raise UnsupportedError(
                f"'{module}' is installed, but its own dependency '{error.name}' is not",
                f"pip install 'onnx-tensorrt-toolkit[{extra}]'",
            ) from error
        raise MissingLibraryError(feature, module, extra) from error
    except (ImportError, OSError) as error:
        raise UnsupportedError(
            f"'{module}' is installed but fails to import: {error}",
            "run `toolkit doctor` to see what it is missing",
        ) from error
