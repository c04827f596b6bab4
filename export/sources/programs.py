"""An exported program as a plain module: run at any batch size, copied to float64, traced once more.

1. It takes its inputs by position and answers a tensor or a dictionary by name, whatever structure it had.
2. What pins it to one type or shape is taken out: guards and assertions.
3. A batch that was baked in is freed where that can be proven: sizes of views that were the batch become the
   input's own, and every sample must give the same alone, among others and at the program's own batch size.
4. Adaptive pools and local response normalisation, of which tracing left operators, are modules again, which the
   export writes as it writes those of any network.
"""

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

from engines.answers import answers_of
from engines.errors import CheckpointError, InputError
from engines.tensors import TensorSpec
from export.signature import example, run_once
from export.sources.recompose import recompose

_DROPPED = ("_assert_tensor_metadata", "_assert_scalar", "sym_constrain_range")
_RESHAPES = ("view", "reshape", "expand", "_unsafe_view")
_TRAINING = {"batch_norm": 5, "dropout": 2, "native_dropout": 2, "_native_batch_norm_legit": 5, "alpha_dropout": 2}
"""Operators that compute otherwise in training, and the place of the argument that says so."""

BATCH = "batch"

_REMEDY = (
    "export it with a free batch: torch.export.export(model.eval(), (x,), dynamic_shapes={...: {0: Dim('batch')}})"
)


@dataclass(frozen=True)
class Program:
    """A program that was loaded.

    Attributes:
        module: takes ``inputs`` by position.
        inputs: batch first.
        notes: what to tell the user.
    """

    module: fx.GraphModule
    inputs: tuple[TensorSpec, ...]
    notes: tuple[str, ...] = ()


def plain(program: torch.export.ExportedProgram, name: str, *, title: str) -> Program:
    """Make a module of a program.

    Args:
        program: with its weights.
        name: what to call it in errors, e.g. its file.
        title: the class that the root of its layers is said to be.

    Raises:
        CheckpointError: it is in training mode, its batch is fixed, or it takes or gives something else than tensors.
    """
    options = {"check_guards": False} if "check_guards" in inspect.signature(program.module).parameters else {}
    try:
        raw = program.module(**options)
    except Exception as error:  # the unlifting of states that programs mutate fails in many ways
        raise CheckpointError(f"'{name}' can't be run: {error}", "export the network in eval mode") from error
    assert isinstance(raw, fx.GraphModule), "programs are graphs"  # noqa: S101
    graph = raw.graph
    graph.set_codegen(fx.graph.CodeGen())
    _drop(raw)
    _check_mode(graph, name)
    _answer(graph, program, name)
    specs, notes = _inputs(graph, program, name)
    module = fx.GraphModule(raw, graph, title)
    recompose(module)
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.is_floating_point():
            tensor.data = tensor.data.to("cpu", torch.float32)
    module.eval().requires_grad_(False)
    fixed = _fixed_batch(program)
    if fixed is not None:
        notes = (*notes, _free_batch(module, specs, fixed, name))
    return Program(module, specs, notes)


def _drop(module: fx.GraphModule) -> None:
    for node in reversed(list(module.graph.nodes)):
        guards = node.op == "call_module" and node.target == "_guards_fn"
        assertion = node.op == "call_function" and any(part in str(node.target) for part in _DROPPED)
        unused = node.op in {"get_attr", "call_function"} and "sym_size" in str(node.target) and not node.users
        if (guards or assertion or unused) and not node.users:
            module.graph.erase_node(node)
    if hasattr(module, "_guards_fn"):
        del module._guards_fn
    module.graph.eliminate_dead_code()


def _check_mode(graph: fx.Graph, name: str) -> None:
    for node in graph.nodes:
        kind = getattr(getattr(node.target, "_opname", None), "strip", str)()
        place = _TRAINING.get(kind)
        if place is not None and len(node.args) > place and node.args[place] is True:
            raise CheckpointError(
                f"'{name}' was exported in training mode: it has {kind} that trains",
                "call model.eval() before exporting it",
            )


def _answer(graph: fx.Graph, program: torch.export.ExportedProgram, name: str) -> None:
    """Let the graph answer one tensor, or a dictionary of several by name."""
    output = next(node for node in graph.nodes if node.op == "output")
    nodes: list[Any] = list(pytree.tree_leaves(output.args[0], is_leaf=lambda value: isinstance(value, fx.Node)))
    spec = program.call_spec.out_spec
    values = [node.meta.get("val") if isinstance(node, fx.Node) else node for node in nodes]
    try:
        answers = answers_of(values[0] if spec is None else pytree.tree_unflatten(values, spec))
    except (InputError, ValueError, TypeError) as error:
        raise CheckpointError(f"'{name}' gives something else than tensors: {error}", "export its tensors") from error
    tensors = [node for node, value in zip(nodes, values, strict=True) if isinstance(value, torch.Tensor)]
    named = dict(zip(answers, tensors, strict=True))
    output.args = (tensors[0] if list(answers) == ["output"] else named,)


