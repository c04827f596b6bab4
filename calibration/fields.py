"""Checks of a JSON file that people edit: each raises ValueError or TypeError and says what is wrong."""

from typing import Any

LARGEST = 3.4028234e38
"""The largest number of float32."""


def one_of(what: str, value: object, allowed: tuple[str, ...]) -> str:
    """``value`` if it is one of the words."""
    if value not in allowed:
        raise ValueError(f"{what} is {value!r}, not {' or '.join(allowed)}")
    return str(value)


def listed(what: str, value: object) -> list[Any]:
    """``value`` if it is a list: a text would be taken for its letters."""
    if not isinstance(value, list):
        raise TypeError(f"{what} is {str(value)[:40]!r}, not a list")
    return value


def mapped(what: str, value: object) -> dict[str, Any]:
    """``value`` if it is an object."""
    if not isinstance(value, dict):
        raise TypeError(f"{what} is {str(value)[:40]!r}, not an object")
    return value


def numbers(what: str, value: object, least: float, most: float) -> dict[str, tuple[float, ...]]:
    """An object of lists of numbers, each from ``least`` to ``most``; NaN is none of these."""
    found = {
        str(name): tuple(map(float, listed(f"{what} of '{name}'", items)))
        for name, items in mapped(what, value).items()
    }
    for name, items in found.items():
        if not all(least <= item <= most for item in items):
            raise ValueError(f"{what} of '{name}' holds an impossible number")
    return found
