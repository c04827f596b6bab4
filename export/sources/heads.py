"""What a network takes and gives, where nothing says so: found by running it, and by what the user says.

1. It takes what ``--input`` lists, else one batch of pictures.
2. Of several outputs the one called ``logits`` is taken, as Hugging Face's classifiers have it; ``--outputs``
   chooses others. A network of pictures that gives one float [batch, classes] is a classifier.
3. Scores that are positive and add up to one for every random input are probabilities, others logits.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from engines.answers import answers_of
from engines.errors import CheckpointError, InputError
from engines.metadata import ModelMetadata, Scores
from engines.preprocess import Preprocess
from engines.tensors import TensorSpec
from export.signature import example, outputs_of, run_once
from export.sources.description import Description, assumed, metadata_of

SCORES = ("logits", "probabilities")


@dataclass(frozen=True)
class Described:
    """A network and what is known of it.

    Attributes:
        module: answers ``metadata.given`` in its order.
        metadata: without origin.
        notes: what to tell the user.
    """

    module: nn.Module
    metadata: ModelMetadata
    notes: tuple[str, ...] = ()


def describe(
    module: nn.Module,
    name: str,
    description: Description,
    *,
    base: Preprocess,
    labels: Sequence[str] | None = None,
    classes: int | None = None,
    published: bool = False,
) -> Described:
    """Find out what a network takes and gives.

    Args:
        module: in FP32 on the CPU, in eval mode; it may be altered to give what was chosen of its outputs.
        name: what to call it.
        description: what the user says.
        base: how pictures become its input, where the user doesn't say.
        labels: its classes' names where they are known; they are dropped when there are others than the scores.
        classes: insist on that number.
        published: ``base`` is the network's own, no default.

    Raises:
        CheckpointError: it doesn't take its input, or gives something that can't be exported.
        InputError: what was said doesn't fit it.
    """
    pictures = None if description.inputs else description.pictures(base)
    taken = description.inputs or (_picture_spec(pictures),)
    _check_arguments(module, taken, name, said=bool(description.inputs))
    try:
        found = outputs_of(module, taken)
    except InputError as error:
        remedy = "give another --input-size or --channels, or its inputs with --input" if pictures else error.remedy
        raise CheckpointError(f"{name}: {error.cause}", remedy) from error
    chosen, notes = _chosen(found, description)
    scored = _scored(chosen, description, pictures is not None)
    if description.scores == "none" and description.labels:
        raise InputError("--labels are given for a network with --scores none", "leave one of the two out")
    if scored is None and description.labels:
        shapes = "; ".join(map(str, chosen))
        raise InputError(f"--labels are given, but {name} gives {shapes}, no [batch, classes]", "leave --labels out")
    plain = scored is not None and len(chosen) == 1
    # The answer must be the bare tensor of scores, or the chosen ones in their order.
    module = choose(module, tuple(spec.name for spec in chosen), bare=plain)
    scores, count = _scores(module, taken, scored, description)
    if classes is not None and scored is not None and classes != count:
        raise CheckpointError(
            f"{name} has {count} classes, not {classes}", f"give --classes {count}, or leave it out"
        )
    kept = labels if labels is not None and len(labels) == count else None
    if labels is not None and kept is None and scored is not None:
        notes.append(f"the {len(labels)} names of classes that are known of {name} don't fit its {count} scores")
    guessed = plain and scored is not None and scored.name not in SCORES
    if guessed and not description.labels and pictures is None and description.scores == "auto":
        notes.append(f"taken for a classifier of {count} classes: if it is none, give --scores none")
    metadata = metadata_of(
        replace(description, scores="auto"),
        name,
        classes=count,
        base=base,
        labels=kept,
        scores=scores,
        outputs=() if plain else chosen,
    )
    notes += assumed(metadata, description, labels=kept is not None, pictures=published)
    return Described(module, metadata, tuple(notes))


def choose(module: nn.Module, names: tuple[str, ...], *, bare: bool) -> nn.Module:
    """The module itself, altered to answer these of its outputs, in this order; a bare tensor where there is one."""
    if isinstance(module, torch.fx.GraphModule):
        return module if not names else _choose_in_graph(module, names, bare=bare)
    kind = type(module)

    def forward(self: nn.Module, *arguments: Any, **options: Any) -> Any:
        answer = kind.forward(self, *arguments, **options)
        if bare and isinstance(answer, torch.Tensor):
            return answer
        found = answers_of(answer)
        return found[names[0]] if bare else {name: found[name] for name in names}

    forward.__signature__ = inspect.signature(kind.forward)  # type: ignore[attr-defined]
    # A class of its own, not a wrapper: the layers keep their names. And no attribute: copies must run their own.
    body = {"forward": forward, "__module__": kind.__module__, "__qualname__": kind.__qualname__}
    module.__class__ = type(kind.__name__, (kind,), body)
    return module


def _choose_in_graph(module: torch.fx.GraphModule, names: tuple[str, ...], *, bare: bool) -> nn.Module:
    node = next(node for node in module.graph.nodes if node.op == "output")
    answer: Any = node.args[0]
    found = answer if isinstance(answer, dict) else {"output": answer}
    node.args = (found[names[0]] if bare else {name: found[name] for name in names},)
    module.graph.eliminate_dead_code()
    module.recompile()
    return module


def _picture_spec(pictures: Preprocess | None) -> TensorSpec:
    assert pictures is not None, "there are pictures or inputs"  # noqa: S101
    return TensorSpec("input", "float32", ("batch", pictures.channels, pictures.height, pictures.width))


def _check_arguments(module: nn.Module, taken: Sequence[TensorSpec], name: str, *, said: bool) -> None:
    """Refuse inputs that the forward method doesn't take, by its signature: a swapped pair would go unnoticed."""
    forward: Callable[..., Any] = module.forward
    try:
        parameters = list(inspect.signature(forward).parameters.values())
    except (TypeError, ValueError):
        return
    placed = [p for p in parameters if p.kind in {p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD}]
    names = [parameter.name for parameter in placed]
    needed = [parameter.name for parameter in placed if parameter.default is parameter.empty]
    if len(needed) > len(taken):
        given = f"{len(taken)} are given" if said else "pictures are one"
        raise CheckpointError(
            f"{name} takes {len(needed)} inputs ({', '.join(needed)}), and {given}",
            "give each with --input NAME=SHAPE[:DTYPE], in this order, e.g. " + f"--input {needed[0]}=128:int64",
        )
    variable = any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters)
    if len(taken) > len(placed) and not variable:
        raise CheckpointError(
            f"{name} takes {len(placed)} inputs ({', '.join(names)}), and {len(taken)} are given",
            "give as many --input as its forward method takes",
        )
    for place, spec in enumerate(taken if said else ()):
        if spec.name in names and names.index(spec.name) != place:
            raise InputError(
                f"--input {spec.name} is number {place + 1}, in the forward method of {name} number "
                f"{names.index(spec.name) + 1}",
                f"give them in the order {', '.join(names[: len(taken)])}",
            )


