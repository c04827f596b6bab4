"""Parts of the GPU check in processes of their own, within what is left of its time, and what they left behind."""

import json
import os
import re
import signal
import subprocess
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TRACE = 1500
"""Characters of a traceback that are kept."""

_OUTCOME = re.compile(r"^(\S+?\.py::.+?) (PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS)\b", re.MULTILINE)


class Clock:
    """The time that a whole check has.

    Args:
        limit: seconds from now.
    """

    def __init__(self, limit: float) -> None:
        self._end = time.monotonic() + limit

    def left(self, most: float | None = None) -> float:
        """Seconds that are left, but ``most`` at most; 0 when it is over."""
        left = max(self._end - time.monotonic(), 0.0)
        return left if most is None else min(left, most)


@dataclass(frozen=True)
class Ended:
    """How a process ended.

    Attributes:
        problem: why it didn't end well, with its last line; empty when it did.
        output, log: what it printed on its standard output and standard error, also when it was stopped.
    """

    problem: str
    output: str
    log: str


def run_for(command: Sequence[str], seconds: float, *, folder: Path, environment: Mapping[str, str]) -> Ended:
    """Run a command in a session of its own; after ``seconds`` it is killed with all that it has started."""
    if seconds <= 0:
        return Ended("not begun: the time was over", "", "")
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            list(command), cwd=folder, env=dict(environment), stdout=out, stderr=log, start_new_session=True
        )
        problem = ""
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            problem = f"stopped after {seconds:.0f} s"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        out.seek(0)
        log.seek(0)
        output, errors = out.read(), log.read()
    if not problem and process.returncode:
        problem = (
            f"ended with code {process.returncode}: {last_line(errors) or last_line(output) or 'it said nothing'}"
        )
    return Ended(problem, output, errors)


def last_line(text: str) -> str:
    """The last line that isn't empty."""
    lines = text.strip().splitlines()
    return lines[-1].strip() if lines else ""


def last_json(text: str) -> dict[str, Any] | None:
    """The last line that holds a whole JSON object; None where there is none."""
    for line in reversed(text.splitlines()):
        if line.startswith("{"):
            try:
                value: dict[str, Any] = json.loads(line)
            except json.JSONDecodeError:
                continue  # cut off when its process was stopped
            return value
    return None


def parse_junit(text: str) -> dict[str, Any]:
    """Counts, failures with their reasons, skips by reason and recorded properties, from pytest's JUnit XML.

    The first failure for a reason has the end of its traceback: a record is often all that is left of the machine.
    """
    result, reasons = no_tests(), set()
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
            failure = {"name": name, "reason": reason}
            if reason not in reasons:
                failure["trace"] = (bad[0].text or "").strip()[-TRACE:]
            reasons.add(reason)
            result["failures"].append(failure)
    return result


def no_tests() -> dict[str, Any]:
    """The counts before anything has run."""
    return {"passed": 0, "failed": 0, "skipped": 0, "failures": [], "skips": {}, "properties": {}}


def parse_progress(text: str, problem: str) -> dict[str, Any]:
    """What ``pytest -v`` printed before it died, counted as its report would have been; the death is a failure.

    Args:
        text: of its standard output.
        problem: how it died.
    """
    result = no_tests()
    for name, outcome in _OUTCOME.findall(text):
        if outcome in {"PASSED", "XFAIL"}:
            result["passed"] += 1
        elif outcome == "SKIPPED":
            result["skipped"] += 1
        else:
            result["failed"] += 1
            result["failures"].append({"name": _short(name), "reason": "pytest died before it told why"})
    # pytest prints a test's name when it begins, and the outcome behind it when it has ended.
    begun = last_line(text)
    under_way = ".py::" in begun and not _OUTCOME.match(begun)
    result["failed"] += 1
    result["failures"].append({"name": _short(begun) if under_way else "pytest", "reason": problem})
    return result


def _short(name: str) -> str:
    return name.rpartition("/")[2].replace(".py::", "::")
