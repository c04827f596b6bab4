"""Write a calibration table as the cache that TensorRT 8 to 10 reads: for DLA, and for tools that know only that."""

from pathlib import Path
from typing import TYPE_CHECKING

from engines.errors import TableError
from engines.files import write_atomically
from toolkit.outputs import check_replace

if TYPE_CHECKING:
    from calibration.table import CalibrationTable

_KIND = "a calibration cache"


def check_cache(path: Path, *, force: bool = False) -> None:
    """Refuse, before any work, a path that :func:`write_cache` couldn't write to.

    Raises:
        InputError: something else than a calibration cache is there, or the folder is missing.
    """
    check_replace(path, _KIND, _kind_of, force=force)


def write_cache(table: "CalibrationTable", graph: Path, path: Path, *, version: str = "10.13.0") -> None:
    """Write ``table`` for the TensorRT of ``version``: a line for every tensor of ``graph`` that has a range.

    Raises:
        TableError: the table can't be said in a cache.
        InputError: the file can't be written.
    """
    from calibration.cache import to_tensorrt_cache
    from calibration.ranges import Ranges
    from export.graph import load_graph

    groups = Ranges(load_graph(graph)).wanted()
    write_atomically(path, to_tensorrt_cache(table, version=version, groups=groups))


def _kind_of(path: Path) -> str | None:
    from calibration.cache import read_tensorrt_cache

    try:
        read_tensorrt_cache(path)
    except TableError:
        return None
    return _KIND
