"""Pictures through a classifier into a file: in bounded memory, and from where an earlier run stopped."""

import json
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from engines.errors import DataError, InputError
from engines.files import atomic_file, digest_bytes, digest_file
from engines.progress import QUIET, Progress
from toolkit.prediction.formats import Writer, writer_of
from toolkit.prediction.journal import Identity, Journal, journal_path
from toolkit.prediction.row import Row
from toolkit.runtime.prediction import Prediction
from toolkit.runtime.predictor import Predictor

_File = TypeVar("_File", str, Path)

RowsOf = Callable[[Iterator[str]], Iterable[list[Row]]]
"""Classifies pictures: their rows in order, some at a time."""


@dataclass(frozen=True)
class Written:
    """What came of it.

    Attributes:
        output: the file with the results.
        pictures: rows in it.
        failed: those of damaged pictures.
        resumed: rows that an earlier run had done.
        seconds: that this run took.
    """

    output: Path
    pictures: int
    failed: int
    resumed: int
    seconds: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"output": str(self.output)}


def identity_of(model: str | Path, predictor: Predictor, top: int) -> Identity:
    """What the answers of a model are known by.

    Raises:
        InputError: the file can't be read.
    """
    model, head, info = Path(model), predictor.head, predictor.session.info
    weights = model.with_name(model.name + ".data")
    parts = [digest_file(path) for path in (model, weights) if path == model or path.is_file()]
    return Identity(
        model="+".join(parts),
        preprocess=head.preprocess.digest(),
        labels=digest_bytes(json.dumps(head.labels).encode()),
        top=top,
        batch_size=predictor.batch_size,
        runtime=f"{info.backend} on {info.device.partition(':')[0]}",
    )


def check_output(output: Path, *, force: bool) -> None:
    """Raise InputError unless results may be written there, before any work is done.

    Raises:
        InputError: the folder is missing, the output exists and ``force`` isn't given, or its format is unknown.
        MissingLibraryError: the format needs a library that isn't installed.
    """
    writer_of(output)
    if not output.parent.is_dir():
        raise InputError(f"the folder '{output.parent}' does not exist", "make it, or choose another --out")
    if output.is_dir():
        raise InputError(f"'{output}' is a folder", "choose another --out")
    if output.exists() and not force:
        raise InputError(f"'{output}' exists", "give --force to replace it, or choose another --out")


def write_predictions(
    files: Iterator[str],
    output: Path,
    identity: Identity,
    rows_of: RowsOf,
    *,
    total: int | None = None,
    progress: Progress = QUIET,
) -> Written:
    """Classify pictures into a file.

    Rows are kept in a journal beside the output as they come. When all are there the output is written from it,
    whole or not at all, and the journal is removed. A run that is interrupted or killed leaves the journal, and the
    next one goes on behind it: what comes out is, byte for byte, what one run would have written.

    Args:
        files: the pictures, the same and in the same order each time.
        output: ``*.csv``, ``*.jsonl`` or ``*.parquet``.
        identity: what the model is known by.
        rows_of: classifies the pictures that aren't done.
        total: how many pictures there are, where it is known.
        progress: told of every batch.

    Raises:
        InputError: a file can't be written, or the journal is of another model or other pictures.
        ToolkitError: what ``files`` and ``rows_of`` raise; what is done stays.
    """
    writer = writer_of(output)
    began = time.monotonic()
    with Journal(journal_path(output), identity) as journal:
        done = resumed = journal.resume(files)
        try:
            left = None if total is None else max(0, total - done)
            progress.begin(f"Going on after {done} pictures" if done else "Classifying", left, "pictures")
            for rows in rows_of(files):
                journal.append(rows)
                done += len(rows)
                progress.advance(len(rows))
            progress.end()
            failed = _write(journal, writer, output)
        except KeyboardInterrupt as error:
            if done:
                error.add_note(f"{done} pictures are done, and the same command goes on from there")
            raise
        finally:
            if not done:
                journal.remove()
        journal.remove()
    return Written(output, done, failed, resumed, time.monotonic() - began)


def answered(
    predictor: Predictor, files: Iterable[_File], top: int
) -> Generator[tuple[_File, Prediction | DataError], None, None]:
    """Each picture with its answer, in order; see :meth:`toolkit.runtime.predictor.Predictor.answers`."""
    taken: deque[_File] = deque()

    def noted() -> Iterator[_File]:
        for file in files:
            taken.append(file)
            yield file

    with closing(predictor.answers(noted(), top)) as answers:
        for answer in answers:
            yield taken.popleft(), answer


def rows_of_predictor(predictor: Predictor, top: int) -> RowsOf:
    """Rows from a predictor, a batch at a time."""

    def rows_of(files: Iterator[str]) -> Iterator[list[Row]]:
        with closing(answered(predictor, files, top)) as pairs:
            while rows := [Row.of(file, answer) for file, answer in islice(pairs, predictor.batch_size)]:
                yield rows

    return rows_of


def _write(journal: Journal, writer: Writer, output: Path) -> int:
    """Write the output; how many of its pictures were damaged."""
    failed = 0

    def counted() -> Iterator[Row]:
        nonlocal failed
        for row in journal.rows():
            failed += bool(row.error)
            yield row

    try:
        with atomic_file(output) as file:
            writer(counted(), file)
    except InputError as error:
        raise InputError(
            error.cause, f"make room there, then repeat the command: '{journal.path.name}' has all answers"
        ) from error
    return failed
