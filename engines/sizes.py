"""Sizes in bytes as people write and read them."""

import re

from engines.errors import InputError

_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}


def parse_bytes(text: str) -> int:
    """The number of bytes in ``512MiB``, ``2GB`` or ``1048576``.

    Raises:
        InputError: it is no size.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmg]?i?b?)", text.strip().lower())
    if match is None or (unit := match[2] + ("" if match[2].endswith("b") or not match[2] else "b")) not in _UNITS:
        raise InputError(f"'{text}' is not a size", "write it as 512MiB, 2GiB or a number of bytes")
    return int(float(match[1]) * _UNITS[unit])


def said_bytes(size: int) -> str:
    """``size`` in the largest unit that keeps a digit before the point: "228.2 MB"."""
    for unit, bytes_ in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= bytes_:
            return f"{size / bytes_:.1f} {unit}"
    return f"{size} B"
