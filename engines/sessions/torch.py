"""A PyTorch module as a session: the reference that everything else is compared with."""

from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from engines.answers import answers_of
from engines.errors import InputError, RunError, ToolkitError, UnsupportedError
from engines.metadata import ModelMetadata
from engines.optional import require
from engines.sessions.base import SessionInfo, StageTimes
from engines.sessions.owned import OwnedSession, device_index, plain
from engines.sessions.proof import Proof, by_share
from engines.tensors import Array, Feeds, TensorSpec

if TYPE_CHECKING:
    import torch


class TorchSession(OwnedSession):
    """Runs an ``nn.Module`` in eager mode.

    Args:
        module: maps the metadata's inputs, by position, to its outputs: of a classifier of pictures
            [batch, channels, height, width] to logits [batch, classes]. It is put into evaluation mode and moved to
            the device.
        metadata: its tensors, labels and preprocessing; with ``uint8_input`` the session takes NHWC pixels and
            normalises them on the device as an exported graph does.
        device: "cpu", "cuda:N", or "auto": CUDA where PyTorch has it, else the CPU.
        threads: the CPU threads that PyTorch uses; the setting is PyTorch's and holds for the process.

    Raises:
        UnsupportedError: PyTorch has no such device.
        InputError: the device's name or the number of threads makes no sense.
    """

    backend, provider = "torch", "eager"

    # Every thread that runs PyTorch gets worker threads of its own there.
    any_thread = False

    def __init__(
        self,
        module: "torch.nn.Module",
        metadata: ModelMetadata,
        device: str = "auto",
        *,
        threads: int | None = None,
    ) -> None:
        library: Any = require("torch", "Running a PyTorch model", "export")
        self._torch = library
        if threads is not None:
            if threads < 1:
                raise InputError(f"{threads} threads make no sense", "give at least 1")
            library.set_num_threads(threads)
        self._device = library.device(_choose(library, device))
        self._module: torch.nn.Module | None = module.eval().to(self._device)
        floats = (p.dtype for p in module.parameters() if p.is_floating_point())
        self._dtype = next(floats, library.float32)
        given = metadata.taken
        if metadata.uint8_input:
            spec = metadata.preprocess
            scale, shift = spec.affine()
            self._scale = library.from_numpy(scale).to(self._device).view(1, -1, 1, 1)
            self._shift = library.from_numpy(shift).to(self._device).view(1, -1, 1, 1)
            given = (TensorSpec(given[0].name, "uint8", ("batch", spec.height, spec.width, spec.channels)),)
        self._pixels = metadata.uint8_input
        self._times: StageTimes | None = None
        info = SessionInfo(self.backend, str(self._device), self.provider, {"torch": str(library.__version__)})
        super().__init__(given, metadata.given, metadata, info)

    def stage_times(self) -> StageTimes | None:
        """Times of the last run on CUDA; None on the CPU."""
        return self._times

    def prove(self, feeds: Feeds) -> Proof:
        """Where the module's parameters are and of which type; PyTorch computes where they are, or fails."""
        with self.owned():
            assert self._module is not None, "it is open"  # noqa: S101
            sizes: Counter[str] = Counter()
            elsewhere = []
            for name, parameter in self._module.named_parameters():
                sizes[f"{parameter.device} {str(parameter.dtype).removeprefix('torch.')}"] += parameter.numel()
                if parameter.device != self._device:
                    elsewhere.append(f"{name} is on {parameter.device}")
            how = f"device and type of {sum(sizes.values()):,} parameters"
            return Proof(f"{self.provider} on {self._device}", how, by_share(sizes), tuple(elsewhere))

    def _run(self, feeds: Feeds, batch: int) -> dict[str, Array]:
        torch = self._torch
        marks = [torch.cuda.Event(enable_timing=True) for _ in range(4)] if self._device.type == "cuda" else []
        try:
            with torch.inference_mode():
                self._mark(marks, 0)
                values = tuple(self._host(feeds[spec.name]).to(self._device) for spec in self._inputs)
                self._mark(marks, 1)
                computed = self._compute(*values)
                self._mark(marks, 2)
                # A module may answer with a view of its own state, or of the input: the copy is the caller's.
                answers = [np.array(value.cpu().numpy()) for value in computed]
                self._mark(marks, 3)
        except RuntimeError as error:
            raise self._failure(error, batch) from error
        if marks:
            marks[3].synchronize()
            copy_in, device, copy_out = (a.elapsed_time(b) / 1e3 for a, b in pairwise(marks))
            self._times = StageTimes(copy_in, device, copy_out)
        return self._named(answers, batch)

    def _host(self, feed: Array) -> "torch.Tensor":
        # from_numpy shares memory and wants it writable: a read-only array is copied.
        array = plain(feed)
        host: torch.Tensor = self._torch.from_numpy(array if array.flags.writeable else array.copy())
        return host

    def _named(self, answers: list[Array], batch: int) -> dict[str, Array]:
        """The answers under their names, or the error that they aren't what the metadata promises."""
        if len(answers) != len(self._outputs):
            raise RunError(
                f"the module answers {len(answers)} tensors, its metadata promises {len(self._outputs)}",
                "load the checkpoint with the outputs that it has",
            )
        for answer, spec in zip(answers, self._outputs, strict=True):
            expected = [batch, *spec.shape[1:]]
            if list(answer.shape) != expected:
                raise RunError(
                    f"the module answers {list(answer.shape)}, its metadata promises {expected}",
                    "load the checkpoint with the right number of classes",
                )
        return {spec.name: answer for spec, answer in zip(self._outputs, answers, strict=True)}

    def _compute(self, *values: "torch.Tensor") -> "tuple[torch.Tensor, ...]":
        """What the module makes of what the session takes, on the device; floats in float32."""
        module = self._module
        assert module is not None, "run() has checked that the session is open"  # noqa: S101
        if self._pixels:
            values = (values[0].permute(0, 3, 1, 2).float() * self._scale + self._shift,)
        typed = (value.to(self._dtype) if value.is_floating_point() else value for value in values)
        answers = answers_of(module(*typed)).values()
        return tuple(value.float() if value.is_floating_point() else value for value in answers)

    def _failure(self, error: RuntimeError, batch: int) -> ToolkitError:
        """What an exception of a run on a batch of this size says."""
        return RunError(f"PyTorch failed on a batch of {batch}: {_first_line(error)}", _remedy(error))

    def _mark(self, marks: list[Any], index: int) -> None:
        if marks:
            marks[index].record(self._torch.cuda.current_stream(self._device))

    def _release(self) -> None:
        self._module = None


def _choose(torch: Any, device: str) -> str:
    if device == "cpu":
        return device
    if device == "auto":
        return "cuda:0" if torch.cuda.is_available() else "cpu"
    index = device_index(device)
    if not torch.cuda.is_available():
        build = torch.version.cuda
        reason = "finds no NVIDIA GPU" if build else "is a build without CUDA"
        raise UnsupportedError(
            f"device '{device}' was asked for, but the installed PyTorch {torch.__version__} {reason}",
            "use --device cpu, or run `toolkit doctor` on what is missing",
        )
    if index >= torch.cuda.device_count():
        raise UnsupportedError(
            f"device '{device}' was asked for, but there are {torch.cuda.device_count()} CUDA devices",
            f"use cuda:0 to cuda:{torch.cuda.device_count() - 1}",
        )
    return f"cuda:{index}"


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", maxsplit=1)[0] or type(error).__name__


def _remedy(error: Exception) -> str:
    if "memory" in str(error):
        return "use a smaller batch"
    return "check that the module fits its metadata (input size, channels)"
