"""What an interrupted collection had counted, in a file, so that the next one goes on from there."""

import json
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from calibration.histogram import GrowingHistogram, State
from engines.errors import InputError
from engines.files import digest_bytes, unreadable, write_atomically

FORMAT = "onnx-tensorrt-toolkit/partial-calibration"
VERSION = 1
INTERVAL = 30.0
"""Seconds between two saves."""


class Partial:
    """What a collection has counted so far, and the file that keeps it.

    The file is read at once. One that is damaged, of another key or of another version counts as missing: then
    ``images`` is 0. Whoever gives the images skips the first ``images`` of them. Counts are whole numbers, so that
    a collection in two parts ends with exactly the counts of one in one part, given the same batches.

    Args:
        path: the file, beside the table to be made.
        key: what must be the same for the counts to go together: digests of the graph, the data, their choice.
        interval: seconds between two saves.

    Attributes:
        images: how many images it holds.
        notes: what the owner of the images wants kept with them: whoever yields a batch appends its notes first.
            A save holds the notes of the images that are counted, and no later ones.

    Raises:
        InputError: the file is there and can't be read.
    """

    def __init__(self, path: Path, key: str, *, interval: float = INTERVAL) -> None:
        self.path, self.key, self.interval = Path(path), key, interval
        self.images = 0
        self.notes: list[str] = []
        self._states: dict[str, State] = {}
        self._saved = time.monotonic()
        try:
            self._load(self.path.read_bytes())
        except FileNotFoundError:
            pass
        except OSError as error:
            raise unreadable(self.path, error) from error

    def histograms(self, names: Iterable[str]) -> dict[str, GrowingHistogram]:
        """A histogram for each of ``names``: as it was saved, or an empty one.

        Raises:
            InputError: what was saved is of other tensors.
        """
        names = list(names)
        if not self.images:
            return {name: GrowingHistogram() for name in names}
        if set(names) != set(self._states):
            raise InputError(f"'{self.path}' was made from a graph with other tensors", "remove it and start anew")
        return {name: GrowingHistogram.restored(self._states[name]) for name in names}

    @property
    def due(self) -> bool:
        """Whether the last save is longer ago than the interval."""
        return time.monotonic() - self._saved >= self.interval

    def save(self, histograms: Mapping[str, GrowingHistogram], images: int, notes: int) -> None:
        """Write the file, whole or not at all.

        Args:
            histograms: what was counted, by tensor; nothing may be counting in them.
            images: how many images that is.
            notes: how many of ``notes`` are theirs.

        Raises:
            InputError: the folder is missing or not writable, or the disk is full.
        """
        states = {name: histogram.state for name, histogram in histograms.items()}
        head = {
            "format": FORMAT,
            "version": VERSION,
            "key": self.key,
            "images": images,
            "notes": self.notes[:notes],
            "histograms": [
                [name, state.first, state.counts.size, state.total, state.minimum, state.maximum]
                for name, state in states.items()
            ],
        }
        parts = [
            json.dumps(head).encode(),
            b"\n",
            *(state.counts.astype("<i8").tobytes() for state in states.values()),
        ]
        write_atomically(self.path, b"".join([digest_bytes(*parts).encode(), b"\n", *parts]))
        self.images, self._states = images, states
        self._saved = time.monotonic()

    def discard(self) -> None:
        """Remove the file, if it is there: what it held is in a table now."""
        self.path.unlink(missing_ok=True)
        self.images, self.notes, self._states = 0, [], {}

    def _load(self, data: bytes) -> None:
        """Take over what :meth:`save` wrote; leave everything empty where it isn't that, whole and of this key."""
        digest, _, rest = data.partition(b"\n")
        if digest.decode("ascii", "replace") != digest_bytes(rest):
            return
        text, _, counts = rest.partition(b"\n")
        head: dict[str, Any] = json.loads(text)
        if (head["format"], head["version"], head["key"]) != (FORMAT, VERSION, self.key):
            return
        self.images, self.notes = head["images"], head["notes"]
        numbers, start = np.frombuffer(counts, "<i8").astype(np.int64), 0
        for name, first, size, *values in head["histograms"]:
            self._states[name] = State(first, numbers[start : start + size], *values)
            start += size
