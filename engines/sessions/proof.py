"""What a library says of what it ran, afterwards: the proof that it ran where it was asked to."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, Self, runtime_checkable

from engines.tensors import Feeds


@dataclass(frozen=True)
class Proof:
    """What really ran a session's engine.

    Attributes:
        provider: the provider or device that did the most of it ("CPUExecutionProvider", "CPU", "cuda:0").
        how: where that is known from, in words ("node times of a profiled run").
        shares: provider, device or type → its share of the work, which ``how`` says the measure of; 0..1, 1 in all.
        fallbacks: what ran elsewhere than was asked for, one line each; empty when nothing did.
        problem: why there is no proof; empty when there is one.
    """

    provider: str
    how: str = ""
    shares: Mapping[str, float] = field(default_factory=dict)
    fallbacks: tuple[str, ...] = ()
    problem: str = ""

    @property
    def proven(self) -> bool:
        """Whether there is a proof, and it says that nothing ran elsewhere."""
        return not self.problem and not self.fallbacks

    def to_json(self) -> dict[str, Any]:
        return {
            "provider": self.provider,
            "how": self.how,
            "shares": dict(self.shares),
            "fallbacks": list(self.fallbacks),
            "problem": self.problem,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """The proof that ``to_json`` wrote."""
        return cls(
            value["provider"],
            value["how"],
            dict(value["shares"]),
            tuple(value["fallbacks"]),
            value.get("problem", ""),
        )


@runtime_checkable
class Provable(Protocol):
    """A session whose library can tell what it ran."""

    def prove(self, feeds: Feeds) -> Proof:
        """What ran the engine; it may run it on ``feeds`` once more, aside from what is timed.

        Raises:
            ToolkitError: it can't be told here, and why.
        """


def by_share(work: Mapping[str, float]) -> dict[str, float]:
    """Amounts of work as shares of their sum, the largest first; empty when there was none."""
    total = sum(work.values())
    if total <= 0:
        return {}
    return {name: amount / total for name, amount in sorted(work.items(), key=lambda item: (-item[1], item[0]))}
