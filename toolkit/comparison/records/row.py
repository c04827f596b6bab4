"""One artifact in a record: what it is, what ran it, and its figures."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from engines.sessions.base import SessionInfo
from engines.tensors import TensorSpec
from toolkit.benchmarking.messages import Opened, Proof
from toolkit.benchmarking.timing import Interval, Timing
from toolkit.comparison.accuracy.accuracy import Accuracy
from toolkit.comparison.fidelity import Fidelity
from toolkit.comparison.layers import Layers


@dataclass(frozen=True)
class Failure:
    """Why an artifact has no figures, or lacks some."""

    cause: str
    remedy: str = ""

    def to_json(self) -> dict[str, str]:
        return {"cause": self.cause, "remedy": self.remedy}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        return cls(value["cause"], value["remedy"])


@dataclass(frozen=True)
class ColdStart:
    """One start of a process from nothing: a launch has one.

    Attributes:
        open: seconds from the call of the opener, imports of its libraries included, to a session.
        first: seconds of the first run.
    """

    open: float
    first: float

    def to_json(self) -> dict[str, float]:
        return {"open": self.open, "first": self.first}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        return cls(value["open"], value["first"])


@dataclass(frozen=True)
class Speed:
    """One artifact at one batch size.

    Attributes:
        timing: its times.
        ratio: how many times the reference's speed; None without a reference.
    """

    timing: Timing
    ratio: Interval | None = None

    def to_json(self) -> dict[str, Any]:
        return {**self.timing.to_json(), "ratio": self.ratio and self.ratio.to_json()}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        ratio = value["ratio"]
        return cls(Timing.from_json(value), None if ratio is None else Interval.from_json(ratio))


@dataclass(frozen=True)
class Row:
    """One artifact.

    Attributes:
        name: what tables call it.
        path: as it was given.
        size: bytes of its files.
        digest: ``sha256:...`` of the file.
        opened: what its session said of itself, without the model's metadata; None when it couldn't be opened.
        architecture: of the model in it; None where it doesn't say.
        cold_starts: one a launch.
        accuracy: None when it wasn't evaluated, or is of no classifier.
        fidelity: how near its outputs are to the reference's, of a network that isn't a classifier of pictures; None
            of others.
        speeds: by batch size.
        skipped: why a batch size wasn't measured.
        memory: the most bytes its process held resident.
        device_memory: the most bytes that its process held on the GPU; None without one.
        proof: which provider really ran it; None when it didn't run.
        layers: the types of its layers; None where they aren't known.
        passport: the passport beside it, without measurements and list of layers; None where there is none.
        failure: why it couldn't be run, or stopped.
        notes: what else a reader of the figures should know.
        machine: index of the machine that it was measured on; 0 but in merged records.
    """

    name: str
    path: str
    size: int
    digest: str
    opened: Opened | None = None
    architecture: str | None = None
    cold_starts: tuple[ColdStart, ...] = ()
    accuracy: Accuracy | None = None
    fidelity: Fidelity | None = None
    speeds: Mapping[int, Speed] = field(default_factory=dict)
    skipped: Mapping[int, str] = field(default_factory=dict)
    memory: int | None = None
    device_memory: int | None = None
    proof: Proof | None = None
    layers: Layers | None = None
    passport: Mapping[str, Any] | None = None
    failure: Failure | None = None
    notes: tuple[str, ...] = ()
    machine: int = 0

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "path": self.path,
            "size_bytes": self.size,
            "digest": self.digest,
            "session": self.opened and _session(self.opened),
            "architecture": self.architecture,
            "cold_starts": [start.to_json() for start in self.cold_starts],
            "peak_resident_bytes": self.memory,
            "peak_device_bytes": self.device_memory,
            "accuracy": self.accuracy and self.accuracy.to_json(),
            **({"fidelity": self.fidelity.to_json()} if self.fidelity else {}),
            "speed": [speed.to_json() for speed in self.speeds.values()],
            "skipped": [{"batch": batch, "reason": reason} for batch, reason in self.skipped.items()],
            "proof": self.proof and self.proof.to_json(),
            "layers": self.layers and self.layers.to_json(),
            "passport": None if self.passport is None else dict(self.passport),
            "failure": self.failure and self.failure.to_json(),
            "notes": list(self.notes),
            "machine": self.machine,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        speeds = [Speed.from_json(speed) for speed in value["speed"]]
        return cls(
            name=value["name"],
            path=value["path"],
            size=value["size_bytes"],
            digest=value["digest"],
            opened=value["session"] and _opened(value["session"]),
            architecture=value["architecture"],
            cold_starts=tuple(map(ColdStart.from_json, value["cold_starts"])),
            accuracy=value["accuracy"] and Accuracy.from_json(value["accuracy"]),
            fidelity=Fidelity.from_json(value["fidelity"]) if value.get("fidelity") else None,
            speeds={speed.timing.batch: speed for speed in speeds},
            skipped={one["batch"]: one["reason"] for one in value["skipped"]},
            memory=value["peak_resident_bytes"],
            device_memory=value["peak_device_bytes"],
            proof=value["proof"] and Proof.from_json(value["proof"]),
            layers=value["layers"] and Layers.from_json(value["layers"]),
            passport=value["passport"],
            failure=value["failure"] and Failure.from_json(value["failure"]),
            notes=tuple(value["notes"]),
            machine=value["machine"],
        )


def _session(opened: Opened) -> dict[str, Any]:
    info = opened.info
    return {
        "backend": info.backend,
        "device": info.device,
        "provider": info.provider,
        "versions": dict(info.versions),
        "max_batch": info.max_batch,
        "inputs": [spec.to_json() for spec in opened.inputs],
        "outputs": [spec.to_json() for spec in opened.outputs],
        "open_seconds": opened.open_seconds,
        "first_seconds": opened.first_seconds,
    }


def _opened(value: Mapping[str, Any]) -> Opened:
    info = SessionInfo(
        value["backend"], value["device"], value["provider"], dict(value["versions"]), value["max_batch"]
    )
    inputs, outputs = (tuple(map(TensorSpec.from_json, value[name])) for name in ("inputs", "outputs"))
    return Opened(inputs, outputs, None, info, value["open_seconds"], value["first_seconds"])
