"""JSON as bytes: read within limits, and written."""

from functools import cache
from types import ModuleType
from typing import Any

from engines.errors import InputError
from engines.optional import require
from toolkit.server.protocol.limits import MAX_LISTS, Limits


@cache
def _orjson() -> ModuleType:
    return require("orjson", "Serving", "serve")


def load(body: bytes | bytearray | memoryview, limits: Limits) -> dict[str, Any]:
    """A body that is a JSON object; an empty one is an empty object.

    Raises:
        InputError: it isn't, or holds more lists and objects than :data:`~toolkit.server.protocol.limits.MAX_LISTS`.
        TooLargeError: it is larger than the server takes.
    """
    limits.check_body(len(body))
    if not body:
        return {}
    if len(body) > MAX_LISTS:  # each takes a byte at least, so a smaller body can't have too many
        text = bytes(body)
        lists = text.count(b"[") + text.count(b"{")
        if lists > MAX_LISTS:
            raise InputError(
                f"the JSON holds {lists} lists and objects, and the server reads at most {MAX_LISTS}",
                "send the data as one flat list, or as binary data",
            )
    orjson = _orjson()
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InputError(f"the request is no valid JSON: {error}", "send an inference request as JSON") from None
    if type(value) is not dict:
        raise InputError("the request's JSON is no object", 'send an object: {"inputs": [...]}')
    return value


def dump(value: Any) -> bytes:
    """A value as JSON; arrays of numpy become lists of theirs.

    Args:
        value: JSON-ready, and arrays that are contiguous and of a type that JSON has.
    """
    orjson = _orjson()
    text: bytes = orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)
    return text
