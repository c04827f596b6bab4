"""Import people's own code, and tell their errors by file and line.

``net.py`` is loaded under a name of its own, with its folder on ``sys.path`` meanwhile so that it finds its
neighbours; those are forgotten afterwards, so that another file's neighbours of the same names are its own. What its
functions import later, a forward method say, they find by :class:`_Neighbours`: the last that Python asks, and only
for code in that folder, so that no library and no part of the toolkit is ever taken from there.
"""

import contextlib
import hashlib
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Iterator, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import FrameType, ModuleType

from engines.errors import InputError, ToolkitError


def load_file(path: Path) -> ModuleType:
    """Run a Python file as a module.

    Raises:
        InputError: there is no such file, or its code fails; the cause names file and line.
    """
    if not path.is_file():
        raise InputError(f"there is no file '{path}'", "give --model FILE.py:NAME with the path of the file")
    full = path.resolve()
    # The name tells files apart, also two of the same name; classes refer to it, so it stays in sys.modules.
    name = f"toolkit_own_{hashlib.sha256(str(full).encode()).hexdigest()[:16]}"
    spec = importlib.util.spec_from_file_location(name, full)
    if spec is None or spec.loader is None:
        raise InputError(f"'{path}' can't be loaded as Python", "give --model FILE.py:NAME")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        with neighbours(full.parent), blamed(f"'{path}' can't be loaded"):
            spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name, None)
        raise
    return module


def load_module(name: str) -> ModuleType:
    """Import ``package.module``, from the current folder too.

    Raises:
        InputError: there is none, or its code fails.
    """
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        with blamed(f"the module '{name}' can't be imported", missing=name):
            return importlib.import_module(name)
    finally:
        _take_away(folder)
        _keep(folder, {})


@contextlib.contextmanager
def neighbours(folder: Path) -> Iterator[None]:
    """Within the block, modules in ``folder`` can be imported; afterwards only the code there knows them."""
    for late in _FOUND_LATER:  # by an earlier file, which keeps what it holds of them
        sys.modules.pop(late, None)
    _FOUND_LATER.clear()
    before = set(sys.modules)
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        _take_away(str(folder))
        tops = {name for name in set(sys.modules) - before if "." not in name and _lies_in(sys.modules[name], folder)}
        mine = [name for name in sys.modules if name not in before and name.partition(".")[0] in tops]
        _keep(str(folder), {name: sys.modules.pop(name) for name in mine})


_KEPT: dict[str, dict[str, ModuleType]] = {}
"""What the files of a folder imported of it while they were loaded, by folder and name."""

_FOUND_LATER: set[str] = set()
"""Names in ``sys.modules`` that :class:`_Neighbours` answered for."""


def _keep(folder: str, modules: dict[str, ModuleType]) -> None:
    """From now on code in ``folder`` finds its neighbours; these of them it has already."""
    _KEPT[folder] = modules
    if not any(isinstance(finder, _Neighbours) for finder in sys.meta_path):
        sys.meta_path.append(_Neighbours())


class _Neighbours(MetaPathFinder):
    """Finds modules of a folder from which a file was loaded, for code in that folder alone."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        folder = _importing_folder(sys._getframe(1))
        if folder is None:
            return None
        kept = _KEPT[folder].get(fullname)
        if kept is not None:
            packed = hasattr(kept, "__path__")
            spec: ModuleSpec | None = ModuleSpec(fullname, _Again(kept), origin=kept.__file__, is_package=packed)
        else:
            spec = PathFinder.find_spec(fullname, [folder]) if path is None else None
        if spec is not None:
            _FOUND_LATER.add(fullname)
        return spec


class _Again(Loader):
    """Gives a module that was loaded already, so that its classes stay the same."""

    def __init__(self, module: ModuleType) -> None:
        self._module = module

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self._module

    def exec_module(self, module: ModuleType) -> None:
        """It has run."""


def _importing_folder(frame: FrameType | None) -> str | None:
    """The folder, one that a file was loaded from, in or below which the code lies that imports something."""
    while frame is not None and frame.f_code.co_filename.startswith(("<frozen importlib", importlib.__file__)):
        frame = frame.f_back
    file = Path(frame.f_code.co_filename) if frame is not None else Path()
    return next((str(parent) for parent in file.parents if str(parent) in _KEPT), None)


@contextlib.contextmanager
def blamed(what: str, *, missing: str | None = None) -> Iterator[None]:
    """Turn an exception of people's code into an error that names its file and line.

    Args:
        what: the start of the cause, what was being done.
        missing: the module that is being imported, whose absence is told otherwise than that of one it imports.

    Raises:
        InputError: whatever was raised within the block, but for the toolkit's own errors and interruptions.
    """
    try:
        yield
    except (ToolkitError, KeyboardInterrupt, MemoryError):
        raise
    except SyntaxError as error:
        where = f" in {error.filename}:{error.lineno}" if error.filename else ""
        raise InputError(f"{what}: {error.msg}{where}", "correct that line; --debug shows the traceback") from error
    except ModuleNotFoundError as error:
        if missing is not None and error.name and f"{missing}.".startswith(f"{error.name}."):
            raise InputError(
                f"{what}: there is no module '{error.name}'",
                "run from the folder that holds it, put that on PYTHONPATH, or give FILE.py:NAME",
            ) from error
        raise InputError(f"{what}: {error}{_where(error)}", "install it, or put it on PYTHONPATH") from error
    except (Exception, SystemExit) as error:
        raise InputError(
            f"{what}: {said(error)}{_where(error)}", "correct it; --debug shows the traceback"
        ) from error


def said(error: BaseException) -> str:
    """An exception in one line: its class and the first line of what it says."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _where(error: BaseException) -> str:
    """Where people's own code failed: the innermost line outside this toolkit and installed libraries."""
    ours = str(Path(__file__).resolve().parent.parent.parent)
    own = ""
    for frame in traceback.extract_tb(error.__traceback__):
        library = "site-packages" in frame.filename or frame.filename.startswith(("<", sys.base_prefix))
        toolkit = frame.filename.startswith(tuple(f"{ours}/{part}/" for part in ("export", "toolkit", "engines")))
        if not library and not toolkit:
            own = f" ({frame.filename}:{frame.lineno})"
    return own


def _lies_in(module: ModuleType, folder: Path) -> bool:
    """Whether a top-level module is ``folder/name.py`` or ``folder/name/``."""
    files = [getattr(module, "__file__", None) or "", *map(str, getattr(module, "__path__", ()))]
    found = [Path(file).resolve() for file in files if file]
    return any(file.parent == folder or (file.parent.parent == folder and file.stem == "__init__") for file in found)


def _take_away(folder: str) -> None:
    with contextlib.suppress(ValueError):  # the code may have changed sys.path itself
        sys.path.remove(folder)
