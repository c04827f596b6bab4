"""Ray Data in order and quiet, and its errors as ours."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from engines.errors import RunError, ToolkitError
from toolkit.ray_cluster import shortly


@dataclass(frozen=True)
class Cluster:
    """Where predictors run.

    Attributes:
        address: an existing cluster's; "" for ``RAY_ADDRESS``, or one of our own that ends with the work.
        actors: how many predictors.
        gpus: the share of a GPU that each takes: 1, 0.5, ...; 0 runs on CPUs.
    """

    address: str = ""
    actors: int = 1
    gpus: float = 0.0


@contextmanager
def ordered(ray: Any) -> Iterator[None]:
    """Ray Data in order and quiet, and then as it was."""
    context, log = ray.data.DataContext.get_current(), logging.getLogger("ray.data")
    options = context.execution_options
    before = options.preserve_order, context.enable_progress_bars, log.level
    options.preserve_order, context.enable_progress_bars = True, False
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        options.preserve_order, context.enable_progress_bars = before[:2]
        log.setLevel(before[2])


@contextmanager
def plainly(ray: Any) -> Iterator[None]:
    """What a task raised as it raised it, and Ray's own errors as ours."""
    try:
        yield
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", None)
        if isinstance(cause, ToolkitError):
            raise cause from error
        raise RunError(f"Ray failed: {shortly(error)}", "see Ray's logs, and repeat the command to go on") from error
