"""Serve models over HTTP and gRPC."""

import ipaddress
from collections.abc import Callable, Iterable
from pathlib import Path

from engines.errors import InputError
from engines.files import read_start
from toolkit.server.plane.opening import sources_of
from toolkit.server.ray.settings import RaySettings
from toolkit.server.run import Listening
from toolkit.server.run import serve as run
from toolkit.server.settings import ModelSettings, ServerSettings

MAX_TOKEN = 4096
"""Characters of a token: what servers take of a header's line is about twice that."""


def serve(
    engines: Iterable[str],
    *,
    models: ModelSettings | None = None,
    settings: ServerSettings | None = None,
    ready: Callable[[Listening], None] = lambda _: None,
    ray: RaySettings | None = None,
) -> None:
    """Serve engines until SIGTERM or SIGINT, and then until everything that was accepted is answered.

    Args:
        engines: ``PATH`` or ``NAME=PATH`` of graphs, engines and checkpoints.
        models: how they are opened and batched.
        settings: where to listen, and how to end.
        ready: called once requests are taken.
        ray: puts the models into replicas of Ray Serve; None has them in this process.

    Raises:
        InputError: a file can't be read, two models have one name, or a port is in use; nothing listened then.
        UnsupportedError: a library is missing, or this machine can't run an engine.
    """
    run(sources_of(engines), models or ModelSettings(), settings or ServerSettings(), ready, ray)


def token_of(token: str | None, file: Path | None) -> str | None:
    """The bearer token that requests must carry: as given, or what ``file`` holds; None where neither is.

    Raises:
        InputError: both are given, the file can't be read, or it is no token.
    """
    if file is not None:
        if token is not None:
            raise InputError("the token is given twice", "give --token-file, or TOOLKIT_TOKEN, not both")
        token = read_start(file, MAX_TOKEN + 2).decode("ascii", "replace").strip()
    if token is None:
        return None
    where = f"'{file}' holds" if file is not None else "--token is"
    if not token:
        raise InputError(f"{where} nothing", "give a token of letters and digits, 32 or so")
    if len(token) > MAX_TOKEN or not all("!" <= character <= "~" for character in token):
        raise InputError(
            f"{where} no token: it has spaces, other than ASCII characters, or too many", "give letters and digits"
        )
    return token


def is_exposed(host: str) -> bool:
    """Whether others than this machine may reach what listens at ``host``."""
    try:
        return not ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host != "localhost"
