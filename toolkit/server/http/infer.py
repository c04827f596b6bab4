"""POST /v2/models/M/infer: the way that every request takes, and so the shortest one."""

import asyncio

from toolkit.server.front import Front
from toolkit.server.http import body as bodies
from toolkit.server.http.asgi import JSON, Receive, Reply, Scope
from toolkit.server.http.presence import while_present
from toolkit.server.protocol import http_form

BINARY = (b"content-type", b"application/octet-stream")

MUCH_JSON = 1 << 20
"""Bytes of JSON that take tens of milliseconds to read, in which nobody else would be answered."""


def model_of(path: str) -> dict[str, str] | None:
    """Model and version in the path of an inference request, as the router would find them; None when it is none."""
    parts = path.split("/")
    if len(parts) < 5 or parts[1] != "v2" or parts[2] != "models" or not parts[3]:
        return None
    if len(parts) == 5:
        return {"model": parts[3]}
    return {"model": parts[3], "version": parts[5]} if len(parts) == 7 and parts[4] == "versions" else None


def _takes_long(body: bytes, header_length: str | None) -> bool:
    """Whether there is more JSON in a body than is read in passing."""
    if len(body) <= MUCH_JSON:
        return False
    # What is no number is refused where it is read.
    return header_length is None or not header_length.isdecimal() or int(header_length[:18]) > MUCH_JSON


async def infer(front: Front, scope: Scope, receive: Receive) -> Reply:
    """Read, decode, answer, encode.

    Raises:
        ClientGone: it has gone.
        ToolkitError: those of the codec and of :meth:`Plane.infer`.
    """
    model, version = scope["path_params"]["model"], scope["path_params"].get("version", "")
    headers = dict(scope["headers"])
    limits = front.settings.limits
    body = await bodies.read(front, scope, receive, limits.max_body)
    length = headers.get(b"inference-header-content-length")
    # Only a body without any JSON needs to be told what the model takes.
    metadata = front.plane.metadata(model, version) if length is not None and not length.strip(b" 0") else None
    said = None if length is None else length.decode("latin-1")
    if _takes_long(body, said):
        # The others go on meanwhile.
        async with front.turn:
            request = await asyncio.to_thread(http_form.decode, model, version, body, said, limits, metadata)
    else:
        request = http_form.decode(model, version, body, said, limits, metadata)
    response = await while_present(receive, front.plane.infer(request))
    encoded = http_form.encode(response, request)
    answer = b"".join(encoded.parts)
    lines: tuple[tuple[bytes, bytes], ...] = (JSON,)
    if encoded.header_length is not None:
        lines = (BINARY, (b"inference-header-content-length", b"%d" % encoded.header_length))
    if len(answer) >= bodies.WORTH_PACKING and (coding := bodies.wanted_coding(headers)):
        answer = await asyncio.to_thread(bodies.pack, answer, coding)
        lines = (*lines, (b"content-encoding", coding), (b"vary", b"accept-encoding"))
    return Reply(200, lines, answer)
