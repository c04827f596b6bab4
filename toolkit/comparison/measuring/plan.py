"""What is to be compared, and each artifact on its way through the comparison."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from engines.errors import DataError, InputError, ToolkitError
from engines.metadata import ModelMetadata
from engines.sessions.opening import BACKENDS
from engines.store import open_store
from toolkit.benchmarking.messages import Contestant, Opened, Proof
from toolkit.benchmarking.rounds import Pace
from toolkit.comparison.layers import Layers
from toolkit.comparison.records.row import ColdStart, Failure, Row, Speed

if TYPE_CHECKING:
    from toolkit.comparison.accuracy.accuracy import Accuracy
    from toolkit.comparison.fidelity import Fidelity
    from toolkit.data import Dataset
    from toolkit.data.tensors import TensorDataset


SWEEP: Literal["sweep"] = "sweep"


@dataclass(frozen=True)
class Plan:
    """What is to be measured.

    Attributes:
        contestants: at least one, with unique names.
        batch_sizes: for the timing; none times nothing, and "sweep" doubles them from 1 until throughput stops
            growing.
        dataset: its test split is evaluated; None evaluates nothing.
        images: how many of it; None for all.
        reference: a contestant's name; None takes the first checkpoint that runs, else the first graph,
            else the first artifact.
        pace: how long to measure.
    """

    contestants: tuple[Contestant, ...]
    batch_sizes: tuple[int, ...] | Literal["sweep"] = (1, 8, 32)
    dataset: "Dataset | TensorDataset | None" = None
    images: int | None = None
    reference: str | None = None
    pace: Pace = field(default_factory=Pace)

    def check(self) -> None:
        """Reject a plan that makes no sense.

        Raises:
            InputError: nothing to measure, a batch size below 1, no time, a negative seed, an unknown reference.
            DataError: the data has no test images.
        """
        names = [contestant.name for contestant in self.contestants]
        if not names:
            raise InputError("there is nothing to measure", "give at least one checkpoint, graph or engine")
        if isinstance(self.batch_sizes, str):
            if self.batch_sizes != SWEEP:
                raise InputError(f"batch sizes '{self.batch_sizes}' make no sense", f"give numbers, or '{SWEEP}'")
        elif bad := [size for size in self.batch_sizes if size < 1]:
            raise InputError(f"batch size {bad[0]} makes no sense", "batch sizes start at 1")
        if self.pace.rounds < 1 or not 0 < self.pace.seconds < float("inf"):
            raise InputError("there is no time to measure in", "give --seconds above 0")
        if self.pace.launches < 1:
            raise InputError(f"{self.pace.launches} launches asked for", "ask for 1 or more with --launches")
        if self.pace.seed < 0:
            raise InputError(f"a seed of {self.pace.seed} makes no sense", "give --seed 0 or more")
        if self.dataset is not None and not len(self.dataset.test):
            raise DataError(f"'{self.dataset.name}' has no test images", "give data with a test split")
        if self.images is not None and self.images < 1:
            raise InputError(f"{self.images} images asked for", "ask for 1 or more")
        if self.reference is not None and self.reference not in names:
            raise InputError(f"the reference '{self.reference}' is not compared", f"choose one of {', '.join(names)}")

    def settings(self) -> dict[str, Any]:
        """How it is measured, for the record."""
        pace = self.pace
        return {
            "batch_sizes": self.batch_sizes if isinstance(self.batch_sizes, str) else list(self.batch_sizes),
            "seconds": pace.seconds,
            "rounds": pace.rounds,
            "launches": pace.launches,
            "warm_seconds": pace.warm_seconds,
            "seed": pace.seed,
            "images": self.images,
            "threads": next((c.threads for c in self.contestants), None),
        }


@dataclass
class Entry:
    """One artifact, filled in as the comparison goes on; :meth:`row` is what stays."""

    contestant: Contestant
    size: int
    digest: str
    opened: Opened | None = None
    architecture: str | None = None
    metadata: ModelMetadata | None = None
    accuracy: "Accuracy | None" = None
    fidelity: "Fidelity | None" = None
    speeds: dict[int, Speed] = field(default_factory=dict)
    skipped: dict[int, str] = field(default_factory=dict)
    cold_starts: list[ColdStart] = field(default_factory=list)
    memory: int | None = None
    device_memory: int | None = None
    proof: Proof | None = None
    layers: Layers | None = None
    passport: Mapping[str, Any] | None = None
    error: ToolkitError | None = None
    notes: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, contestant: Contestant) -> "Entry":
        """The facts of the file.

        Raises:
            InputError: it can't be read: a missing file is the caller's mistake, not a result.
        """
        path = Path(contestant.path)
        digest = open_store().digest(path)
        external = path.with_name(path.name + ".data")
        size = path.stat().st_size + (external.stat().st_size if external.is_file() else 0)
        return cls(contestant, size, digest)

    @property
    def name(self) -> str:
        return self.contestant.name

    @property
    def runs(self) -> bool:
        """It was opened, and nothing has gone wrong since."""
        return self.opened is not None and self.error is None

    def note(self, text: str) -> None:
        """Tell a reader of the figures, once."""
        if text not in self.notes:
            self.notes.append(text)

    def row(self) -> Row:
        """What stays of it."""
        return Row(
            name=self.name,
            path=self.contestant.path,
            size=self.size,
            digest=self.digest,
            opened=self.opened and replace(self.opened, metadata=None),
            architecture=self.architecture,
            cold_starts=tuple(self.cold_starts),
            accuracy=self.accuracy,
            fidelity=self.fidelity,
            speeds=dict(self.speeds),
            skipped=dict(self.skipped),
            memory=self.memory,
            device_memory=self.device_memory,
            proof=self.proof,
            layers=self.layers,
            passport=self.passport,
            failure=Failure(self.error.cause, self.error.remedy) if self.error else None,
            notes=tuple(self.notes),
        )


def artifact_of(text: str) -> tuple[str, str]:
    """The file and the backend that ``text`` names: "model.onnx@openvino"; the backend is "auto" without one.

    Where there is a file of the whole text's name, it is that file.

    Raises:
        InputError: there is a file of the name before the @, and no backend of the name behind it.
    """
    path, _, backend = text.rpartition("@")
    if not path or Path(text).exists():
        return text, "auto"
    if backend in BACKENDS:
        return path, backend
    if Path(path).is_file():
        raise InputError(f"there is no backend '{backend}' to run '{path}'", f"backends are {', '.join(BACKENDS)}")
    return text, "auto"


def spelled(contestant: Contestant) -> str:
    """The file and backend of a contestant as :func:`artifact_of` reads them."""
    return contestant.path + _at(contestant)


def _at(contestant: Contestant) -> str:
    return "" if contestant.backend == "auto" else f"@{contestant.backend}"


def name_contestants(contestants: Iterable[Contestant]) -> tuple[Contestant, ...]:
    """Name each after its file, and its backend where one was asked for ("model.onnx@openvino").

    Where files share a name each is called by its whole path, and numbered where that is shared too.
    """
    listed = list(contestants)
    short = [contestant.name or Path(contestant.path).name + _at(contestant) for contestant in listed]
    names: list[str] = []
    for contestant, name in zip(listed, short, strict=True):
        wanted = contestant.name or (spelled(contestant) if short.count(name) > 1 else name)
        candidate, count = wanted, 1
        while candidate in names:
            count += 1
            candidate = f"{wanted} #{count}"
        names.append(candidate)
    return tuple(replace(contestant, name=name) for contestant, name in zip(listed, names, strict=True))
