"""What tests of real builds share: a graph saved and built, and a listener that keeps what it is told."""

from pathlib import Path

import onnx

from engines.builders.options import BuildOptions
from engines.builders.tensorrt import BuiltPlan, build_plan


class Heard:
    """A listener that keeps what it is told."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.phases: list[object] = []
        self.steps = 0

    def begin(self, task: str, total: int | None = None, unit: str = "") -> None:
        self.events.append(f"begin {task} {total}{unit}")

    def advance(self, steps: int = 1, **facts: object) -> None:
        assert steps >= 0
        self.steps += steps
        if facts["phase"] not in self.phases:
            self.phases.append(facts["phase"])

    def end(self) -> None:
        self.events.append("end")


def saved(folder: Path, model: onnx.ModelProto, name: str = "model.onnx") -> Path:
    path = folder / name
    onnx.save(model, path)
    return path


def build(folder: Path, model: onnx.ModelProto, **options: object) -> BuiltPlan:
    return build_plan(saved(folder, model), "tensorrt-rtx", BuildOptions(**options))  # type: ignore[arg-type]
