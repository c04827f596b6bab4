"""A diff as a JUnit report, the format in which Jenkins, GitLab and others read test results.

One test case a gate. An undecided gate passes with a note in the suite's output, or fails with ``strict``. Elements
and attributes are those that the schema of Ant's JUnit task and Jenkins' have in common; the host is never named.
"""

import re
from pathlib import Path
from xml.etree import ElementTree as ET

from engines.files import write_atomically
from toolkit.gate.result import Diff, Gate

_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def write_junit(diff: Diff, path: Path) -> None:
    """Write the report, whole or not at all.

    Raises:
        InputError: it can't be written.
    """
    write_atomically(path, junit(diff))


def junit(diff: Diff) -> bytes:
    """The report as XML in UTF-8."""
    skipped = [gate for gate in diff.gates if gate.status == "skipped" and gate not in diff.broken]
    counts = {"tests": str(len(diff.gates)), "failures": str(len(diff.broken)), "errors": "0"}
    seconds = f"{diff.seconds:.3f}"
    root = ET.Element("testsuites", {"name": "toolkit diff", **counts, "time": seconds})
    suite = ET.SubElement(
        root,
        "testsuite",
        {
            "id": "0",
            "name": _text(f"{diff.old.name} to {diff.new.name}"),
            "package": "toolkit.diff",
            "hostname": "localhost",
            "timestamp": diff.created[:19],
            **counts,
            "skipped": str(len(skipped)),
            "time": seconds,
        },
    )
    properties = ET.SubElement(suite, "properties")
    for name, value in (("command", diff.command), *((c.what, f"{c.old} → {c.new}") for c in diff.changes)):
        ET.SubElement(properties, "property", {"name": _text(name), "value": _text(value)})
    for gate in diff.gates:
        _case(suite, diff, gate)
    notes = [f"{gate.name}: {gate.status}: {gate.text}" for gate in diff.gates]
    notes += [f"warning: {warning}" for warning in diff.warnings]
    ET.SubElement(suite, "system-out").text = _text("\n".join(notes))
    ET.SubElement(suite, "system-err").text = "" if diff.passed else _text(diff.what_broke())
    ET.indent(root)
    result: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return result + b"\n"


def _case(suite: ET.Element, diff: Diff, gate: Gate) -> None:
    case = ET.SubElement(suite, "testcase", {"classname": "toolkit.diff", "name": gate.name, "time": "0.000"})
    if gate in diff.broken:
        failure = ET.SubElement(case, "failure", {"message": _text(gate.text), "type": gate.status})
        lines = [f"found {gate.found}, limit {gate.allowed}", *gate.details]
        if gate.name in {"flips", "confident-flips"}:
            lines += [
                f"image {flip.image} ({flip.label}): {flip.reference} → {flip.answer}, margin {flip.margin:.3f}"
                for flip in diff.flips
            ]
        failure.text = _text("\n".join(lines))
    elif gate.status == "skipped":
        ET.SubElement(case, "skipped", {"message": _text(gate.text)})


def _text(value: str) -> str:
    """Without the characters that XML has no way to write."""
    return _NOT_XML.sub("�", value)
