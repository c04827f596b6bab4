"""Reading a JUnit report back."""

from xml.etree import ElementTree as ET


def parsed(report: bytes) -> ET.Element:
    """Its root."""
    return ET.fromstring(report)  # noqa: S314 - what the toolkit itself has just written
