"""``--model``: a network from people's own code, or by its name from a library, and weights laid into it.

1. ``package.module:name`` or ``file.py:name``, optionally with keyword arguments that are literals:
   ``net.py:Net(width=2, act='relu')``. ``torchvision:name`` and ``timm:name`` are those libraries' networks
   (:mod:`export.sources.zoo`). Nothing of it runs without being asked for by this option.
2. A class or function is called with those arguments; where it takes ``num_classes`` or ``classes`` and none is
   given, it gets ``--classes``, else the number of rows of the state dict's last weight, and when that doesn't
   fit, nothing. What is an ``nn.Module`` already is taken as it is.
3. Weights must fit by key and shape, apart from prefixes that wrapping leaves and counters of batch
   normalisation; otherwise every difference is told.
"""

import ast
import difflib
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from engines.errors import CheckpointError, InputError
from engines.preprocess import Preprocess
from export.sources import zoo
from export.sources.code import blamed, load_file, load_module
from export.state_dicts import State, canonical, difference, renamed, strip_prefixes

COUNTS = ("num_classes", "classes")
"""Arguments that say how many classes a network has."""

_SPEC = re.compile(r"(?P<source>.+?):(?P<name>[A-Za-z_][\w.]*)(?P<arguments>\(.*\))?", re.DOTALL)


@dataclass(frozen=True)
class Spec:
    """What ``--model`` says.

    Attributes:
        source: a file that ends in ``.py``, or a module's name.
        name: the attribute there.
        arguments: keyword arguments as they were written, with their brackets; "" for none.
        values: the same as values.
    """

    source: str
    name: str
    arguments: str
    values: Mapping[str, Any]

    def __str__(self) -> str:
        """As metadata names the network: without the folder of a file."""
        source = Path(self.source).name if self.source.endswith(".py") else self.source
        return f"{source}:{self.name}{self.arguments}"


@dataclass(frozen=True)
class Built:
    """A network made from its code.

    Attributes:
        module: in FP32 on the CPU, in eval mode.
        name: what metadata calls it.
        preprocess: its library's own, where that has it.
        labels: likewise.
        notes: what to tell the user.
    """

    module: nn.Module
    name: str
    preprocess: Preprocess | None = None
    labels: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()


def is_spec(architecture: str) -> bool:
    """Whether metadata's ``architecture`` names people's own code."""
    return _SPEC.fullmatch(architecture) is not None and " " not in architecture.partition(":")[0]


def read_spec(text: str) -> Spec:
    """Take ``--model`` apart.

    Raises:
        InputError: it isn't written so, or an argument isn't a literal with a name.
    """
    match = _SPEC.fullmatch(text.strip())
    if match is None:
        raise InputError(
            f"--model '{text}' names no network", "write FILE.py:NAME, package.module:NAME or torchvision:NAME"
        )
    arguments = match["arguments"] or ""
    try:
        call = ast.parse(f"f{arguments or '()'}", mode="eval").body
        if not isinstance(call, ast.Call) or call.args or any(word.arg is None for word in call.keywords):
            raise ValueError("arguments must have names")
        values = {str(word.arg): ast.literal_eval(word.value) for word in call.keywords}
    except (ValueError, SyntaxError) as error:
        raise InputError(
            f"the arguments of --model '{text}' can't be read",
            "write literals with names, e.g. net.py:Net(width=2, act='relu')",
        ) from error
    return Spec(match["source"], match["name"], arguments, values)


def build(text: str, *, classes: int | None = None, state: State | None = None, name: str = "") -> Built:
    """Make a network, and lay weights into it.

    Args:
        text: what ``--model`` says.
        classes: how many classes it has, where it takes that.
        state: its weights; None for a factory that brings them.
        name: the file of the weights, for errors.

    Raises:
        InputError: the code can't be found, fails, or makes no network.
        CheckpointError: the weights aren't those of this network, or hold NaN.
    """
    spec = read_spec(text)
    known = zoo.find(spec.source, spec.name)
    make = known.make if known is not None else _attribute(spec)
    guess = classes if classes is not None else None if state is None else _rows(state)
    takes = None if isinstance(make, nn.Module) or spec.values.keys() & set(COUNTS) else _count_argument(make)
    attempts: list[dict[str, Any]] = [{}]
    if takes is not None and guess is not None:
        attempts = [{takes: guess}] if classes is not None else [{takes: guess}, {}]
    problem: CheckpointError | InputError | None = None
    for extra in attempts:
        try:
            module = _made(make, spec, {**spec.values, **extra})
            if state is not None:
                _lay(module, state, str(spec), name)
        except (CheckpointError, InputError) as error:
            problem = problem or error
        else:
            break
    else:
        assert problem is not None, "there is an attempt"  # noqa: S101
        raise problem
    if state is None:
        canonical(dict(module.state_dict()), str(spec))  # refuses NaN and quantised tensors
    module = module.to("cpu").float().eval().requires_grad_(False)
    if known is None:
        return Built(module, str(spec))
    facts = known.facts(module)
    return Built(module, str(spec), facts.preprocess, facts.labels, facts.notes)


