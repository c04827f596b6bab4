"""Modules again where tracing left operators: what the export knows how to write well is recognised by its class.

1. ``aten.adaptive_avg_pool2d`` becomes ``nn.AdaptiveAvgPool2d``.
2. PyTorch's own computation of local response normalisation, x / (k + α·avg(x²))^β with the average of a
   window over the channels (``avg_pool3d`` of a padded view), becomes ``nn.LocalResponseNorm``.
3. A node that uses a module's weight is said to be of that module where nothing says so, as after TorchScript.
"""

from typing import Any

import torch
from torch import fx, nn

_STACK = "nn_module_stack"
_NO_MODULE = "_empty_nn_module_stack_from_metadata_hook"


def recompose(module: fx.GraphModule) -> None:
    """Apply the rules above, in place; the module computes what it did."""
    for node in list(module.graph.nodes):
        if node.op != "call_function":
            continue
        if _is(node, "adaptive_avg_pool2d"):
            _replace(module, node, node.args[0], nn.AdaptiveAvgPool2d(_size(node.args[1])), "pool")
        elif _is(node, "div"):
            found = _normalisation(module, node)
            if found is not None:
                _replace(module, node, found[0], found[1], "norm")
    _name_by_weights(module)
    module.graph.eliminate_dead_code()
    module.delete_all_unused_submodules()
    module.recompile()


def _is(node: Any, *names: str) -> bool:
    return isinstance(node, fx.Node) and node.op == "call_function" and getattr(node.target, "_opname", "") in names


def _size(value: Any) -> tuple[int, int]:
    height, width = value
    return int(height), int(width)


def _normalisation(module: fx.GraphModule, div: Any) -> tuple[fx.Node, nn.LocalResponseNorm] | None:
    """The input and the module of a division that ends local response normalisation."""
    x: Any = div.args[0]
    power: Any = div.args[1]
    added: Any = power.args[0] if _is(power, "pow") else None
    scaled: Any = added.args[0] if _is(added, "add") else None
    if not isinstance(x, fx.Node) or not _is(scaled, "mul"):
        return None
    beta, k, alpha = (_number(module, part.args[1]) for part in (power, added, scaled))
    chain: Any = scaled.args[0]
    pool: Any = None
    pad: Any = None
    while _is(chain, "view", "reshape", "squeeze", "unsqueeze", "pad", "constant_pad_nd", "avg_pool3d"):
        pool = chain if _is(chain, "avg_pool3d") else pool
        pad = chain if _is(chain, "pad", "constant_pad_nd") else pad
        chain = chain.args[0]
    squared = _is(chain, "mul") and tuple(chain.args[:2]) == (x, x)
    if beta is None or k is None or alpha is None or pool is None or pad is None or not squared:
        return None
    window = [int(size) for size in pool.args[1]]
    stride = [int(step) for step in (pool.args[2] if len(pool.args) > 2 else window)]
    size = window[0]
    padded = [int(count) for count in pad.args[1]]
    if window[1:] != [1, 1] or stride != [1, 1, 1] or len(pool.args) > 3 or any(pad.args[3:]) or pad.kwargs:
        return None
    if padded[-2:] != [size // 2, (size - 1) // 2] or any(padded[:-2]):
        return None
    return x, nn.LocalResponseNorm(size, alpha, beta, k)


def _number(module: fx.GraphModule, value: Any) -> float | None:
    """A constant, as a number or as a tensor of one that tracing made of it."""
    if isinstance(value, int | float):
        return float(value)
    if isinstance(value, fx.Node) and value.op == "get_attr":
        found: Any = module
        for part in str(value.target).split("."):
            found = getattr(found, part)
        if isinstance(found, torch.Tensor) and found.numel() == 1:
            # As it was written: float32's 1e-4 would not be PyTorch's.
            return float(f"{float(found):.7g}") if found.dtype == torch.float32 else float(found)
    return None


def _replace(module: fx.GraphModule, node: fx.Node, x: Any, part: nn.Module, title: str) -> None:
    path = _path(node) or title
    while not _free(module, path):
        path += "_"
    module.add_submodule(path, part.eval())
    with module.graph.inserting_after(node):
        new = module.graph.call_module(path, (x,))
    new.meta = dict(node.meta)
    node.replace_all_uses_with(new)
    module.graph.erase_node(node)


def _free(module: fx.GraphModule, path: str) -> bool:
    """Whether nothing is called so."""
    found: Any = module
    for part in path.split("."):
        if not hasattr(found, part):
            return isinstance(found, nn.Module)
        found = getattr(found, part)
    return False


def _path(node: fx.Node) -> str:
    """The innermost module that a node is of; "" for none."""
    stack = node.meta.get(_STACK) or {}
    paths = [str(entry[0]) for entry in stack.values() if isinstance(entry, tuple) and entry]
    return "" if not paths or paths[-1] == _NO_MODULE else paths[-1]


def _name_by_weights(module: fx.GraphModule) -> None:
    for node in module.graph.nodes:
        if node.op not in {"call_function", "call_module"} or _path(node):
            continue
        weights = [str(arg.target) for arg in node.all_input_nodes if arg.op == "get_attr"]
        owners = {weight.rpartition(".")[0] for weight in weights}
        path = owners.pop() if len(owners) == 1 else ""
        node.meta[_STACK] = {"": ("", "Program"), **({path: (path, "Module")} if path else {})}
