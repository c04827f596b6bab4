"""The typed graph that an engine is built from, whether its content was read or not."""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

    from engines.metadata import ModelMetadata
    from export.light import SplitGraph


@dataclass(frozen=True)
class TypedGraph:
    """A graph whose types are the precision that was asked for.

    Attributes:
        path: the file that the builder reads.
        precision: "fp32", "fp16", "bf16", "int8", "fp8".
        weights: the digest of the master graph's weights; of its own for a foreign graph.
        sources: digests of what it was made from, for the passport.
        metadata: what travelled with the model.
        keep: convolutions and matrix products that this toolkit left in a wider type, on purpose.
        loaded: its content, where that is at hand; else :attr:`model` reads it.
    """

    path: Path
    precision: str
    weights: str
    sources: dict[str, str]
    metadata: "ModelMetadata | None"
    keep: frozenset[str] = frozenset()
    loaded: "SplitGraph | None" = None

    @functools.cached_property
    def model(self) -> "onnx.ModelProto":
        """The content of the file, read on first use.

        Raises:
            InputError: the file can't be read.
            GraphError: it is damaged.
        """
        if self.loaded is not None:
            return self.loaded.whole()
        from export.graph import load_graph

        return load_graph(self.path)

    @property
    def structure(self) -> "onnx.ModelProto":
        """The content for whom no values of large constants matter: they may be stubs.

        Raises:
            ToolkitError: as for :attr:`model`.
        """
        return self.model if self.loaded is None else self.loaded.model
