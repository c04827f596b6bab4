"""What is done of a long prediction, kept beside its output so that the same command goes on from there."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from engines.errors import InputError
from engines.files import unreadable
from toolkit.prediction.row import Row

FORMAT = "onnx-tensorrt-toolkit/predictions"


@dataclass(frozen=True)
class Identity:
    """What all rows of a journal have in common: results are of one model.

    Attributes:
        model: digest of the file, and of the weights beside it.
        preprocess: digest of the preprocessing.
        labels: digest of the classes' names.
        top: classes an answer.
        batch_size: pictures a run of the engine; answers may differ in their last digits with it.
        runtime: backend and kind of device, of which the same is true.
    """

    model: str
    preprocess: str
    labels: str
    top: int
    batch_size: int
    runtime: str


def journal_path(output: Path) -> Path:
    """Where the journal of an output is: ``results.csv`` → ``results.csv.partial``."""
    return output.with_name(output.name + ".partial")


class Journal:
    """A file of JSON lines: first what the rows are of, then a row a picture, in the pictures' order.

    A row is written whole or cut off at its end, where a process was killed or the disk was full; what is cut off is
    dropped. The file is locked while it is open.

    Args:
        path: the file; made where there is none.
        identity: what the rows are of.

    Raises:
        InputError: it can't be written, is of something else, or another process has it open.
    """

    def __init__(self, path: Path, identity: Identity) -> None:
        self.path, self._identity = path, identity
        try:
            self._file = open(path, "a+b", buffering=0)  # noqa: PTH123, SIM115 - an open() that takes no buffer
        except OSError as error:
            raise self._unwritable(error) from error
        try:
            self._lock()
            self._start = self._begin()
        except BaseException:
            self._file.close()
            raise

    def resume(self, files: Iterator[str]) -> int:
        """Take the pictures that are done from ``files``, and drop what was cut off.

        What is kept ends with a whole batch, so that the batches that follow are those of a run without a break.

        Args:
            files: every picture from the first on; afterwards the next one is the first to be classified.

        Returns:
            How many are done.

        Raises:
            InputError: the pictures aren't those that the journal was begun with.
        """
        kept, end = 0, self._start
        for count, (_, place) in enumerate(self._scan(), 1):
            if count % self._identity.batch_size == 0:
                kept, end = count, place
        for number, (row, _) in zip(range(kept), self._scan(), strict=False):
            if (file := next(files, None)) != row.file:
                now = f"is '{file}' now" if file is not None else "is gone"
                raise InputError(
                    f"the pictures aren't those that '{self.path}' was begun with: number {number + 1}, "
                    f"'{row.file}', {now}",
                    f"give the same pictures to go on, or remove '{self.path}' to begin again",
                )
        try:
            self._file.truncate(end)
        except OSError as error:
            raise self._unwritable(error) from error
        return kept

    def append(self, rows: Iterable[Row]) -> None:
        """Add rows; when this returns they outlive the process.

        Raises:
            InputError: the disk is full, say; what was there before stays.
        """
        data = memoryview(b"".join(row.dumps() for row in rows))
        try:
            while data:
                data = data[self._file.write(data) :]
        except OSError as error:
            raise self._unwritable(error) from error

    def rows(self) -> Iterator[Row]:
        """Every row from the first on."""
        return (row for row, _ in self._scan())

    def close(self) -> None:
        """Close the file; it stays."""
        self._file.close()

    def remove(self) -> None:
        """Close the file and remove it: its output is written."""
        self.path.unlink(missing_ok=True)
        self.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _begin(self) -> int:
        """Write the first line or check the one that is there; where the rows begin, in bytes."""
        with self._reader() as file:
            line = file.readline()
        # What isn't a whole line is our own first one, cut off, or anything else, which is left alone.
        mark = json.dumps({"format": FORMAT}).removesuffix("}").encode()
        if not line.endswith(b"\n") and (mark.startswith(line) or line.startswith(mark)):
            self._file.truncate(0)
            line = json.dumps({"format": FORMAT} | asdict(self._identity)).encode() + b"\n"
            try:
                self._file.write(line)
            except OSError as error:
                raise self._unwritable(error) from error
            return len(line)
        try:
            found = json.loads(line)
            ours = found.pop("format") == FORMAT
        except (ValueError, AttributeError, KeyError, TypeError):
            ours = False
        if not ours:
            raise InputError(f"'{self.path}' is no journal of predictions", "remove it, or choose another --out")
        for name, value in asdict(self._identity).items():
            if found.get(name) != value:
                shown = "another " + name if name in {"model", "preprocess", "labels"} else _said(name, found, value)
                raise InputError(
                    f"'{self.path}' was begun with {shown}",
                    "repeat the command that it was begun with to go on, or remove it to begin again",
                )
        return len(line)

    def _scan(self) -> Iterator[tuple[Row, int]]:
        """Each whole row with the place where it ends, up to the first line that is none."""
        with self._reader() as file:
            file.seek(self._start)
            place = self._start
            for line in file:
                place += len(line)
                try:
                    if not line.endswith(b"\n"):
                        return
                    row = Row.loads(line)
                except ValueError:
                    return
                yield row, place

    def _reader(self) -> BinaryIO:
        try:
            return self.path.open("rb")
        except OSError as error:
            raise unreadable(self.path, error) from error

    def _lock(self) -> None:
        try:
            import fcntl
        except ImportError:  # Windows, where a file that is open can't be locked so
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InputError(
                f"another process is writing '{self.path}'", "wait for it, or choose another --out"
            ) from error

    def _unwritable(self, error: OSError) -> InputError:
        return InputError(
            f"can't write '{self.path}': {error.strerror or error}",
            "make room on its disk and the folder writable, then repeat the command: it goes on where it stopped",
        )


def _said(name: str, found: dict[str, object], value: object) -> str:
    option = {"top": "--top", "batch_size": "--batch-size", "runtime": "runtime"}[name]
    return f"{option} {found.get(name)}, not {value}"