def _attribute(spec: Spec) -> Any:
    if "/" in spec.source or spec.source.endswith(".py"):
        path = Path(spec.source).expanduser()
        if path.suffix != ".py":
            raise InputError(f"'{spec.source}' is neither a Python file nor a module", "give FILE.py:NAME")
        module, where = load_file(path), f"'{path}'"
    else:
        module, where = load_module(spec.source), f"the module '{spec.source}'"
    value: Any = module
    for part in spec.name.split("."):
        if not hasattr(value, part):
            near = difflib.get_close_matches(part, _networks(value), n=3, cutoff=0.5)
            listed = near or _networks(value)[:6]
            hint = f"it has {', '.join(listed)}" if listed else "it defines no class or function"
            raise InputError(f"{where} has no '{part}'", hint)
        value = getattr(value, part)
    return value


def _networks(owner: Any) -> list[str]:
    """Names of what a module itself defines that may make a network."""
    mine = getattr(owner, "__name__", None)
    return [
        name
        for name, value in vars(owner).items()
        if not name.startswith("_") and callable(value) and getattr(value, "__module__", None) in {mine, None}
    ]


def _count_argument(make: Callable[..., Any]) -> str | None:
    try:
        parameters = inspect.signature(make).parameters
    except (TypeError, ValueError):
        return None
    return next((name for name in COUNTS if name in parameters), None)


def _made(make: Any, spec: Spec, values: Mapping[str, Any]) -> nn.Module:
    if isinstance(make, nn.Module):
        if values:
            raise InputError(f"'{spec}' is a network already and takes no arguments", "leave the arguments out")
        return make
    if not callable(make):
        raise InputError(f"'{spec}' is a {type(make).__name__}, no class or function", "name what makes the network")
    try:
        inspect.signature(make).bind(**values)
    except TypeError as error:
        raise InputError(
            f"'{spec}' can't be called so: {error}",
            f"give the arguments in the option: --model '{spec.source}:{spec.name}(name=value)'",
        ) from error
    except ValueError:  # a callable without a signature
        pass
    with blamed(f"'{spec}' failed"), torch.random.fork_rng(devices=[]):
        made = make(**values)
    if not isinstance(made, nn.Module):
        raise InputError(f"'{spec}' returns a {type(made).__name__}, no torch.nn.Module", "let it return the network")
    return made


def _lay(module: nn.Module, state: State, spec: str, name: str) -> None:
    """Load weights that fit by key and shape, whatever wrapped them when they were saved."""
    expected: State = dict(module.state_dict())
    weights = canonical(renamed(state, expected), name, strip=False)
    lacking = [key for key in expected if key not in weights and not key.endswith("num_batches_tracked")]
    shapes = [key for key in expected if key in weights and weights[key].shape != expected[key].shape]
    if lacking or shapes or weights.keys() - expected.keys():
        told = difference(
            {key: tuple(value.shape) for key, value in expected.items()},
            {key: tuple(value.shape) for key, value in weights.items()},
        )
        raise CheckpointError(
            f"the weights in '{name}' are not those of {spec}: {told}",
            "give the class and the arguments that they were trained with",
        )
    with blamed(f"the weights in '{name}' can't be laid into {spec}"):
        module.load_state_dict(weights, strict=False)


def _rows(state: State) -> int | None:
    """The number of rows of the last matrix or bias: how many classes the network has, if that is its head."""
    last = [tensor for tensor in strip_prefixes(dict(state)).values() if tensor.is_floating_point() and tensor.ndim]
    return int(last[-1].shape[0]) if last and last[-1].ndim <= 2 else None
