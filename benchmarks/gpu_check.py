"""Everything that needs a GPU, in one offline run with one record. Started by scripts/gpu-check.

The record says what machine it was, what of tests/gpu passed, what TensorRT for RTX answers on this GPU, and the
figures. A part that could not run says why; nothing is left out in silence. The record is written after every part,
and a part that would outlast the time given is stopped, with what it had until then.
"""

import argparse
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.gpu_process import Clock, last_json, last_line, no_tests, parse_junit, parse_progress, run_for
from benchmarks.gpu_rtx import ENGINES
from engines.files import write_atomically
from engines.target import Target, detect
from toolkit.machine import describe

ROOT = Path(__file__).resolve().parent.parent
SCHEMA = "onnx-tensorrt-toolkit/gpu-check/1"
LIMIT = 560.0
"""Seconds for everything: hosts that are lent by the command give ten minutes."""

TESTS_SHARE = 0.5
"""Of the time, what the tests get at most when figures are to follow."""

FILE_LIMIT = 200.0
"""Seconds for one file of tests, several times what it takes: one that hangs leaves the others their time."""

ANSWER_LIMIT = 60.0
"""Seconds for one question to TensorRT for RTX: a tiny engine, built and run."""


def main(arguments: list[str] | None = None) -> int:
    """Run the parts asked for and write the record; 0 when every test passed, 1 when not, 2 without a GPU."""
    parser = argparse.ArgumentParser(prog="scripts/gpu-check", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--output", type=Path, help="the record's file; default benchmarks/results/gpu-NAME-DATE.json"
    )
    parser.add_argument("--seconds", type=float, default=1.0, help="timed running of each row (default 1)")
    parser.add_argument("--limit", type=float, default=LIMIT, help=f"seconds for everything (default {LIMIT:.0f})")
    parser.add_argument("--commit", help="the checkout's commit, for a copy of it that git can't tell")
    parser.add_argument("--only", choices=("tests", "rtx", "figures"), action="append", help="run only this part")
    options = parser.parse_args(arguments)
    parts = options.only or ["tests", "rtx", "figures"]
    target = detect()
    if not target.gpus:
        print("error: no NVIDIA GPU answers on this machine\n  try: run it on a GPU host", file=sys.stderr)
        return 2
    started = time.monotonic()
    path = options.output or _default_path(target.gpus[0].name)
    path.parent.mkdir(parents=True, exist_ok=True)
    record = _described(target, arguments, options.commit)

    def keep(**part: Any) -> None:
        record.update(without_folders(part))
        record["seconds"] = round(time.monotonic() - started, 1)
        write_atomically(path, json.dumps(record, indent=1) + "\n")

    with tempfile.TemporaryDirectory() as folder:
        _present_as_installed(Path(folder))
        _run_parts(parts, target, options.seconds, Clock(options.limit), keep)
    for line in summary(record):
        print(line)
    print(f"record: {path}")
    tests = record["tests"]
    return 0 if tests == "not run" or (tests["failed"] == 0 and tests["passed"] > 0) else 1


def _described(target: Target, arguments: list[str] | None, commit: str | None) -> dict[str, Any]:
    """The record before anything has run."""
    record: dict[str, Any] = {
        "schema": SCHEMA,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(["scripts/gpu-check", *(sys.argv[1:] if arguments is None else arguments)]),
        "commit": _commit() or commit,
        "machine": describe().to_json(),
        "target": target.to_json(),
        "tests": "not run",
        "tensorrt_for_rtx": "not run",
        "figures": "not run",
    }
    cleaned: dict[str, Any] = without_folders(record)
    return cleaned


def _run_parts(parts: list[str], target: Target, seconds: float, clock: Clock, keep: Callable[..., None]) -> None:
    """Run the parts in order; ``keep`` is given what is known after each step."""
    if "tests" in parts:
        share = Clock(clock.left() * TESTS_SHARE) if "figures" in parts else clock
        for tests in _tests(share):
            keep(tests=tests)
    if "rtx" in parts:
        keep(tensorrt_for_rtx=_rtx(target.libraries, clock))
    if "figures" in parts:
        keep(figures=_child("benchmarks.gpu_figures", str(seconds), limit=clock.left()))


