"""A Ray cluster, joined or started, and quiet."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from engines.errors import InputError

STORE = 256 << 20
"""Bytes of shared memory for a cluster of our own: names and rows are small, and a request with its answer lives for
milliseconds."""

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
"""For a cluster of our own: nothing is reported to anyone, and Ray's notes about itself stay in its log files."""


@contextmanager
def joined(ray: Any, address: str, *, workers: int, gpus: float, what: str) -> Iterator[bool]:
    """Within a cluster; one that this process has joined already is used as it is.

    Args:
        ray: the module.
        address: an existing cluster's; "" for ``RAY_ADDRESS``, or one of our own that ends with the work.
        workers: how many processes are to run at once.
        gpus: the share of a GPU that each takes.
        what: the workers' name, for errors: "actors".

    Yields:
        Whether it is one of our own.

    Raises:
        InputError: it can't be joined, or hasn't the GPUs.
    """
    if ray.is_initialized():
        yield False
        return
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    own = address == "local"
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if own:
        for name, value in QUIET.items():
            os.environ.setdefault(name, value)
        # A worker each and one for what drives them, however few cores there are.
        cores = max(os.cpu_count() or 1, workers + 1)
        options |= {"num_cpus": cores, "object_store_memory": STORE, "include_dashboard": False}
    try:
        with no_stderr() if own else nullcontext():
            ray.init(address=address, **options)
    except Exception as error:  # a ConnectionError, ValueError, RuntimeError, ... of what can't be reached
        raise InputError(
            f"can't join the Ray cluster at '{address}': {shortly(error)}",
            "check --ray-address and `ray status`, or leave it out for a cluster of its own",
        ) from error
    try:
        found = ray.cluster_resources().get("GPU", 0)
        if own and gpus * workers > found:
            raise InputError(
                f"{workers} {what} with {gpus} GPUs each need more than the {found:g} of this machine",
                f"give a smaller --ray-gpus or --ray-{what}",
            )
        yield own
    finally:
        with no_stderr() if own else nullcontext():
            ray.shutdown()


@contextmanager
def no_stderr() -> Iterator[None]:
    """Ray's native part tells that it was told to be quiet, and of what it ends itself; what goes wrong comes as an
    exception.
    """
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def shortly(error: BaseException) -> str:
    """The last line of a worker's traceback, or the only one."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
