"""Write a calibration table, and the cache that TensorRT 8 to 10 reads: for DLA, and for tools that know no more."""

from pathlib import Path
from typing import TYPE_CHECKING

from engines.errors import InputError, TableError
from engines.files import write_atomically
from toolkit.outputs import check_replace

if TYPE_CHECKING:
    from calibration.table import CalibrationTable

_KIND = "a calibration cache"


def check_cache(path: Path, precision: str = "int8", *, force: bool = False) -> None:
    """Refuse, before any work, a cache that :func:`write_table` couldn't write.

    Raises:
        InputError: something else is there, the folder is missing, or there are no caches for ``precision``.
    """
    if precision != "int8":
        raise InputError(
            f"a TensorRT calibration cache holds ranges for INT8, not for {precision.upper()}",
            "leave --cache out, or calibrate for INT8",
        )
    check_replace(path, _KIND, _kind_of, force=force, option="--cache")


def write_table(table: "CalibrationTable", path: Path, graph: Path, cache: Path | None = None) -> None:
    """Write a table and, where one is asked for, a cache with a line for every tensor of ``graph`` that has a range.

    Raises:
        TableError: the table can't be said in a cache; then neither is written.
        InputError: a file can't be written.
    """
    text = _cache(table, graph) if cache is not None else ""
    table.write(path)
    if cache is not None:
        write_atomically(cache, text)


def _cache(table: "CalibrationTable", graph: Path) -> str:
    from calibration.cache import cache_groups, to_tensorrt_cache
    from export.graph import load_graph

    return to_tensorrt_cache(table, groups=cache_groups(load_graph(graph)))


def _kind_of(path: Path) -> str | None:
    from calibration.cache import read_tensorrt_cache

    try:
        read_tensorrt_cache(path)
    except TableError:
        return None
    return _KIND
