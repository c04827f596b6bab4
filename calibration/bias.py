"""Bias correction."""

from collections.abc import Collection, Mapping, Sequence

from export.onnxlib import onnx


def shift_biases(
    model: onnx.ModelProto, shifts: Mapping[str, Sequence[float]], keep: Collection[str] = ()
) -> onnx.ModelProto:
    """The graph with ``shifts`` added to the named nodes' biases, but those in ``keep``; ``model`` without any."""
    if not shifts:
        return model
    raise NotImplementedError
