"""Several processes that train one network: who they are, and what they tell each other.

``torchrun`` starts the processes and tells each of them its place in the environment. Every process holds the
whole network. Of every batch each has its share (the data hand out shares already, so that none decodes the
others' pictures), and gradients are averaged over the processes before each step, so that the weights stay the
same everywhere. As shares differ in size, the loss of a share of ``n`` images is their sum, times
``world``, over the images of the whole batch: the averaged gradient is then that of the whole batch.
"""

import contextlib
import inspect
import os
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import distributed, nn

from engines.errors import InputError, RunError, UnsupportedError

TIMEOUT = timedelta(minutes=10)
"""How long a process waits for the others before it gives up: longer than the slowest of them needs for a
checkpoint and a picture, short enough that nobody watches a training that died."""

PATIENCE = 20.0
"""Seconds that a process that was told to stop waits for the leading one; torchrun gives it 30."""


@dataclass(frozen=True)
class Group:
    """A process among those that train together.

    Attributes:
        rank: its number, from 0.
        world: how many there are.
        local_rank: its number on this machine, which is the number of its GPU.
    """

    rank: int = 0
    world: int = 1
    local_rank: int = 0

    @property
    def leads(self) -> bool:
        """Whether this is the process that prints and writes."""
        return self.rank == 0

    def share(self, count: int) -> slice:
        """Which of ``count`` things in a row are this process's: whole pairs of neighbours, which mixup mixes."""
        pairs = (count + 1) // 2
        first, after = (min(count, 2 * (rank * pairs // self.world)) for rank in (self.rank, self.rank + 1))
        return slice(first, after)


ALONE = Group()
"""One process that trains by itself."""


def current() -> Group:
    """This process's place, from torchrun's environment; :data:`ALONE` without one.

    Raises:
        InputError: the environment contradicts itself.
    """
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return ALONE
    try:
        rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        local = int(os.environ.get("LOCAL_RANK", rank))
    except ValueError:
        rank, world, local = -1, 0, 0
    if not 0 <= rank < world or local < 0:
        names = ", ".join(f"{name}={os.environ.get(name)}" for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
        raise InputError(f"the environment names no place in a training of several processes: {names}", _START)
    if world > 1 and not {"MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys():
        raise InputError("the environment has WORLD_SIZE but not MASTER_ADDR and MASTER_PORT", _START)
    return Group(rank, world, local) if world > 1 else ALONE


def device_of(group: Group, device: str) -> str:
    """The device of this process: with "auto" each has the GPU of its local number.

    Raises:
        InputError: one GPU was named for several processes.
        UnsupportedError: there are fewer GPUs than processes on this machine.
    """
    if group.world == 1 or device == "cpu":
        return device
    if device not in {"auto", "cuda"}:
        raise InputError(f"the processes of one training can't share '{device}'", "leave --device out, or give cpu")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count == 0 and device == "auto":
        return "cpu"
    if group.local_rank >= count:
        raise UnsupportedError(
            f"process {group.local_rank + 1} of this machine finds {count} CUDA devices",
            f"give torchrun --nproc-per-node {max(count, 1)}, or --device cpu",
        )
    return f"cuda:{group.local_rank}"


@contextlib.contextmanager
def joined(device: torch.device | str, group: Group | None = None) -> Iterator[Group]:
    """Meet the other processes, over NCCL for GPUs and gloo for CPUs, and part from them at the end.

    Args:
        device: this process's.
        group: its place; :func:`current` by default. Alone, nothing happens.

    Raises:
        RunError: the others can't be reached, or one of them ended.
    """
    group = current() if group is None else group
    if group.world == 1:
        yield group
        return
    device = torch.device(device)
    try:
        if device.type == "cuda":
            torch.cuda.set_device(device)
        distributed.init_process_group(
            "nccl" if device.type == "cuda" else "gloo", timeout=TIMEOUT, rank=group.rank, world_size=group.world
        )
    except (RuntimeError, ValueError) as error:
        raise RunError(f"the other processes can't be met: {_reason(error)}", _START) from error
    try:
        yield group
    except RuntimeError as error:
        if not _communication(error):
            raise
        raise _lost(error) from error
    except KeyboardInterrupt as error:
        # torchrun tells a process to stop when another one has ended, and this one may have just found out.
        if isinstance(error.__context__, RuntimeError) and _communication(error.__context__):
            raise _lost(error.__context__) from error
        raise
    finally:
        # The default group only: with NCCL a process that waits for one that ended must not wait here as well.
        if distributed.is_initialized():
            with contextlib.suppress(RuntimeError):
                distributed.destroy_process_group()


def wrap(module: nn.Module, group: Group, device: torch.device | str) -> nn.Module:
    """The module to train with: gradients are averaged over the processes, whose weights become those of rank 0.

    Batch norm sees the whole batch on CUDA; on CPUs, where PyTorch has no such thing, each process its share, and
    :func:`settle` brings the running statistics together.

    Args:
        module: on ``device`` already. Weights are read and saved from it, not from what is returned.
        group: joined; alone, the module itself comes back.
        device: this process's.
    """
    if group.world == 1:
        return module
    cuda = torch.device(device).type == "cuda"
    inner = nn.SyncBatchNorm.convert_sync_batchnorm(module) if cuda else module  # type: ignore[no-untyped-call]
    # Newer releases of PyTorch have another name for it, and warn of the old one.
    known = inspect.signature(nn.parallel.DistributedDataParallel).parameters
    synced = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    options: dict[str, Any] = {synced: False, "device_ids": [torch.device(device)] if cuda else None}
    return nn.parallel.DistributedDataParallel(inner, **options)


@torch.no_grad()
def settle(module: nn.Module, group: Group) -> None:
    """Give every process the mean of all processes' running statistics, as they saw different shares."""
    if group.world == 1:
        return
    for buffer in module.buffers():
        if buffer.is_floating_point():
            distributed.all_reduce(buffer)
            buffer.div_(group.world)


def total(tensor: torch.Tensor, group: Group) -> torch.Tensor:
    """The sum of all processes' tensors, the same on each; alone, the tensor itself."""
    if group.world == 1:
        return tensor
    summed = tensor.detach().clone()
    distributed.all_reduce(summed)
    return summed


def same_everywhere(value: str, group: Group, what: str) -> None:
    """Refuse to train when the processes disagree.

    Args:
        value: what must be the same in all.
        group: joined.
        what: its name, for the error.

    Raises:
        InputError: it isn't; in every process.
    """
    if group.world == 1:
        return
    values: list[str | None] = [None] * group.world
    distributed.all_gather_object(values, value)
    other = next((rank for rank, theirs in enumerate(values) if theirs != values[0]), None)
    if other is not None:
        raise InputError(
            f"process {other + 1} of {group.world} has other {what} than process 1",
            "give all the same files, options and version of toolkit",
        )


def leave_soon(seconds: float = PATIENCE) -> None:
    """End this process after a while, whatever it waits for; for one that isn't the leading one."""
    timer = threading.Timer(seconds, os._exit, [130])
    timer.daemon = True
    timer.start()


_START = "start it with: torchrun --nproc-per-node 2 --no-python toolkit train ..."


def _lost(error: RuntimeError) -> RunError:
    return RunError(
        f"another process of this training ended: {_reason(error)}",
        "its message tells why; go on from the last finished epoch with --resume",
    )


def _reason(error: Exception) -> str:
    """The first sentence of a library's message, without the file of its source."""
    text = re.sub(r"^\[[^\]]*\]\s*", "", str(error).strip())
    return re.split(r"\.\s|\n", text)[0][:200] or type(error).__name__


def _communication(error: RuntimeError) -> bool:
    """Whether it is the connection that failed; gloo's errors have no class of their own."""
    text = str(error)
    return isinstance(error, distributed.DistError) or any(
        word in text for word in ("gloo", "Connection closed by peer", "Connection reset", "NCCL", "nccl", "Socket")
    )
