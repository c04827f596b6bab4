"""A checkpoint: its network layer by layer, with output shapes, parameters and multiply-accumulates."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engines.optional import require
from engines.preprocess import Preprocess
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

if TYPE_CHECKING:
    from torch import Tensor, nn


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


def inspect_checkpoint(path: Path, *, trust_pickle: bool = False) -> Report:
    """Describe a checkpoint.

    Raises:
        CheckpointError: it is damaged or not recognised.
        MissingLibraryError: PyTorch is not installed.
    """
    require("torch", "Inspecting a checkpoint", "export")
    from export.checkpoint import load_checkpoint

    checkpoint = load_checkpoint(path, trust_pickle=trust_pickle)
    metadata = checkpoint.metadata
    layers = layer_table(checkpoint.module, metadata.preprocess)
    parameters = sum(parameter.numel() for parameter in checkpoint.module.parameters())
    macs = sum(layer.macs for layer in layers)
    found = "recognised by its keys and shapes" if checkpoint.recognised else "stored in the checkpoint"
    facts = Facts(
        "checkpoint",
        (
            ("file", str(path)),
            ("size", size_text(path.stat().st_size)),
            ("architecture", f"{metadata.architecture} ({found})"),
            ("parameters", count_text(parameters)),
            ("multiply-accumulates", f"{count_text(macs)} an image (convolutions and linear layers)"),
            ("weights", short_digest(checkpoint.digest)),
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
        ("total", "", "", count_text(parameters), count_text(macs)),
    )
    training = dict(checkpoint.training or {})
    sections: list[Facts | Table] = [facts, metadata_facts(metadata), table]
    if training:
        sections.append(Facts("training", tuple(flatten(training))))
    value = {
        "architecture": metadata.architecture,
        "recognised": checkpoint.recognised,
        "weights": checkpoint.digest,
        "parameters": parameters,
        "macs": macs,
        "layers": [asdict(row) for row in layers],
        "metadata": metadata.to_json(),
        "training": training or None,
    }
    return Report("checkpoint", path, tuple(sections), value)


def layer_table(module: "nn.Module", preprocess: Preprocess) -> list[LayerRow]:
    """Run one blank image through ``module`` and note what each leaf layer made of it.

    Multiply-accumulates are those of convolutions (output elements × kernel area × input channels
    a group) and linear layers (output elements × input features); other layers count as none.
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
        shape = (1, preprocess.channels, preprocess.height, preprocess.width)
        with torch.inference_mode():
            module.eval()(torch.zeros(shape, dtype=parameter.dtype, device=parameter.device))
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
