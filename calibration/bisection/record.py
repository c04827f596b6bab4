"""What a bisection found: every layer's figures, where the graphs part, and what mends it."""

from dataclasses import asdict, dataclass
from typing import Any

from calibration.figures import Figures, finite

FORMAT = "onnx-tensorrt-toolkit/bisection"

_MISLED_DB = 6.0
"""Two roundings that have nothing to do with each other are 3 dB further apart than either is from the truth."""


@dataclass(frozen=True)
class BisectedLayer:
    """One operator that both graphs have.

    Attributes:
        node: its name in the first graph.
        module: the path of the PyTorch module that it comes from; None in a foreign graph.
        op: its operator.
        dtype: the type of what it makes in the second graph ("float16"), or "int8", "fp8" for a quantised
            convolution or product.
        cumulative_db: of its result in the second graph, all errors before it included: signal to noise in dB.
        own_db: of its result in the second graph where it reads the first graph's values.
        floor_db: the same of the first graph's layer rounded to the second's types and scales: what they must cost.
        gain: what its result is multiplied by, beside what its types do to it; 1 where nothing is to be seen.
        exact: whether the floor could be measured with the first graph's own constants; it is assumed where not.
        over: whether its own error is over the floor.
        reason: why, in words; what else there is to know where it isn't over.
        tensor: its result in the second graph.
        others: further convolutions and products of the first graph that a backend computes as one layer with it.
    """

    node: str
    module: str | None
    op: str
    dtype: str
    cumulative_db: float
    own_db: float
    floor_db: float
    gain: float
    exact: bool
    over: bool
    reason: str
    tensor: str
    others: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """The module's path, else the node's name."""
        return self.module or self.node


@dataclass(frozen=True)
class Mending:
    """Layers that bring the logits back within reach when they are as in the first graph, measured so.

    Attributes:
        keep: names of nodes of the first graph, in graph order: all that are over the floor, and no others than the
            logits need.
        reached: the logits with them.
    """

    keep: tuple[str, ...]
    reached: Figures


@dataclass(frozen=True)
class Elsewhere:
    """The backend that ran the second graph.

    Attributes:
        backend: its name.
        marked: the logits of the graph whose tensors are marked as outputs, against those of the graph or engine as
            it is. A library can't fuse what it must give out, so that the marked graph may compute otherwise: this
            says how much.
    """

    backend: str
    marked: Figures


@dataclass(frozen=True)
class Bisection:
    """Where two graphs part.

    Attributes:
        layers: in the order of the second graph.
        logits: of the second graph against the first.
        types: of the first graph rounded to the second's types: what they must cost, all layers together.
        reach_db: from where on the logits are near enough.
        mending: the fewest layers to keep wide; None where nothing is over the floor and the logits are within
            reach, or where nothing mends them.
        unmatched: convolutions and products of the second graph that have no partner.
        equalised: whether channels of the second graph are scaled by powers of two, which is undone.
        images: how many were measured on.
        elsewhere: the backend that ran the second graph; None for ONNX Runtime, which computed it as written.
    """

    layers: tuple[BisectedLayer, ...]
    logits: Figures
    types: Figures
    reach_db: float
    mending: Mending | None
    unmatched: tuple[str, ...]
    equalised: bool
    images: int
    elsewhere: Elsewhere | None = None

    @property
    def first(self) -> BisectedLayer | None:
        """The first layer whose own error is over the floor; None where there is none."""
        return next((layer for layer in self.layers if layer.over), None)

    @property
    def within_reach(self) -> bool:
        """Whether the logits of the second graph are near enough to the first's."""
        return self.logits.sqnr_db >= self.reach_db

    @property
    def misled(self) -> bool:
        """Whether marking tensors moved the backend's logits clearly further than they are from the first graph's.

        Then the cumulative errors are of another computation than the one asked about.
        """
        return self.elsewhere is not None and self.elsewhere.marked.sqnr_db < self.logits.sqnr_db - _MISLED_DB

    def verdict(self) -> str:
        """One line."""
        first = self.first
        if first is None:
            return "the graphs don't part: no layer's own error is over what its types must cost"
        others = sum(layer.over for layer in self.layers) - 1
        more = f"; {others} more {'is' if others == 1 else 'are'} over the floor" if others else ""
        return f"they part at {first.title}{f' ({first.node})' if first.module else ''}: {first.reason}{more}"

    def to_json(self) -> dict[str, Any]:
        """An object of JSON; a figure that isn't finite is the text "inf" or "-inf"."""
        first = self.first
        return {
            "format": FORMAT,
            "verdict": self.verdict(),
            "first": None if first is None else {"node": first.node, "module": first.module, "reason": first.reason},
            "images": self.images,
            "logits": _plain(self.logits),
            "types": _plain(self.types),
            "reach_db": finite(self.reach_db),
            "mending": None
            if self.mending is None
            else {"keep": list(self.mending.keep), "reached": _plain(self.mending.reached)},
            "elsewhere": None
            if self.elsewhere is None
            else {
                "backend": self.elsewhere.backend,
                "marked": _plain(self.elsewhere.marked),
                "misled": self.misled,
            },
            "equalised": self.equalised,
            "unmatched": list(self.unmatched),
            "layers": [_plain(layer) for layer in self.layers],
        }


def _plain(item: Figures | BisectedLayer) -> dict[str, Any]:
    return {name: finite(value) if isinstance(value, float) else value for name, value in asdict(item).items()}