def _chosen(found: tuple[TensorSpec, ...], description: Description) -> tuple[tuple[TensorSpec, ...], list[str]]:
    by_name = {spec.name: spec for spec in found}
    if description.outputs:
        if unknown := [name for name in description.outputs if name not in by_name]:
            raise InputError(f"there is no output '{unknown[0]}'", f"the network gives {'; '.join(map(str, found))}")
        return tuple(by_name[name] for name in description.outputs), []
    if len(found) > 1 and "logits" in by_name and description.scores != "none":
        others = ", ".join(name for name in by_name if name != "logits")
        return (by_name["logits"],), [f"'logits' is taken of its outputs, {others} left out: --outputs keeps them"]
    return found, []


def _scored(chosen: Sequence[TensorSpec], description: Description, pictures: bool) -> TensorSpec | None:
    """The output that holds scores of classes; None for a network that isn't a classifier."""
    if description.scores == "none":
        return None
    fits = [spec for spec in chosen if len(spec.shape) == 2 and spec.dtype.startswith(("float", "bfloat"))]
    named = [spec for spec in fits if spec.name in SCORES]
    asked = description.scores != "auto" or bool(description.labels)
    if asked and not fits:
        what = f"--scores {description.scores}" if description.scores != "auto" else "--labels"
        raise InputError(
            f"{what} is given, but the network gives {'; '.join(map(str, chosen))}, and no [batch, classes]",
            "give --scores none",
        )
    if len(chosen) > 1 and not asked and not named:
        return None
    # One number a sample is a value, no choice among classes, unless the user says otherwise.
    first = next(iter([*named, *fits]), None)
    return None if first is not None and first.shape[1] == 1 and not asked and not pictures else first


def _scores(
    module: nn.Module, taken: Sequence[TensorSpec], scored: TensorSpec | None, description: Description
) -> tuple[Scores, int]:
    if scored is None:
        return "none", 0
    count = int(scored.shape[1])
    if description.scores in SCORES:
        return description.scores, count  # type: ignore[return-value]
    values = run_once(module, tuple(x * 3 if x.is_floating_point() else x for x in example(taken, 8, seed=1)))
    rows = values[scored.name] if scored.name in values else next(iter(values.values()))
    sums = rows.double().sum(1)
    positive = bool((rows >= 0).all()) and count > 1
    return ("probabilities" if positive and bool((sums - 1).abs().max() < 1e-4) else "logits"), count