def _inputs(
    graph: fx.Graph, program: torch.export.ExportedProgram, name: str
) -> tuple[tuple[TensorSpec, ...], tuple[str, ...]]:
    """What the program takes; a dimension that varies beside the batch is fixed to the example's size."""
    given = pytree.tree_leaves(program.example_inputs) if program.example_inputs is not None else []
    specs: list[TensorSpec] = []
    loose: list[str] = []
    for place, node in enumerate([node for node in graph.nodes if node.op == "placeholder"]):
        value = node.meta.get("val")
        if not isinstance(value, torch.Tensor):
            if node.users:
                raise CheckpointError(f"'{name}' takes {node.name}, which is no tensor", "export it without that")
            graph.erase_node(node)
            continue
        if not value.ndim:
            raise CheckpointError(f"the input {node.name} of '{name}' has no batch", _REMEDY)
        sizes: list[int] = []
        for axis, size in enumerate(list(value.shape)[1:], 1):
            fixed: Any = size
            if not isinstance(fixed, int):
                fixed = given[place].shape[axis] if len(given) > place else None
                if not isinstance(fixed, int):
                    raise CheckpointError(f"the size of input {node.name} of '{name}' is open", "export it with one")
                loose.append(f"{node.name}[{axis}] = {fixed}")
            sizes.append(fixed)
        kind = "float32" if value.dtype == torch.float64 else str(value.dtype).removeprefix("torch.")
        specs.append(TensorSpec(str(node.target), kind, (BATCH, *sizes)))
    if not specs:
        raise CheckpointError(f"'{name}' takes nothing", "export a network that takes its inputs")
    note = (f"sizes that vary are fixed to the example's: {', '.join(loose)}",) if loose else ()
    return tuple(specs), note


def _fixed_batch(program: torch.export.ExportedProgram) -> int | None:
    """The batch that a program is fixed to; None for a free one."""
    users = set(program.graph_signature.user_inputs)
    for node in program.graph.nodes:
        value = node.meta.get("val") if node.op == "placeholder" and node.name in users else None
        if isinstance(value, torch.Tensor) and value.ndim and isinstance(value.shape[0], int):
            return int(value.shape[0])
    return None


def _free_batch(module: fx.GraphModule, specs: tuple[TensorSpec, ...], batch: int, name: str) -> str:
    """Free a batch that was baked in, and prove it; raises CheckpointError where it can't be."""
    before = run_once(module, example(specs, batch, seed=2))
    graph = module.graph
    first = next(node for node in graph.nodes if node.op == "placeholder")
    size = None
    for node in list(graph.nodes):
        kind = getattr(node.target, "_opname", "")
        sizes = node.args[1] if node.op == "call_function" and kind in _RESHAPES and len(node.args) > 1 else None
        if isinstance(sizes, list | tuple) and sizes and sizes[0] == batch:
            if size is None:
                with graph.inserting_after(first):
                    size = graph.call_function(torch.ops.aten.sym_size.int, (first, 0))
            node.args = (node.args[0], [size, *sizes[1:]], *node.args[2:])
    module.recompile()
    try:
        proven = _same(run_once(module, example(specs, batch, seed=2)), before) and _independent(module, specs, batch)
        reason = "it gives a sample another answer among others"
    except (InputError, RuntimeError) as error:
        proven, reason = False, error.cause if isinstance(error, InputError) else str(error)
    if not proven:
        raise CheckpointError(f"'{name}' has a fixed batch of {batch}, and can't do without: {reason}", _REMEDY)
    return f"its batch was fixed to {batch}, and is free now: each sample was seen to give the same alone"


def _independent(module: fx.GraphModule, specs: tuple[TensorSpec, ...], batch: int) -> bool:
    """Whether each sample gives the same alone, in a small batch and in the largest, up to rounding."""
    values = example(specs, max(batch, 5) + 2, seed=3)
    every = run_once(module, values)
    for size in sorted({1, 2, 3, batch}):
        part = run_once(module, tuple(value[:size] for value in values))
        if not _same(part, {key: value[:size] for key, value in every.items()}):
            return False
    return True


def _same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(
        value.shape == theirs[key].shape
        and torch.allclose(value.double(), theirs[key].double(), rtol=1e-4, atol=1e-5, equal_nan=True)
        for key, value in ours.items()
    )


def same_answers(module: nn.Module, other: nn.Module, specs: tuple[TensorSpec, ...], batch: int) -> bool:
    """Whether two modules answer random inputs alike, up to rounding."""
    values = example(specs, batch, seed=4)
    return _same(run_once(module, values), run_once(other, values))
