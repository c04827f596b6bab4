"""The whole way on the embedded data set: train, export, verify, calibrate, build, compare.

Each stage prints the command that does the same by hand, then calls the function behind it.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from engines.errors import InputError
from engines.progress import QUIET, Progress

if TYPE_CHECKING:
    from toolkit.comparison.records.record import Comparison

LEAST_ACCURACY = 0.97
"""Test accuracy that the trained checkpoint must reach."""

MOST_LOST = 0.005
"""Accuracy that an INT8 engine or graph may lose against the checkpoint."""


@dataclass(frozen=True)
class Demo:
    """What the demo made and found.

    Attributes:
        comparison: every artifact's accuracy and speed.
        failures: what missed its bound; empty when all is well.
        seconds: of wall-clock time for the whole demo.
    """

    comparison: "Comparison"
    failures: tuple[str, ...]
    seconds: float


def run_demo(
    folder: Path, *, epochs: int | None = None, say: Callable[[str], None] = print, progress: Progress = QUIET
) -> Demo:
    """Run the whole way in ``folder``, replacing what an earlier demo left there.

    Args:
        folder: made if it doesn't exist; every artifact is written into it.
        epochs: of training; None takes the recipe's own number.
        say: told each line of the story.
        progress: told how far the long stages are.

    Raises:
        InputError: ``folder`` is a file, or can't be made.
    """
    from toolkit.steps.build import build_engine
    from toolkit.steps.calibrate import calibrate
    from toolkit.steps.compare import compare
    from toolkit.steps.export import export
    from toolkit.steps.train import train

    start = time.monotonic()
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"can't make the folder '{folder}': {error.strerror}", "choose another --output") from error
    checkpoint, graph = folder / "model.pt", folder / "model.onnx"

    def stage(title: str, command: str) -> None:
        say(f"\n{title}\n  $ toolkit {command}")

    stage(
        "1. Train an AlexNet on scikit-learn's handwritten digits at 224x224", f"train --data digits -o {checkpoint}"
    )
    trained = train("digits", checkpoint, epochs=epochs, force=True, resumable=False, progress=progress)
    say(f"  {trained.summary()}")

    stage("2. Export it to ONNX and verify the graph against PyTorch", f"export {checkpoint}")
    exported = export(checkpoint, data="digits", force=True, progress=progress)
    for line in exported.summary():
        say(f"  {line}")

    stage("3. Measure the ranges of its tensors on training images", f"calibrate {graph} --data digits")
    table = calibrate(graph, "digits", force=True, progress=progress)
    say(f"  {len(table.ranges)} ranges by {table.method} from {table.images} images")

    say("\n4. Build engines, and prove their precision on the engines themselves")
    for precision, backend in (
        ("fp16", "tensorrt-rtx"),
        ("int8", "tensorrt-rtx"),
        ("int8", "onnxruntime"),
    ):
        say(f"  $ toolkit build-engine {graph} --{precision} --backend {backend}")
        built = build_engine(graph, precision=precision, backend=backend, force=True, progress=progress)
        say(f"  {built.summary()}")

    artifacts = [
        checkpoint,
        graph,
        folder / "model.fp16.onnx",
        folder / "model.int8.onnx",
        folder / "model.int8.ort.onnx",
        folder / "model.fp16.rtx.engine",
        folder / "model.int8.rtx.engine",
    ]
    report = folder / "report.html"
    stage(
        "5. Compare accuracy and speed, each through the session that serves it",
        f"compare {' '.join(str(path) for path in artifacts)} --data digits --report {report}",
    )
    comparison = compare(artifacts, "digits", report=report, force=True, fresh=True, say=say, progress=progress)
    for verdict in comparison.verdicts:
        if verdict.kind == "recommended":
            say(f"  recommended: {verdict.subject or 'nothing'}: {verdict.text}")
    say(f"  the page to look at: {report}; every figure in it: {report.with_suffix('.json')}")
    return Demo(comparison, tuple(_failures(comparison)), time.monotonic() - start)


def _failures(comparison: "Comparison") -> list[str]:
    """What missed its bound."""
    reference = comparison.rows[0].accuracy
    if reference is None:
        return ["the checkpoint could not be evaluated"]
    failures = []
    top1 = reference.top1.rate
    if top1 < LEAST_ACCURACY:
        failures.append(f"the checkpoint reached {top1:.2%} on the test split, not {LEAST_ACCURACY:.0%}")
    for row in comparison.rows[1:]:
        if row.accuracy is None:
            if row.failure is None:
                failures.append(f"{row.name} was not evaluated")
        elif top1 - row.accuracy.top1.rate > MOST_LOST:
            failures.append(f"{row.name} lost {top1 - row.accuracy.top1.rate:.2%} of accuracy")
    return failures
