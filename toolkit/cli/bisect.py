"""``toolkit bisect``: where two graphs of one network part."""

import math
import shlex
import sys
from typing import TYPE_CHECKING

import click

from toolkit.cli import console
from toolkit.kinds import KINDS

if TYPE_CHECKING:
    from rich.console import RenderableType

    from calibration.bisection.record import Bisection


@click.command("bisect")
@click.argument("first", metavar="A.onnx", type=click.Path())
@click.argument("second", metavar="B", type=click.Path())
@click.option(
    "--data",
    required=True,
    metavar="DATA",
    help=f"{KINDS}: images of its train split.",
)
@click.option("--images", type=click.IntRange(min=1), default=64, show_default=True, help="How many images.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the choice of images.")
@click.option("--batch-size", type=click.IntRange(min=1), default=8, show_default=True, help="Images a run.")
@click.option("--device", default="auto", show_default=True, help="Of B's backend: auto, cpu, cuda:N, openvino:GPU.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads [all cores].")
@click.option("--no-mend", is_flag=True, help="Don't look for the layers to keep wide.")
@click.option("--output", "-o", type=click.Path(), metavar="FILE.json", help="Write the figures to a file too.")
@click.option("--force", is_flag=True, help="Replace an output that was made from another graph.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def command(
    *,
    first: str,
    second: str,
    data: str,
    images: int,
    seed: int,
    batch_size: int,
    device: str,
    threads: int | None,
    no_mend: bool,
    output: str | None,
    force: bool,
    as_json: bool,
) -> int:
    """Find the layer at which B parts from graph A.

    A is mostly the FP32 master graph, B a typed graph made from it, or another export of the network. Both run in
    ONNX Runtime as written. B may also run in another backend, with its tensors marked as outputs: write
    GRAPH.onnx@openvino, or give an engine, whose typed graph is found beside it. Each layer's own error, with A's
    values as its input, is held against what B's types must cost that layer. Exit 1 where a layer is over that
    floor: it is named, with the layers to keep wide.
    """
    from toolkit.steps.bisect import bisect

    with console.progress() as listener:
        found = bisect(
            first,
            second,
            data,
            images=images,
            seed=seed,
            mend=not no_mend,
            output=output,
            batch_size=batch_size,
            device=device,
            threads=threads,
            force=force,
            progress=listener,
            on_note=lambda line: console.note(f"note: {line}"),
        )
    if as_json:
        console.emit_json(found.to_json())
    else:
        console.out(_table(found, plain=not sys.stdout.isatty()))
        console.out("\n".join(_summary(found)))
    if output is not None:
        console.note(f"written to {output}")
    return 1 if found.first is not None else 0


def _table(found: "Bisection", *, plain: bool) -> "RenderableType":
    from rich.text import Text

    from toolkit.comparison.table import titled_table

    table = titled_table(f"Signal to noise in dB, layer by layer, on {found.images} images", plain=plain)
    for name in ("module", "node"):
        table.add_column(name, overflow="fold")
    for name in ("operator", "type"):
        table.add_column(name, no_wrap=True)
    for name in ("cumulative", "own", "floor"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", overflow="fold")
    for layer in found.layers:
        floor = _decibels(layer.floor_db) + ("" if layer.exact else "?")
        figures = (_decibels(layer.cumulative_db), _decibels(layer.own_db), floor)
        reason = f"OVER: {layer.reason}" if layer.over else layer.reason
        table.add_row(Text(layer.module or "-"), Text(layer.node), layer.op, layer.dtype, *figures, Text(reason))
    return table


def _summary(found: "Bisection") -> list[str]:
    logits, types = found.logits, found.types
    flips = f"{logits.flips} of {found.images} labels differ"
    both = f"{_decibels(logits.sqnr_db)} dB, {flips}; the types alone leave {_decibels(types.sqnr_db)} dB"
    lines = [found.verdict(), f"logits: {both}"]
    if found.elsewhere is not None:
        moved = _decibels(found.elsewhere.marked.sqnr_db)
        lines.append(
            f"B ran in {found.elsewhere.backend}; tensors marked as outputs may change what it fuses: its logits with"
            f" and without marks are {'equal' if moved == 'equal' else f'{moved} dB apart'}"
        )
    if found.misled:
        lines.append("that is far more than B differs from A: cumulative errors are not those of B without marks")
    if found.equalised:
        lines.append("channels of B are equalised by powers of two: undone for the comparison")
    if any(not layer.exact for layer in found.layers):
        lines.append("?: A's weights aren't found in B's types there, so the floor is assumed, not measured")
    if found.unmatched:
        lines.append(f"without a partner in A, not judged: {', '.join(found.unmatched)}")
    if found.mending is not None:
        reached = found.mending.reached
        flips = f"{reached.flips} of {found.images} labels differ"
        lines.append(f"with {_kept(found)} as in A: {_decibels(reached.sqnr_db)} dB, {flips}")
    elif not found.within_reach:
        lines.append(f"no layers were found that bring the logits to {found.reach_db:.1f} dB")
    return lines


def _kept(found: "Bisection") -> str:
    """The layers that mend it: as options of `toolkit build-engine` where that can keep them back."""
    from calibration.bisection.mend import KEPT

    names = () if found.mending is None else found.mending.keep
    operators = {name: layer.op for layer in found.layers for name in (layer.node, *layer.others)}
    quantised = any(layer.dtype in {"int8", "fp8"} for layer in found.layers)
    options = [name for name in names if quantised and operators[name] in KEPT]
    others = [name for name in names if name not in options]
    flags = " ".join(f"--keep {shlex.quote(name)}" for name in options)
    return " and ".join([*([flags] if flags else []), *others])


def _decibels(value: float) -> str:
    return f"{value:.1f}" if math.isfinite(value) else "equal" if value > 0 else "-inf"
