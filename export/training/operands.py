"""Reaches what a module adds or multiplies in its own forward, where no submodule's hook does: a residual's skip.

The module's forward is traced with torch.fx, its submodules as they are, and written anew with a call in front of the
operand. Only the forward changes: the module, its keys and its submodules stay.
"""

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from engines.errors import UnsupportedError

OPERATORS: Mapping[str, frozenset[Any]] = {
    "Add": frozenset({operator.add, operator.iadd, torch.add, "add", "add_"}),
    "MatMul": frozenset({operator.matmul, torch.matmul, torch.bmm, "matmul", "bmm"}),
}
"""What a module calls, by the operator of the graph that becomes of it."""


@dataclass(frozen=True)
class Operand:
    """An operand inside a module's forward.

    Attributes:
        path: of the module.
        operator: a key of :data:`OPERATORS`.
        call: which of the operators of that kind in this forward, from 0, in the order in which they run.
        calls: how many there are.
        index: which operand: 0 or 1.
        range: the name of its range.
    """

    path: str
    operator: str
    call: int
    calls: int
    index: int
    range: str


def with_operands(module: nn.Module, path: str, operands: Sequence[Operand]) -> tuple[Any, dict[str, str]]:
    """The forward of ``module`` with a call in front of its operands.

    Args:
        module: the module; it isn't changed.
        path: what errors call it.
        operands: all of them in this module.

    Returns:
        A function to be bound to the module; and the names of the ranges by those of the module's attributes under
        which the function looks for what it calls with an operand.

    Raises:
        UnsupportedError: the forward can't be traced, depends on whether it trains, or has other operators than
            the graph.
    """
    modes = {part: part.training for part in module.modules()}
    try:
        codes = []
        for training in (True, False):
            for part in modes:
                part.training = training
            graph, wanted = _traced(module, path, operands)
            codes.append(graph.python_code("self").src)
    finally:
        for part, training in modes.items():
            part.training = training
    if codes[0] != codes[1]:
        raise _unsupported(path, "it does otherwise while training than in eval mode")
    # GraphModule compiles the source; whatever stands for the submodules there is not called.
    stand_ins = {str(node.target): nn.Identity() for node in graph.nodes if node.op in {"call_module", "get_attr"}}
    return type(fx.GraphModule(stand_ins, graph)).forward, wanted


class _Tracer(fx.Tracer):
    """Every submodule is a leaf."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True


def _traced(module: nn.Module, path: str, operands: Sequence[Operand]) -> tuple[fx.Graph, dict[str, str]]:
    """The module's forward with its operands called, and the ranges by attribute."""
    try:
        graph = _Tracer().trace(module)
    except Exception as error:  # whatever a forward does that can't be done with a stand-in for a tensor
        lines = str(error).splitlines() or [type(error).__name__]
        raise _unsupported(path, lines[0]) from error
    calls = {kind: [node for node in graph.nodes if _is_call(node, known)] for kind, known in OPERATORS.items()}
    wanted: dict[str, str] = {}
    for operand in operands:
        found = calls[operand.operator]
        if len(found) != operand.calls:
            raise _unsupported(path, f"it calls {operand.operator} {len(found)} times, the graph {operand.calls}")
        node = found[operand.call]
        attribute = f"_log_range_of_{operand.operator.lower()}{operand.call}_{operand.index}"
        wanted[attribute] = operand.range
        with graph.inserting_before(node):
            quantised = graph.create_node("call_module", attribute, (node.args[operand.index],))
        node.update_arg(operand.index, quantised)
    return graph, wanted


def _is_call(node: fx.Node, known: frozenset[Any]) -> bool:
    """Whether a node calls one of these operators with two tensors."""
    return (
        node.op in {"call_function", "call_method"}
        and node.target in known
        and len(node.args) == 2
        and all(isinstance(item, fx.Node) for item in node.args)
    )


def _unsupported(path: str, reason: str) -> UnsupportedError:
    return UnsupportedError(
        f"what '{path or 'the network'}' adds or multiplies can't be quantised while training: {reason}",
        "move that part into a module with a plain forward, or train without --qat",
    )
