"""What the head of the report and its summary need to know of a record."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from toolkit.report.artifacts import Artifact
from toolkit.report.pointers import at


@dataclass(frozen=True)
class Said:
    """One verdict, of one artifact or of several.

    Attributes:
        pointer: of its text.
        kind, text: its own.
        names: of the artifacts that it is about; none when it is about all.
    """

    pointer: str
    kind: str
    text: str
    names: list[str]

    @property
    def badge(self) -> str:
        return self.kind.replace("-", " ")


class Facts:
    """The record seen as a whole.

    Attributes:
        batches: every batch size that was timed, from the smallest.
        smallest, largest: the two that the summary shows: those that most artifacts were timed at.
        batch: the one that the goal asks for, else the smallest; plots of one batch size show it.
    """

    def __init__(self, record: Mapping[str, Any], artifacts: Sequence[Artifact]) -> None:
        self._record, self._artifacts = record, artifacts
        self._ran = ran = [one for one in artifacts if one.ran]
        counted = Counter(speed["batch"] for one in ran for speed in one.row["speed"])
        self.batches = sorted(counted)
        shared = [batch for batch in self.batches if counted[batch] == max(counted.values())]
        self.smallest: int | None = shared[0] if shared else None
        self.largest: int | None = shared[-1] if shared else None
        wanted = (record["goal"] or {}).get("batch")
        self.batch = wanted if wanted in counted else self.smallest

    @property
    def title(self) -> str:
        """What was compared, in a few words."""
        rows = self._record["rows"]
        architectures = list(dict.fromkeys(row["architecture"] for row in rows if row["architecture"]))
        count = len(rows)
        what = f"{count} artifacts compared" if count != 1 else "one artifact measured"
        return f"{', '.join(architectures)}: {what}" if architectures else what.capitalize()

    @property
    def merged(self) -> bool:
        return len(self._record["machines"]) > 1

    def any(self, *keys: str) -> bool:
        """Whether any row has something at this path."""
        return any(_has(row, keys) for row in self._record["rows"])

    def any_speed(self, key: str) -> bool:
        return any(speed.get(key) for one in self._ran for speed in one.row["speed"])

    @property
    def verdicts(self) -> list[Said]:
        """All verdicts but recommendations, and what wasn't measured."""
        return [one for one in self._said() if one.kind not in {"recommended", "not-measured"}]

    @property
    def unmeasured(self) -> list[Said]:
        """What wasn't measured, and why."""
        return [one for one in self._said() if one.kind == "not-measured"]

    @property
    def unexplained(self) -> list[Artifact]:
        """Artifacts that failed, and of which no verdict says why."""
        explained = {name for said in self.unmeasured for name in said.names}
        return [one for one in self._artifacts if one.row["failure"] and one.name not in explained]

    def _said(self) -> list[Said]:
        """Every verdict once: those that say the same of several artifacts are one."""
        found: dict[tuple[str, str], Said] = {}
        for number, one in enumerate(self._record["verdicts"]):
            kind, subject, text = one["kind"], one["subject"], one["text"]
            said = found.setdefault((kind, text), Said(at("verdicts", number, "text"), kind, text, []))
            if subject:
                said.names.append(subject)
        return list(found.values())

    @property
    def recommendations(self) -> list[tuple[int, Mapping[str, Any], Artifact | None]]:
        """Number, verdict and artifact of each recommendation."""
        return [
            (number, one, next((artifact for artifact in self._ran if artifact.name == one["subject"]), None))
            for number, one in enumerate(self._record["verdicts"])
            if one["kind"] == "recommended"
        ]

    @staticmethod
    def device(row: Mapping[str, Any]) -> str:
        """The device that a row ran on, and the provider where that tells more."""
        device = str(row["session"]["device"])
        provider = str((row["proof"] or row["session"])["provider"]).removesuffix("ExecutionProvider")
        if device in provider:
            return provider
        known = {"", device, device.partition(":")[0], row["session"]["backend"]}
        return device if provider.lower() in known else f"{device}, {provider}"

    @property
    def when(self) -> str:
        """The record's date and minute, in UTC."""
        return str(self._record["created"])[:16].replace("T", " ") + " UTC"

    def machine_name(self, number: int) -> str:
        """A machine in a few words: its GPU where it has one, else its processor."""
        machine = self._record["machines"][number]
        gpus = list(dict.fromkeys(gpu.get("name", "GPU") for gpu in machine["gpus"]))
        return ", ".join(gpus) or machine["processor"]


def _has(value: Any, keys: Sequence[str]) -> bool:
    for key in keys:
        if not isinstance(value, Mapping) or not value.get(key):
            return False
        value = value[key]
    return bool(value)
