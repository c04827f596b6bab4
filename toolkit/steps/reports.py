"""Where a comparison goes, and records that are shown again."""

import importlib.util
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from os import PathLike, fspath
from pathlib import Path

from engines.errors import InputError, MissingLibraryError
from engines.files import write_atomically
from toolkit.comparison.goal import Aim, Goal
from toolkit.comparison.records.journal import check_record, probe, write_record
from toolkit.comparison.records.merging import merge
from toolkit.comparison.records.reading import read_record
from toolkit.comparison.records.record import SCHEMA, Comparison
from toolkit.comparison.verdicts import judge
from toolkit.outputs import check_replace

StrPath = str | PathLike[str]

_MARKS = (f'content="{SCHEMA}"'.encode(), f"<!-- {SCHEMA} -->".encode())
"""A file that has one of them near its beginning or end is a report, which a newer one may replace."""

_LOOKED_AT = 1 << 16


@dataclass(frozen=True)
class Outputs:
    """The files that a comparison is written to; None for none."""

    record: Path | None = None
    report: Path | None = None
    markdown: Path | None = None
    csv: Path | None = None

    @classmethod
    def of(
        cls,
        record: StrPath | None = None,
        report: StrPath | None = None,
        markdown: StrPath | None = None,
        csv: StrPath | None = None,
        *,
        beside: bool = True,
    ) -> "Outputs":
        """The files as asked for; with ``beside`` a report has its record beside it, where none was named."""
        paths = [None if path is None else Path(path) for path in (record, report, markdown, csv)]
        if beside and paths[0] is None and (page := paths[1]) is not None:
            paths[0] = page.with_name(page.name.removesuffix(page.suffix) + ".json")
        return cls(*paths)

    @property
    def options(self) -> dict[str, Path]:
        """Each file by the option that names it."""
        found = {"--record": self.record, "--report": self.report, "--markdown": self.markdown, "--csv": self.csv}
        return {option: path for option, path in found.items() if path is not None}

    def check(self, inputs: Sequence[str], *, force: bool) -> None:
        """Find out before the measuring what would stop the writing after it.

        Args:
            inputs: files that are read, which no output may replace.
            force: replace what is there, whatever it is; but for the inputs.

        Raises:
            InputError: a folder is missing or can't be written, two outputs are one file, or there is a file of
                something else already.
            MissingLibraryError: what draws reports is not installed.
        """
        taken = {_place(path): "that is read" for path in inputs}
        for option, path in self.options.items():
            if said := taken.get(_place(path)):
                raise InputError(f"{option} would write over '{path}', but {said}", f"choose another {option}")
            taken[_place(path)] = f"{option} is written there too"
            if option != "--record":  # a record's own content says whether it may be replaced
                check_replace(path, None, lambda _: None, force=True, option=option)
                if path.exists() and not force and not _is_report(path):
                    raise InputError(
                        f"'{path}' exists and is no report of a comparison",
                        f"give --force to replace it, or another {option}",
                    )
                probe(path, option)
        if self.report is not None:
            for module in ("matplotlib", "jinja2"):
                if importlib.util.find_spec(module) is None:
                    raise MissingLibraryError("Writing a report", module, "report")

    def write(self, comparison: Comparison) -> None:
        """Write the report and its kin.

        Raises:
            InputError: a file can't be written.
        """
        from toolkit.report import markdown, write_csv, write_report

        if self.report is not None:
            write_report(comparison, self.report)
        if self.markdown is not None:
            write_atomically(self.markdown, markdown(comparison))
        if self.csv is not None:
            write_csv(comparison, self.csv)


def show_records(
    records: Sequence[StrPath],
    *,
    goal: Goal | Aim | None = None,
    record: StrPath | None = None,
    report: StrPath | None = None,
    markdown: StrPath | None = None,
    csv: StrPath | None = None,
    force: bool = False,
) -> Comparison:
    """Take up records of earlier runs, several side by side, judge them anew and write reports.

    Args:
        records: files that ``toolkit compare`` or ``toolkit bench`` wrote, of this version or an earlier one.
        goal: what the recommendation is for; None takes the records' own.
        record: where the merged record goes.
        report, markdown, csv: as for :func:`toolkit.steps.compare.compare`.
        force: replace output files whatever they are.

    Raises:
        InputError: a record can't be read or is damaged, or an output can't be written.
    """
    records = list(records)
    if not records:
        raise InputError("there is no record to show", "give the JSON files that --record wrote")
    outputs = Outputs.of(record, report, markdown, csv, beside=False)
    outputs.check([fspath(path) for path in records], force=force)
    read = [read_record(path) for path in records]
    comparison = merge(read, [Path(path).name for path in records])
    if outputs.record is not None:
        check_record(outputs.record, comparison.key, comparison.command, force=force)
    if not comparison.complete and not comparison.parts:
        said = "it is of a run that was interrupted: figures are missing"
        comparison = replace(comparison, warnings=(*comparison.warnings, said))
    chosen = (Goal(goal) if isinstance(goal, str) else goal) or comparison.goal
    comparison = replace(comparison, goal=chosen, verdicts=judge(comparison, chosen))
    if outputs.record is not None:
        write_record(comparison, outputs.record)
    outputs.write(comparison)
    return comparison


def _place(path: StrPath) -> str:
    return os.path.realpath(path)


def _is_report(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            start = file.read(_LOOKED_AT)
            file.seek(max(0, path.stat().st_size - _LOOKED_AT))
            text = start + file.read(_LOOKED_AT)
    except OSError:
        return False
    from toolkit.report import COLUMNS

    return any(mark in text for mark in _MARKS) or text.startswith(",".join(COLUMNS).encode() or b"-")
