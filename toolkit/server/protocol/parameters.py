"""The parameters of a request and of its tensors, whatever the wire."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from engines.errors import InputError
from toolkit.server.protocol.limits import short
from toolkit.server.protocol.messages import Parameters, RequestedOutput

LEVELS = 9
"""Levels of priority that a request may name: 1 goes first, this one last; what is beyond counts as the last."""

DEFAULT_LEVEL = 5
"""The level of a request that names none: the middle, so that others can go before it and behind it."""

MICROSECONDS = 1e6
"""In a second: the protocol's timeouts are in microseconds."""

NO_PARAMETERS: Parameters = {}

_SEQUENCE = ("sequence_id", "sequence_start", "sequence_end")
_SHARED = ("shared_memory_region", "shared_memory_byte_size", "shared_memory_offset")


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request's parameters ask for.

    Attributes:
        timeout, priority, binary_default, parameters: those of
            :class:`~toolkit.server.protocol.messages.InferRequest`.
    """

    timeout: float | None = None
    priority: int = 0
    binary_default: bool = False
    parameters: Parameters = field(default_factory=dict)


NOTHING = Asked()


def of_request(given: Parameters) -> Asked:
    """Read the parameters of a request.

    "timeout" is in microseconds, 0 for none. "priority" is 0 for the default level, 1 for the highest.

    Raises:
        InputError: one is of the wrong type, makes no sense, or asks for a sequence.
    """
    rest = dict(given)
    timeout = _whole(rest, "timeout")
    level = min(_whole(rest, "priority") or DEFAULT_LEVEL, LEVELS)
    binary = _flag(rest, "binary_data_output", default=False)
    if rest.pop("sequence_id", 0) not in {0, ""}:
        raise InputError("the request belongs to a sequence", "the models here keep no state: leave sequence_id out")
    for name in _SEQUENCE:
        rest.pop(name, None)
    _refuse_shared(rest, "the request")
    return Asked(timeout / MICROSECONDS if timeout else None, DEFAULT_LEVEL - level, binary, rest)


def of_input(name: str, given: Parameters) -> tuple[int | None, Parameters]:
    """Read the parameters of an input: how many bytes of binary data it has (None where that isn't said), the rest.

    Raises:
        InputError: the size is no whole number, or the data are said to be in shared memory.
    """
    rest = dict(given)
    size = _whole(rest, "binary_data_size") if "binary_data_size" in rest else None
    _refuse_shared(rest, "input", name)
    return size, rest


def of_output(name: str, given: Parameters, *, binary_default: bool) -> RequestedOutput:
    """Read the parameters of an output that is asked for.

    Raises:
        InputError: one is of the wrong type, or the data are to go to shared memory.
    """
    rest = dict(given)
    _refuse_shared(rest, "output", name)
    return RequestedOutput(name, _flag(rest, "binary_data", default=binary_default), _whole(rest, "classification"))


def checked(given: object, where: str, name: str = "") -> Parameters:
    """What came as JSON's "parameters": an object of plain values.

    Args:
        given: it.
        where: what it came with ("the request", "input").
        name: that one's name, if it has one.

    Raises:
        InputError: it is something else.
    """
    if not isinstance(given, Mapping):
        raise InputError(f"the parameters of {_of(where, name)} are no JSON object", 'give "parameters" as an object')
    for key, value in given.items():
        if not isinstance(value, str | int | float):
            raise InputError(
                f"parameter {short(key)} of {_of(where, name)} is neither a string, a number nor a boolean",
                "give one of these",
            )
    return given


def _whole(rest: dict[str, str | int | float | bool], name: str) -> int:
    value = rest.pop(name, 0)
    if type(value) is not int or value < 0:
        raise InputError(
            f"parameter {name} is {short(value)}", "give a whole number that isn't negative, or leave it out"
        )
    return value


def _flag(rest: dict[str, str | int | float | bool], name: str, *, default: bool) -> bool:
    value = rest.pop(name, default)
    if not isinstance(value, bool):
        raise InputError(f"parameter {name} is {short(value)}", "give true or false, or leave it out")
    return value


def _of(where: str, name: str) -> str:
    return f"{where} {short(name)}" if name else where


def _refuse_shared(rest: Mapping[str, object], where: str, name: str = "") -> None:
    for key in _SHARED:
        if key in rest:
            raise InputError(
                f"{_of(where, name)} names a region of shared memory, and this server has none",
                "send the data in the message",
            )
