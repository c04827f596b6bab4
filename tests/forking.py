"""Processes that begin with PyTorch imported: forked from one server, which imported it once a session."""

import multiprocessing
from multiprocessing.context import ForkServerContext

PRELOADED = ["toolkit.cli", "toolkit.steps.train", "export.training", "torch.optim", "torch.distributed.run"]


def forkserver() -> ForkServerContext:
    """The context whose ``Process`` is forked from the server.

    Where something else started the server before, each process imports for itself.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context
