"""Results as CSV, JSON lines or Parquet, written as they come."""

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from engines.errors import InputError
from engines.optional import require
from toolkit.prediction.row import COLUMNS, Row

Writer = Callable[[Iterable[Row], BinaryIO], None]

ROW_GROUP = 1 << 15
"""Rows in a row group of Parquet: some megabytes, which is what is held at a time."""


def writer_of(path: Path) -> Writer:
    """What writes results into a file of this name.

    Raises:
        InputError: the name says no known format.
        MissingLibraryError: it is Parquet, and pyarrow isn't installed.
    """
    writer = WRITERS.get(path.suffix.lower())
    if writer is None:
        raise InputError(
            f"'{path}' doesn't say in which format results are wanted",
            f"name it {', '.join(f'*{s}' for s in WRITERS)}",
        )
    if writer is write_parquet:
        require("pyarrow", "Writing Parquet", "parquet")
    return writer


def write_csv(rows: Iterable[Row], file: BinaryIO) -> None:
    """A line of names, then a line a picture (RFC 4180, UTF-8); ``top`` is JSON."""
    with _text(file) as text:
        table = csv.DictWriter(text, COLUMNS)
        table.writeheader()
        for row in rows:
            cells = row.cells()
            top = json.dumps(cells["top"], ensure_ascii=False) if row.top else None
            table.writerow(cells | {"top": top})


def write_jsonl(rows: Iterable[Row], file: BinaryIO) -> None:
    """A JSON object a line."""
    with _text(file) as text:
        for row in rows:
            text.write(json.dumps(row.cells(), ensure_ascii=False, allow_nan=False) + "\n")


def write_parquet(rows: Iterable[Row], file: BinaryIO) -> None:
    """A table with a column a name; ``top`` is a list of structures of label, index and probability."""
    arrow = require("pyarrow", "Writing Parquet", "parquet")
    parquet = require("pyarrow.parquet", "Writing Parquet", "parquet")
    candidate = [("label", arrow.string()), ("index", arrow.int32()), ("probability", arrow.float64())]
    top = ("top", arrow.list_(arrow.struct(candidate)))
    schema = arrow.schema([("file", arrow.string()), *candidate, top, ("error", arrow.string())])
    with parquet.ParquetWriter(file, schema) as table:
        for group in _groups(rows):
            table.write_table(arrow.Table.from_pylist(group, schema=schema))


def _groups(rows: Iterable[Row]) -> Iterator[list[dict[str, Any]]]:
    cells = (row.cells() for row in rows)
    while group := list(islice(cells, ROW_GROUP)):
        yield group


@contextmanager
def _text(file: BinaryIO) -> Iterator[io.TextIOWrapper]:
    """A text layer over a binary file, which stays open when the block ends."""
    layer = io.TextIOWrapper(file, "utf-8", newline="")
    try:
        yield layer
    finally:
        layer.detach()


WRITERS: Mapping[str, Writer] = {
    ".csv": write_csv,
    ".jsonl": write_jsonl,
    ".parquet": write_parquet,
}
"""By the end of the file's name."""
