"""A checkpoint: its network layer by layer, with output shapes, parameters and multiply-accumulates.

What is counted is what runs when the network is evaluated, which is what is exported. Parts that only training runs
(GoogLeNet's auxiliary heads) are named apart.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engines.optional import require
from engines.preprocess import Preprocess
from engines.tensors import TensorSpec
from toolkit.inspection.report import (
    Facts,
    Report,
    Table,
    count_text,
    flatten,
    metadata_facts,
    short_digest,
    size_text,
)
from toolkit.loading import metadata_beside

if TYPE_CHECKING:
    from torch import Tensor, nn

    from export.checkpoint import Checkpoint


@dataclass(frozen=True)
class LayerRow:
    """One layer, in the order in which it first ran.

    Attributes:
        name: the module's path ("features.0").
        kind: its class ("Conv2d").
        output: its output's shape for one image, without the batch dimension.
        parameters: its own; those that an earlier row has are not counted again.
        macs: multiply-accumulates for one image.
    """

    name: str
    kind: str
    output: tuple[int, ...]
    parameters: int
    macs: int


def inspect_checkpoint(path: Path, *, trust_pickle: bool = False, model: str | None = None) -> Report:
    """Describe a checkpoint.

    Raises:
        CheckpointError: it is damaged or not recognised.
        MissingLibraryError: PyTorch is not installed.
    """
    torch = require("torch", "Inspecting a checkpoint", "export")
    from export.checkpoint import load_checkpoint
    from export.sources.safetensors import header_notes

    checkpoint = load_checkpoint(path, trust_pickle=trust_pickle, model=model, known=metadata_beside(path))
    metadata = checkpoint.metadata
    module = checkpoint.module
    # A program's convolutions are operators of its graph, and no layers.
    program = isinstance(module, torch.fx.GraphModule)
    takes = metadata.pictures or metadata.taken
    layers = [] if program else layer_table(module, takes)
    dropped = training_only(module, metadata.architecture)
    parameters = sum(parameter.numel() for parameter in module.parameters()) - sum(dropped.values())
    macs = counted_macs(module, takes) if program else sum(layer.macs for layer in layers) if layers else None
    found = _origin(checkpoint, model)
    facts = Facts(
        "checkpoint",
        (
            ("file", str(path)),
            ("size", size_text(path.stat().st_size)),
            ("architecture", f"{metadata.architecture} ({found})"),
            ("parameters", count_text(parameters)),
            *_dropped_facts(dropped),
            ("multiply-accumulates", _macs_text(macs)),
            ("weights", short_digest(checkpoint.digest)),
            *(("note", note) for note in checkpoint.notes),
            *((f"header: {key}", text) for key, text in header_notes(path).items()),
        ),
    )
    table = Table(
        "layers",
        ("layer", "type", "output", "parameters", "multiply-accumulates"),
        tuple(
            (row.name, row.kind, "×".join(map(str, row.output)), count_text(row.parameters), count_text(row.macs))
            for row in layers
        ),
        frozenset({3, 4}),
        ("total", "", "", count_text(parameters), "" if macs is None else count_text(macs)),
    )
    training = dict(checkpoint.training or {})
    sections: list[Facts | Table] = [facts, metadata_facts(metadata), *([table] if layers else [])]
    if training:
        told = {key: learned_ranges(item) if key == "calibration" else item for key, item in training.items()}
        sections.append(Facts("training", tuple(flatten(told))))
    value = {
        "architecture": metadata.architecture,
        "recognised": checkpoint.recognised,
        "weights": checkpoint.digest,
        "parameters": parameters,
        "training_only": dropped,
        "macs": macs,
        "layers": [asdict(row) for row in layers],
        "metadata": metadata.to_json(),
        "training": training or None,
    }
    return Report("checkpoint", path, tuple(sections), value)


def _origin(checkpoint: "Checkpoint", model: str | None) -> str:
    """Where the architecture is known from."""
    if checkpoint.own_code:
        return f"the code of --model {model}"
    if checkpoint.recognised:
        return "recognised by its keys and shapes"
    return "stored in the checkpoint" if checkpoint.carries_metadata else "its own code, in the file"


def learned_ranges(table: Any) -> str:
    """A line about the calibration table that quantisation-aware training keeps in its record."""
    from calibration.table import CalibrationTable

    return CalibrationTable.from_json(table, "the checkpoint's calibration table").summary()


def training_only(module: "nn.Module", architecture: str) -> dict[str, int]:
    """The parts of a network that only training runs, and how many parameters each has."""
    from export.models.registry import ARCHITECTURES

    spec = ARCHITECTURES.get(architecture)
    parts = {name: getattr(module, name, None) for name in (spec.training_only if spec else ())}
    return {name: sum(parameter.numel() for parameter in part.parameters()) for name, part in parts.items() if part}


def _dropped_facts(dropped: Mapping[str, int]) -> list[tuple[str, str]]:
    if not dropped:
        return []
    return [
        (
            "training only",
            f"{count_text(sum(dropped.values()))} parameters more in {' and '.join(dropped)}, which export drops",
        )
    ]


def _macs_text(macs: int | None) -> str:
    if macs is None:
        return "unknown: the network's layers can't be watched"
    return f"{count_text(macs)} an image (convolutions and linear layers)"


def layer_table(module: "nn.Module", takes: Preprocess | Sequence[TensorSpec]) -> list[LayerRow]:
    """Run one blank image through ``module`` and note what each leaf layer made of it.

    Multiply-accumulates are those of convolutions (output elements × kernel area × input channels
    a group) and linear layers (output elements × input features); other layers count as none.

    Args:
        module: the network, on any device; on the meta device this costs nothing.
        takes: the preprocessing of its pictures, or the specs of its inputs, batch first.

    Returns:
        A row a layer that ran; none where the network's layers can't be watched.
    """
    torch = require("torch", "Inspecting a checkpoint", "export")
    rows: dict[str, tuple[str, tuple[int, ...], int]] = {}
    hooks = []

    def watch(name: str, layer: "nn.Module") -> Callable[..., None]:
        def hook(_: object, inputs: tuple["Tensor", ...], output: object) -> None:
            shape = tuple(output.shape[1:]) if isinstance(output, torch.Tensor) else ()
            before = rows[name][2] if name in rows else 0
            rows[name] = (type(layer).__name__, shape, before + _macs(layer, inputs, output))

        return hook

    layers = {name: layer for name, layer in module.named_modules() if not any(layer.children())}
    try:
        for name, layer in layers.items():
            hooks.append(layer.register_forward_hook(watch(name, layer)))
        parameter = next(module.parameters(), torch.zeros(0))
        with torch.inference_mode():
            module.eval()(*_one_sample(takes, parameter))
    finally:
        for handle in hooks:
            handle.remove()
    counted: set[int] = set()
    result = []
    for name, (kind, output, macs) in rows.items():
        own = [p for p in layers[name].parameters() if id(p) not in counted]
        counted.update(map(id, own))
        result.append(LayerRow(name or "(the module)", kind, output, sum(p.numel() for p in own), macs))
    return result


def counted_macs(module: "nn.Module", takes: Preprocess | Sequence[TensorSpec]) -> int:
    """Multiply-accumulates of the convolutions and linear layers of a network that runs as one graph, for one image.

    They are half the operations that PyTorch counts of its own operators.
    """
    torch = require("torch", "Inspecting a checkpoint", "export")
    from torch.utils.flop_counter import FlopCounterMode

    parameter = next(module.parameters(), torch.zeros(0))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module.eval()(*_one_sample(takes, parameter))
    counts = counter.get_flop_counts().get("Global", {})
    linear = ("aten.convolution", "aten.addmm", "aten.mm", "aten.bmm", "aten.baddbmm")
    return sum(int(count) for operator, count in counts.items() if str(operator) in linear) // 2


def _one_sample(takes: Preprocess | Sequence[TensorSpec], like: "Tensor") -> "tuple[Tensor, ...]":
    import torch

    if isinstance(takes, Preprocess):
        shape = (1, takes.channels, takes.height, takes.width)
        return (torch.zeros(shape, dtype=like.dtype, device=like.device),)
    from export.signature import example

    return tuple(value.to(like.device) for value in example(takes, 1))


def _macs(layer: "nn.Module", inputs: tuple["Tensor", ...], output: Any) -> int:
    """Multiply-accumulates of one call for one image."""
    from torch import nn

    if isinstance(layer, nn.Linear):
        return int(output[0].numel()) * layer.in_features
    if isinstance(layer, nn.modules.conv._ConvTransposeNd):
        return int(inputs[0][0].numel()) * layer.weight[0].numel()  # weight[0]: [out / groups, *kernel]
    if isinstance(layer, nn.modules.conv._ConvNd):
        return int(output[0].numel()) * layer.weight[0].numel()  # weight[0]: [in / groups, *kernel]
    return 0
