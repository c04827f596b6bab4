"""``toolkit diff``: the gate for upgrades of TensorRT, driver, GPU or weights."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from engines.errors import CheckFailedError, InputError
from toolkit.cli import console
from toolkit.cli.compare import fixed_sizes
from toolkit.cli.describe import model_option
from toolkit.gate.limits import GATES, Limits
from toolkit.kinds import KINDS

Command = Callable[..., None]
_GATES = click.Choice(GATES)
_PERCENT = click.FloatRange(min=0)


def _limit(option: str, kind: "click.ParamType[Any]", text: str) -> "Callable[[Command], Command]":
    default = getattr(Limits, option.removeprefix("--").replace("-", "_"))
    return click.option(option, type=kind, metavar="N", default=default, show_default=True, help=text)


@click.command("diff")
@click.argument("old", metavar="OLD", type=click.Path())
@click.argument("new", metavar="[NEW]", required=False, type=click.Path())
@click.option("--data", required=True, metavar="DATA", help=f"{KINDS}.")
@click.option(
    "--baseline", metavar="FILE.npz", type=click.Path(path_type=Path), help="Keep what OLD answers, without NEW."
)
@_limit("--max-flips", _PERCENT, "Per cent of images with another top-1 class.")
@_limit("--max-confident-flips", click.IntRange(min=0), "Images that flipped against a margin above 0.5.")
@_limit("--max-drop", _PERCENT, "Points of top-1 accuracy lost.")
@_limit("--max-distance", _PERCENT, "How far logits move, against one step of every pixel.")
@_limit("--max-shift", _PERCENT, "How far they move one way, against the same.")
@_limit("--max-non-finite", click.IntRange(min=0), "Images that got NaN or infinity.")
@_limit("--max-widened", click.IntRange(min=0), "Layers that compute in a wider type.")
@_limit("--max-slowdown", _PERCENT, "Per cent more time at the smallest batch size.")
@_limit("--max-throughput-loss", _PERCENT, "Per cent fewer images a second at the largest batch size.")
@_limit("--max-growth", _PERCENT, "Per cent more bytes of file.")
@_limit("--max-memory-growth", _PERCENT, "Per cent more bytes of memory.")
@click.option(
    "--only", metavar="GATE", multiple=True, type=_GATES, help="Judge this gate alone; several times for several."
)
@click.option(
    "--skip", metavar="GATE", multiple=True, type=_GATES, help="Leave this gate out; several times for several."
)
@click.option("--strict", is_flag=True, help="What is too uncertain to tell has failed.")
@click.option("--images", type=click.IntRange(min=1), help="How many test images [all, or the baseline's].")
@click.option(
    "--seed", type=click.IntRange(min=0), help="Of images, disturbance and order of turns [0, or the baseline's]."
)
@click.option("--batch", callback=fixed_sizes, default="1,32", show_default=True, help="Batch sizes to time.")
@click.option(
    "--seconds", type=float, default=1.0, show_default=True, help="Timed running of each at each batch size."
)
@click.option(
    "--rounds", type=click.IntRange(min=1), default=40, show_default=True, help="Turns that it is cut into."
)
@click.option("--launches", type=click.IntRange(min=1), default=2, show_default=True, help="Starts of each process.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda:N.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads of each [the backend's choice].")
@click.option("--trust-pickle", is_flag=True, help="Load pickled modules; this runs their code.")
@model_option
@click.option("--junit", metavar="FILE.xml", type=click.Path(path_type=Path), help="Write a JUnit report.")
@click.option("--force", is_flag=True, help="Replace a baseline of another artifact.")
@click.option("--json", "as_json", is_flag=True, help="Print one object.")
def command(
    *,
    old: str,
    new: str | None,
    data: str,
    baseline: Path | None,
    junit: Path | None,
    force: bool,
    as_json: bool,
    batch: tuple[int, ...],
    **options: Any,
) -> None:
    """Hold NEW against OLD: may it take its place?

    Both answer the test images and take turns; each gate is held against its limit. Exit 1 when one fails. OLD may
    be what --baseline kept of an engine that can't run any more after the upgrade.

    The gates are run, tensors, precision, non-finite, logits, logits-shift, flips, confident-flips, accuracy,
    latency, throughput, size and memory.
    """
    options["batch_sizes"] = batch
    given = _given()
    if (new is None) == (baseline is None):
        raise InputError(
            "there is no new artifact" if new is None else "--baseline keeps the answers of one artifact",
            "give NEW to judge it, or --baseline FILE.npz to keep what OLD answers",
        )
    if idle := sorted(given - _KEPT if baseline is not None else given & {"force"}):
        what = "judges nothing" if baseline is not None else "is not given"
        option = "--" + idle[0].replace("_", "-")
        raise InputError(f"--baseline {what}, so that {option} would do nothing", f"leave {option} out")
    if baseline is not None:
        _keep(old, data, baseline, options, force=force, as_json=as_json)
        return
    if junit is not None and not junit.parent.is_dir():
        raise InputError(f"the folder '{junit.parent}' does not exist", "make it, or choose another --junit")
    if junit is not None and junit.is_dir():
        raise InputError(f"'{junit}' is a folder", "choose another --junit")
    from toolkit.gate.junit import write_junit
    from toolkit.gate.table import render
    from toolkit.steps.diff import diff

    with console.progress() as listener:
        found = diff(old, new or "", data, **options, progress=listener)
    if junit is not None:
        write_junit(found, junit)
    if as_json:
        console.emit_json(found.to_json())
    else:
        console.out(render(found, plain=not sys.stdout.isatty()))
    if not found.passed:
        raise CheckFailedError(found.what_broke(), found.remedy())


_TIMING = (
    "images", "seed", "batch_sizes", "seconds", "rounds", "launches", "device", "threads", "trust_pickle", "model",
)  # fmt: skip
_KEPT = {*_TIMING, "old", "new", "data", "baseline", "batch", "force", "as_json"}
"""Options that keeping a baseline has a use for."""


def _given() -> set[str]:
    """The options that stand on the command line."""
    context = click.get_current_context()
    written = click.core.ParameterSource.COMMANDLINE
    return {name for name in context.params if context.get_parameter_source(name) is written}


def _keep(old: str, data: str, path: Path, options: dict[str, Any], *, force: bool, as_json: bool) -> None:
    from toolkit.steps.diff import keep_baseline

    given = {name: options[name] for name in _TIMING} | {"seed": options["seed"] or 0}
    with console.progress() as listener:
        about = keep_baseline(old, data, path, **given, force=force, progress=listener)
    for warning in about.warnings:
        console.note(f"warning: {warning}")
    if as_json:
        console.emit_json({"baseline": str(path), **about.to_json()})
    else:
        images, classes = about.data.images, len(about.metadata.labels)
        console.out(
            f"{path}: what {about.row.name} answers to {images} images of {about.data.name}, {classes} classes"
        )
        console.out(f"after the upgrade: toolkit diff {path} NEW --data {data}")
