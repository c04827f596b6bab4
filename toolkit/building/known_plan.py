"""A built plan as the cache keeps it: its bytes and log in files, the rest as JSON."""

import mmap
import os
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from engines.builders.audit import LayerReport
from engines.builders.tensorrt import BuiltPlan
from engines.header import HEADER_SIZE, parse_header
from engines.store import Entry
from engines.tensors import TensorSpec

PLAN, LOG = "plan", "log"
"""The names of the files."""

_OWN_FORM = {"data", "header", "layers", "inputs", "outputs", "profiles", "log"}
"""Attributes of a built plan that are kept in a form of their own; the others are JSON already."""


@dataclass(frozen=True)
class KnownPlan:
    """A plan that was built before.

    Attributes:
        built: the plan.
        digest: of its bytes.
        file: where they lie in the cache.
        created: UTC time of the build, ISO 8601.
    """

    built: BuiltPlan
    digest: str
    file: Path
    created: str

    def copy_into(self, target: BinaryIO) -> None:
        """Write the plan into a new file.

        Raises:
            OSError: the file can't be written.
        """
        if not _copied_by_system(self.file, target):
            target.write(self.built.data)


def kept_form(built: BuiltPlan) -> tuple[dict[str, Any], dict[str, bytes | memoryview]]:
    """The facts and files that a plan is kept as."""
    facts = {
        **{item.name: getattr(built, item.name) for item in fields(built) if item.name not in _OWN_FORM},
        "layers": built.layers.to_json(),
        "inputs": [spec.to_json() for spec in built.inputs],
        "outputs": [spec.to_json() for spec in built.outputs],
        "profiles": built.profiles,
    }
    return facts, {PLAN: built.data, LOG: built.log.encode()}


def read_plan(entry: Entry) -> KnownPlan:
    """The plan of an entry; its bytes are mapped, not read.

    Raises:
        ToolkitError, OSError, KeyError, TypeError, ValueError, AttributeError: it was removed meanwhile, or the
            entry is of another version.
    """
    facts, file = dict(entry.facts), entry.path(PLAN)
    with file.open("rb") as opened:
        data = memoryview(mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ))
        created = datetime.fromtimestamp(os.fstat(opened.fileno()).st_mtime, UTC).isoformat(timespec="seconds")
    facts |= {
        "layers": LayerReport.from_json(facts["layers"]),
        "inputs": tuple(map(TensorSpec.from_json, facts["inputs"])),
        "outputs": tuple(map(TensorSpec.from_json, facts["outputs"])),
        "profiles": tuple(facts["profiles"]),
    }
    header = parse_header(bytes(data[:HEADER_SIZE]), data.nbytes)
    built = BuiltPlan(data=data, header=header, log=entry.path(LOG).read_text(), **facts)
    return KnownPlan(built, entry.files[PLAN], file, created)


def _copied_by_system(source: Path, target: BinaryIO) -> bool:
    """Copy a file without reading it into this process: some file systems share its blocks then. False where not."""
    try:
        with source.open("rb") as file:
            left = os.fstat(file.fileno()).st_size
            while left:
                copied = os.copy_file_range(file.fileno(), target.fileno(), left)
                if not copied:
                    raise OSError("the file ended early")
                left -= copied
    except (OSError, AttributeError):  # another system, or another file system than the cache's
        target.seek(0)
        target.truncate()
        return False
    return True
