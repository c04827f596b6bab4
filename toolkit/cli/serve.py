"""``toolkit serve``: answer requests over HTTP and gRPC."""

import contextlib
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from toolkit.cli import console
from toolkit.cli.describe import code_option

if TYPE_CHECKING:
    from toolkit.server.run import Listening

_PORT = click.IntRange(-1, 65535)


@click.command("serve")
@click.argument("engines", nargs=-1, required=True, metavar="ENGINE...")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at.")
@click.option("--http-port", type=_PORT, default=8000, show_default=True, help="0 for any free one, -1 for none.")
@click.option("--grpc-port", type=_PORT, default=8001, show_default=True, help="0 for any free one, -1 for none.")
@click.option(
    "--token",
    envvar="TOOLKIT_TOKEN",
    show_envvar=True,
    help="Bearer token that requests must carry [none]; others here see command lines.",
)
@click.option("--token-file", type=click.Path(path_type=Path), help="The same, from a file.")
@click.option("--max-body", default="64MiB", show_default=True, help="The largest request.")
@click.option("--max-batch", type=click.IntRange(min=1), help="Samples that run together [the engine's most, or 32].")
@click.option(
    "--max-delay", type=click.FloatRange(0, 60), default=0.002, show_default=True,
    help="Seconds that a request waits for company while a GPU is busy.",
)  # fmt: skip
@click.option(
    "--queue", type=click.IntRange(min=1), default=1024, show_default=True, help="Samples that may wait, a model."
)
@click.option("--instances", type=click.IntRange(1, 64), default=1, show_default=True, help="Sessions a device.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda:N; several with commas.")
@click.option(
    "--backend", default="auto", show_default=True, help="What runs them: openvino for a graph [by the file]."
)
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads of each session [the backend's choice].")
@code_option
@click.option(
    "--drain-delay", type=click.FloatRange(0, 3600), default=1.0, show_default=True,
    help="Seconds between not being ready and closing the ports.",
)  # fmt: skip
@click.option(
    "--drain-timeout", type=click.FloatRange(0, 3600), default=30.0, show_default=True,
    help="Seconds in which to answer what was accepted.",
)  # fmt: skip
@click.option("--ray", "scaled", is_flag=True, help="Put the models into replicas of Ray Serve.")
@click.option("--ray-address", default="", help="A cluster that is there already [one on this machine].")
@click.option(
    "--ray-replicas", default="1", show_default=True, metavar="N|MIN:MAX", help="As many as the load wants."
)
@click.option("--ray-gpus", type=click.FloatRange(min=0), default=0.0, show_default=True, help="GPUs of a replica.")
@click.option("--ray-cpus", type=click.FloatRange(min=0), default=1.0, show_default=True, help="CPUs of a replica.")
@click.option("--no-watch", is_flag=True, help="Don't open files again that are replaced.")
@click.option("--access-log", is_flag=True, help="Log every request.")
@click.option("--json", "as_json", is_flag=True, help="Print addresses and models as one line of JSON.")
def command(
    *,
    engines: tuple[str, ...],
    host: str,
    http_port: int,
    grpc_port: int,
    token: str | None,
    token_file: Path | None,
    max_body: str,
    max_batch: int | None,
    max_delay: float,
    queue: int,
    instances: int,
    device: str,
    backend: str,
    threads: int | None,
    code: str | None,
    drain_delay: float,
    drain_timeout: float,
    scaled: bool,
    ray_address: str,
    ray_replicas: str,
    ray_gpus: float,
    ray_cpus: float,
    no_watch: bool,
    access_log: bool,
    as_json: bool,
) -> None:
    """Answer requests over HTTP and gRPC.

    ENGINE is a graph, engine or checkpoint, or NAME=PATH to name it. Clients of the Open Inference Protocol
    (tritonclient, KServe's) find it; pictures go to POST /classify, people to the page at /. SIGTERM and
    Ctrl-C answer what was accepted and end; a second one ends at once. SIGHUP opens the files again.
    """
    from engines.errors import InputError
    from engines.sizes import parse_bytes
    from toolkit.server.protocol.limits import Limits
    from toolkit.server.ray.settings import RaySettings, replicas_of
    from toolkit.server.settings import FrontSettings, ModelSettings, ServerSettings
    from toolkit.steps.serve import is_exposed, serve, token_of

    largest = parse_bytes(max_body)
    if not largest:
        raise InputError("--max-body is 0, which no request is within", "give 64MiB, say")
    fronts = FrontSettings(token_of(token, token_file), Limits(largest, largest), access_log)
    if is_exposed(host) and fronts.token is None:
        console.note(f"note: whoever reaches {host} may use the server, for it asks for no token: see --token-file")

    ray = None
    if scaled:
        least, most = replicas_of(ray_replicas)
        ray = RaySettings(ray_address, least, most, ray_gpus, ray_cpus, drain_timeout=drain_timeout)
    elif ray_address or ray_replicas != "1" or ray_gpus or ray_cpus != 1:
        raise InputError("--ray-… says how to use Ray, and nothing says to use it", "give --ray as well")

    def ready(listening: "Listening") -> None:
        plane = listening.plane
        models = {state.name: plane.metadata(state.name) for state in plane.index()}
        for name, metadata in models.items():
            facts = metadata.facts
            kind = "classifier" if facts["classifier"] else "model"
            console.note(
                f"{kind} {name}: {facts['file']} on {', '.join(facts['devices'])} ({facts['backend']}), "
                f"{facts['instances']} session(s), batches up to {metadata.max_batch}"
            )
        if listening.http:
            console.note(f"listening at {listening.http} (HTTP)")
        if listening.grpc:
            console.note(f"listening at {listening.grpc} (gRPC)")
        if as_json:
            click.echo(json.dumps(_said(listening, models)))

    with _logging(access_log):
        serve(
            engines,
            models=ModelSettings(
                devices=tuple(one.strip() for one in device.split(",")),
                instances=instances,
                backend=backend,
                threads=threads,
                code=code,
                max_batch=max_batch,
                max_delay=max_delay,
                queue=queue,
            ),
            settings=ServerSettings(
                host,
                http_port,
                grpc_port,
                fronts,
                drain_delay=drain_delay,
                drain_timeout=drain_timeout,
                watch=not no_watch,
            ),
            ready=ready,
            ray=ray,
        )


def _said(listening: "Listening", models: dict[str, Any]) -> dict[str, Any]:
    return {
        "http": listening.http,
        "grpc": listening.grpc,
        "pid": os.getpid(),
        "models": [
            {
                "name": name,
                "file": metadata.facts["file"],
                "backend": metadata.facts["backend"],
                "devices": metadata.facts["devices"],
                "max_batch": metadata.max_batch,
            }
            for name, metadata in models.items()
        ],
    }


@contextlib.contextmanager
def _logging(access_log: bool) -> Iterator[None]:
    """Show what the server and its library log: what went wrong, reloads, and requests where that is wanted."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    levels = {"toolkit": logging.INFO, "uvicorn": logging.INFO if access_log else logging.WARNING}
    loggers = {logging.getLogger(name): level for name, level in levels.items()}
    # What the HTTP library says of its own start and end is said here already, and of what is no request anybody can
    # make it write as much as they like.
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING if access_log else logging.ERROR)
    for logger, level in loggers.items():
        logger.setLevel(level)
        logger.addHandler(handler)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
