"""The body of a request: never more of it in memory than is allowed, packed or unpacked."""

import re
import zlib

from engines.errors import InputError
from toolkit.server.front import Front
from toolkit.server.http.asgi import ClientGone, Headers, Receive, Scope
from toolkit.server.protocol.messages import TooLargeError

ZLIB = {b"gzip": 16 + zlib.MAX_WBITS, b"x-gzip": 16 + zlib.MAX_WBITS, b"deflate": zlib.MAX_WBITS}
"""What zlib calls the codings of RFC 9110, section 8.4.1; "deflate" is the zlib format of RFC 1950."""

LEVEL = 1
"""Answers are numbers, which hardly shrink: the level that costs least."""

REFUSED = re.compile(rb"q=0(\.0*)?")
"""How a client says that it doesn't take a coding (RFC 9110, section 12.4.2)."""

WORTH_PACKING = 1024
"""Bytes below which an answer fits a packet or so anyway."""


async def read(front: Front, scope: Scope, receive: Receive, limit: int) -> bytes:
    """The body, unpacked.

    What it takes of ``front.bodies`` is added to ``scope["held"]``, to be given back once the request is answered.

    Args:
        front: whose bodies it is one of.
        scope: of ASGI.
        receive: of ASGI; no part of the body has been taken yet.
        limit: bytes that it may have, as it comes and unpacked.

    Raises:
        TooLargeError: it is larger; nothing is read where the request says so itself.
        Overloaded: there is no room for it now.
        InputError: it is packed in a way that isn't known, or is damaged.
        ClientGone: it never came whole.
    """
    headers = dict(scope["headers"])
    length = headers.get(b"content-length")
    # The server has seen to it that the length is a number; there is none with a chunked body.
    if length is not None and (len(length) > 18 or int(length) > limit):
        raise _too_large(f"of {length.decode('latin-1')[:24]} bytes", limit)
    message = await receive()
    if message["type"] != "http.request":
        raise ClientGone
    body: bytes = message.get("body", b"")
    _hold(front, scope, len(body))
    if message.get("more_body", False):
        chunks, size = [body], len(body)
        more = True
        while more:
            if size > limit:
                raise _too_large(f"of more than {limit} bytes", limit)
            message = await receive()
            if message["type"] != "http.request":
                raise ClientGone
            chunks.append(message.get("body", b""))
            _hold(front, scope, len(chunks[-1]))
            size += len(chunks[-1])
            more = message.get("more_body", False)
        body = b"".join(chunks)
    if len(body) > limit:
        raise _too_large(f"of {len(body)} bytes", limit)
    coding = headers.get(b"content-encoding")
    if coding is None or coding.strip().lower() in (b"identity", b""):
        return body
    import asyncio

    # A few bytes may unpack to very many, which must not hold up the other requests.
    whole = await asyncio.to_thread(unpack, body, coding, limit)
    _hold(front, scope, len(whole))
    return whole


def _hold(front: Front, scope: Scope, size: int) -> None:
    scope["held"] = front.bodies.take(size, scope.get("held", 0))


def unpack(body: bytes, coding: bytes, limit: int) -> bytes:
    """Unpack a body of at most ``limit`` bytes.

    Raises:
        TooLargeError: it is larger; no more than ``limit`` bytes are made of it.
        InputError: the coding is unknown, or the body is damaged, cut short or has something after it.
    """
    name = coding.strip().lower()
    if name not in ZLIB:
        raise InputError(
            f"a body whose content-encoding is '{coding.decode('latin-1')[:40]}' can't be unpacked",
            "send it as it is, or with gzip or deflate",
        )
    unpacker = zlib.decompressobj(ZLIB[name])
    try:
        whole = unpacker.decompress(body, limit + 1)
    except zlib.error as error:
        raise InputError(f"the body is no valid {name.decode()}: {error}", "send it whole, or unpacked") from None
    if len(whole) > limit:
        raise _too_large(f"that unpacks to more than {limit} bytes", limit)
    if not unpacker.eof or unpacker.unused_data:
        what = "ends too early" if not unpacker.eof else "goes on after its end"
        raise InputError(f"the {name.decode()} body {what}", "send one whole stream, or the body unpacked")
    return whole


def wanted_coding(headers: Headers) -> bytes | None:
    """The coding that the client asks the answer to be packed in.

    Most clients name every coding they know, without being asked to; packing costs more than it saves on the way to
    them. Who names just one means it.
    """
    accepted = headers.get(b"accept-encoding")
    if not accepted:
        return None
    named = [part.partition(b";") for part in accepted.lower().replace(b" ", b"").split(b",")]
    wanted = [name for name, _, quality in named if name != b"identity" and not REFUSED.fullmatch(quality)]
    return wanted[0] if len(wanted) == 1 and wanted[0] in ZLIB else None


def pack(body: bytes, coding: bytes) -> bytes:
    """The body in this coding, one of :data:`ZLIB`."""
    packer = zlib.compressobj(LEVEL, wbits=ZLIB[coding])
    return packer.compress(body) + packer.flush()


def _too_large(what: str, limit: int) -> TooLargeError:
    return TooLargeError(
        f"a body {what} is larger than a request may be",
        f"cut it into requests of at most {limit} bytes, or start the server with a larger --max-body",
    )
