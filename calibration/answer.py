"""What a quantised graph is judged on: a classifier's scores, or all that another network gives in floats.

Each sample's answer is one row, so that whatever holds rows of logits holds these too. A classifier's row is its
scores. Of another network it is all float outputs, flattened and put behind each other; they are told apart again
where they are compared (:func:`calibration.figures.output_figures`), since one may be of another scale than the next.
Outputs of integers (an argmax, say) follow from floats, and aren't looked at.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from calibration.figures import Figures, figures, output_figures
from engines.errors import GraphError
from export.graph import outputs, read_metadata
from export.onnxlib import onnx


@dataclass(frozen=True)
class Answer:
    """The outputs of a graph that its quantisation is judged on.

    Attributes:
        names: of the outputs.
        widths: values a sample of each; empty for a classifier, whose classes are counted as they come.
    """

    names: tuple[str, ...]
    widths: tuple[int, ...] = ()

    @classmethod
    def of(cls, model: onnx.ModelProto) -> "Answer":
        """That of a graph: a foreign one is taken for a classifier with its first output.

        Raises:
            GraphError: it gives no floats, or of a size that isn't fixed.
        """
        metadata, given = read_metadata(model), outputs(model)
        if metadata is None or metadata.scores != "none":
            scored = metadata.scored if metadata else None
            return cls((next((spec.name for spec in given if spec.name == scored), given[0].name),))
        floats = [spec for spec in given if spec.dtype.startswith("float")]
        if not floats:
            raise GraphError(
                f"the graph gives no floats to judge quantisation on: {'; '.join(map(str, given))}",
                "export it with the output that its integers are made from",
            )
        for spec in floats:
            if any(isinstance(size, str) for size in spec.shape[1:]):
                raise GraphError(f"the size of the output {spec} is not fixed", "export it with fixed sizes")
        return cls(
            tuple(spec.name for spec in floats),
            tuple(math.prod(int(size) for size in spec.shape[1:]) for spec in floats),
        )

    @property
    def classifies(self) -> bool:
        """Whether the rows are a classifier's scores."""
        return not self.widths

    def rows(self, found: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        """What a session gave for one batch, by output, as rows [N, values]."""
        if self.classifies:
            return np.asarray(found[self.names[0]])
        parts = zip(self.names, self.widths, strict=True)
        return np.concatenate([np.asarray(found[name], np.float32).reshape(-1, width) for name, width in parts], 1)

    def figures(self, reference: ArrayLike, found: ArrayLike, labels: ArrayLike | None = None) -> Figures:
        """Compare two sets of rows; see :func:`calibration.figures.figures` and ``output_figures``."""
        if self.classifies:
            return figures(reference, found, labels)
        return output_figures(reference, found, self.widths)