def summary(record: dict[str, Any]) -> list[str]:
    """The record in lines for people."""
    lines = []
    tests = record["tests"]
    if tests != "not run":
        lines.append(f"tests: {tests['passed']} passed, {tests['failed']} failed, {tests['skipped']} skipped")
        lines += [f"  failed: {case['name']}: {case['reason']}" for case in tests["failures"]]
        lines += [f"  skipped {count}: {reason}" for reason, count in tests["skips"].items()]
    if record["tensorrt_for_rtx"] != "not run":
        for answer in record["tensorrt_for_rtx"]:
            lines.append(
                f"TensorRT for RTX, {answer['engine']} engine: {answer['outcome']} {answer.get('reason', '')}"
            )
    figures = record["figures"]
    if figures == "not run":
        return lines
    if "not_measured" in figures:
        return [*lines, f"figures: not measured: {figures['not_measured']}"]
    if "problem" in figures:
        lines.append(f"figures: not complete: {figures['problem']}")
    for row in figures["rows"]:
        cells = (
            f"{batch}: {timing['images_per_second']:.0f}/s" if "runs" in timing else f"{batch}: not measured"
            for batch, timing in row["batches"].items()
        )
        reasons = {timing["not_measured"] for timing in row["batches"].values() if "not_measured" in timing}
        lines.append(f"{row['name']:45} {'  '.join(cells)} {'; '.join(sorted(filter(None, reasons)))}")
    for goal in figures.get("goals", ()):
        bound = f">= {goal['at_least']}" if "at_least" in goal else f"<= {goal['at_most']}"
        ratios = "  ".join(f"{batch}: {ratio}" for batch, ratio in goal["ratios"].items())
        lines.append(f"{goal['what']} ({bound}): {ratios}; met at {', '.join(goal['met']) or 'none'}")
    return lines


def _tests(clock: Clock) -> Iterator[dict[str, Any]]:
    """Each file of tests/gpu in a process of its own: a fault in one library leaves the others their say.

    Yields:
        The counts after every file.
    """
    total = no_tests()
    for file in sorted((ROOT / "tests" / "gpu").glob("test_*.py")):
        result = _test_file(file, clock.left(FILE_LIMIT))
        for key, value in result.items():
            if key == "skips":
                for reason, count in value.items():
                    total[key][reason] = total[key].get(reason, 0) + count
            elif isinstance(value, dict):
                total[key] |= value
            else:
                total[key] += value
        yield total


def _test_file(file: Path, limit: float) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "junit.xml")
        # The host's own pytest plugins and the warnings of its versions are not what is tested here.
        command = [
            sys.executable, "-m", "pytest", str(file.relative_to(ROOT)), "-v", f"--junitxml={report}",
            "-p", "no:cacheprovider", "-o", "filterwarnings=default",
        ]  # fmt: skip
        environment = _environment() | {"TOOLKIT_GPU_REQUIRED": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
        done = run_for(command, limit, folder=ROOT, environment=environment)
        if report.exists() and report.stat().st_size:
            return parse_junit(report.read_text())
    return parse_progress(done.output, f"{file.name} {done.problem or last_line(done.output)}")


def _rtx(libraries: Any, clock: Clock) -> list[dict[str, Any]]:
    if "tensorrt-rtx" not in libraries:
        return [
            {"engine": engine, "outcome": "not asked", "reason": "tensorrt-rtx is not installed"}
            for engine in ENGINES
        ]
    answers = []
    for engine in ENGINES:
        answer = _child("benchmarks.gpu_rtx", engine, limit=clock.left(ANSWER_LIMIT))
        if "not_measured" in answer:  # it died: a crash is an answer too
            answer = {"engine": engine, "outcome": "crashed", "reason": answer["not_measured"]}
        answers.append(answer)
    return answers


def _child(module: str, *arguments: str, limit: float) -> dict[str, Any]:
    """What a module prints as JSON on its last line, from a process of its own; ``problem`` says how it died."""
    done = run_for([sys.executable, "-m", module, *arguments], limit, folder=ROOT, environment=_environment())
    value = last_json(done.output)
    if value is None:
        return {"not_measured": f"{module} {done.problem or 'gave no answer'}"}
    return value | ({"problem": f"{module} {done.problem}"} if done.problem else {})


def without_folders(value: Any) -> Any:
    """A record's value with every absolute path in its texts cut to the file's name: a record is published."""
    if isinstance(value, dict):
        return {without_folders(key): without_folders(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_folders(item) for item in value]
    return re.sub(r"(?<![\w/:])/(?:[\w.+@-]+/)+([\w.+@-]+)", r"\1", value) if isinstance(value, str) else value


def _environment() -> dict[str, str]:
    """The environment of the child processes: the checkout is importable without being installed."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH", ""))))
    return os.environ | {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}


def _present_as_installed(folder: Path) -> None:
    """Give the child processes the package metadata that an installation would have, where it has none."""
    try:
        importlib.metadata.version("onnx-tensorrt-toolkit")
    except importlib.metadata.PackageNotFoundError:
        version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
        info = folder / f"onnx_tensorrt_toolkit-{version}.dist-info"
        info.mkdir()
        text = f"Metadata-Version: 2.1\nName: onnx-tensorrt-toolkit\nVersion: {version}\n"
        (info / "METADATA").write_text(text)
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH", ""))))


def _commit() -> str | None:
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, timeout=20, check=False
        )
    except OSError:
        return None
    return done.stdout.strip() or None


def _default_path(gpu: str) -> Path:
    name = re.sub(r"[^a-z0-9]+", "-", gpu.lower().removeprefix("nvidia ")).strip("-")
    return ROOT / "benchmarks" / "results" / f"gpu-{name}-{datetime.now(UTC):%Y-%m-%d}.json"


if __name__ == "__main__":
    sys.exit(main())
