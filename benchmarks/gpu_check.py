"""Everything that needs a GPU, in one offline run with one record. Started by scripts/gpu-check.

The record says what machine it was, what of tests/gpu passed, what TensorRT for RTX answers on this GPU, and the
figures. A part that could not run says why; nothing is left out in silence.
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
import xml.etree.ElementTree as ET
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.gpu_rtx import ENGINES
from engines.files import write_atomically
from engines.target import Target, detect
from toolkit.machine import describe

ROOT = Path(__file__).resolve().parent.parent
SCHEMA = "onnx-tensorrt-toolkit/gpu-check/1"


def main(arguments: list[str] | None = None) -> int:
    """Run the parts asked for and write the record; 0 when every test passed, 1 when not, 2 without a GPU."""
    parser = argparse.ArgumentParser(prog="scripts/gpu-check", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--output", type=Path, help="the record's file; default benchmarks/results/gpu-NAME-DATE.json"
    )
    parser.add_argument("--seconds", type=float, default=1.0, help="timed running of each row (default 1)")
    parser.add_argument("--only", choices=("tests", "rtx", "figures"), action="append", help="run only this part")
    options = parser.parse_args(arguments)
    parts = options.only or ["tests", "rtx", "figures"]
    target = detect()
    if not target.gpus:
        print("error: no NVIDIA GPU answers on this machine\n  try: run it on a GPU host", file=sys.stderr)
        return 2
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        _present_as_installed(Path(folder))
        record = _record(parts, target, options.seconds, arguments)
    record["seconds"] = round(time.monotonic() - started, 1)
    path = options.output or _default_path(target.gpus[0].name)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(record, indent=1) + "\n")
    for line in summary(record):
        print(line)
    print(f"record: {path}")
    tests = record["tests"]
    return 0 if tests == "not run" or (tests["failed"] == 0 and tests["passed"] > 0) else 1


def _record(parts: list[str], target: Target, seconds: float, arguments: list[str] | None) -> dict[str, Any]:
    record: dict[str, Any] = {
        "schema": SCHEMA,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(["scripts/gpu-check", *(sys.argv[1:] if arguments is None else arguments)]),
        "commit": _commit(),
        "machine": describe().to_json(),
        "target": target.to_json(),
        "tests": _tests() if "tests" in parts else "not run",
        "tensorrt_for_rtx": _rtx(target.libraries) if "rtx" in parts else "not run",
        "figures": _child("benchmarks.gpu_figures", str(seconds)) if "figures" in parts else "not run",
    }
    cleaned: dict[str, Any] = without_folders(record)
    return cleaned


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


def parse_junit(text: str) -> dict[str, Any]:
    """Counts, failures with their reasons, skips by reason and recorded properties, from pytest's JUnit XML."""
    result = _no_tests()
    for case in ET.fromstring(text).iter("testcase"):  # noqa: S314 - pytest's own file
        name = f"{case.get('classname', '').removeprefix('tests.gpu.')}::{case.get('name')}"
        bad = [child for child in case if child.tag in {"failure", "error", "skipped"}]
        result["properties"] |= {item.get("name"): item.get("value") for item in case.iter("property")}
        if not bad:
            result["passed"] += 1
            continue
        reason = " ".join((bad[0].get("message") or "").split())[:500]
        if bad[0].tag == "skipped":
            result["skipped"] += 1
            result["skips"][reason] = result["skips"].get(reason, 0) + 1
        else:
            result["failed"] += 1
            result["failures"].append({"name": name, "reason": reason})
    return result


def _no_tests() -> dict[str, Any]:
    return {"passed": 0, "failed": 0, "skipped": 0, "failures": [], "skips": {}, "properties": {}}


def _tests() -> dict[str, Any]:
    """Each file of tests/gpu in a process of its own: a fault in one library leaves the others their say."""
    total = _no_tests()
    for file in sorted((ROOT / "tests" / "gpu").glob("test_*.py")):
        result = _test_file(file)
        for key, value in result.items():
            if key == "skips":
                for reason, count in value.items():
                    total[key][reason] = total[key].get(reason, 0) + count
            elif isinstance(value, dict):
                total[key] |= value
            else:
                total[key] += value
    return total


def _test_file(file: Path) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "junit.xml")
        # The host's own pytest plugins and the warnings of its versions are not what is tested here.
        command = [
            sys.executable, "-m", "pytest", str(file.relative_to(ROOT)), "-q", f"--junitxml={report}",
            "-p", "no:cacheprovider", "-o", "filterwarnings=default",
        ]  # fmt: skip
        environment = _environment() | {"TOOLKIT_GPU_REQUIRED": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
        try:
            done = subprocess.run(
                command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False
            )
            problem = f"pytest ended with code {done.returncode}: {_last_line(done.stdout + done.stderr)}"
        except subprocess.TimeoutExpired:
            problem = "the tests took more than 600 s and were stopped"
        if report.exists() and report.stat().st_size:
            return parse_junit(report.read_text())
    return _no_tests() | {"failed": 1, "failures": [{"name": file.name, "reason": problem}]}


def _rtx(libraries: Any) -> list[dict[str, Any]]:
    if "tensorrt-rtx" not in libraries:
        return [
            {"engine": engine, "outcome": "not asked", "reason": "tensorrt-rtx is not installed"}
            for engine in ENGINES
        ]
    answers = []
    for engine in ENGINES:
        answer = _child("benchmarks.gpu_rtx", engine)
        if "not_measured" in answer:  # it died: a crash is an answer too
            answer = {"engine": engine, "outcome": "crashed", "reason": answer["not_measured"]}
        answers.append(answer)
    return answers


def _child(module: str, *arguments: str) -> dict[str, Any]:
    """What a module prints as JSON on its last line, from a process of its own."""
    command = [sys.executable, "-m", module, *arguments]
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=_environment(), capture_output=True, text=True, timeout=1200, check=False
        )
    except subprocess.TimeoutExpired:
        return {"not_measured": "no answer in 1200 s"}
    lines = done.stdout.strip().splitlines()
    try:
        value: dict[str, Any] = json.loads(lines[-1])
    except (IndexError, json.JSONDecodeError):
        return {"not_measured": f"{module} ended with code {done.returncode}: {_last_line(done.stderr)}"}
    return value


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else "it said nothing"


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
