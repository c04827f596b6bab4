"""Which tensors of a graph are marked as outputs for a backend, and which inputs it is left with."""

from calibration.bisection.sides import Pairs, Side
from calibration.likeness import FOLDED, is_transparent
from calibration.ranges import WEIGHTED
from export.onnxlib import onnx


def unfused(second: Side, pairs: Pairs) -> Pairs:
    """The pairs without tensors that only an operator reads which backends fuse with what made them.

    Such a tensor, if it is asked for, forbids that. So convolutions, the sum that they go into and the ReLU behind
    are one layer, as long as the last result is paired too. (OpenVINO 2026.4 was seen to add wrong numbers where an
    INT8 result that goes into a sum is an output as well: all behind it was noise.)
    """

    def is_between(tensor: str) -> bool:
        users, made_by = second.users.get(tensor, []), second.made_by[tensor]
        while len(users) == 1 and is_transparent(users[0]) and users[0].output[0] not in pairs.tensors:
            users = second.users.get(users[0].output[0], [])
        if len(users) != 1 or tensor == second.output or users[0].output[0] not in pairs.tensors:
            return False
        return users[0].op_type in FOLDED or (users[0].op_type == "Add" and made_by.op_type in WEIGHTED)

    return Pairs({there: here for there, here in pairs.tensors.items() if not is_between(there)}, pairs.weighted)


def drop_unread_inputs(graph: onnx.GraphProto) -> None:
    """Drop what no node reads: backends differ in what they make of it."""
    read = {name for node in graph.node for name in node.input}
    for index in reversed(range(len(graph.input))):
        if graph.input[index].name not in read:
            del graph.input[index]
