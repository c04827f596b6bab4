"""A PyTorch module through ``torch.compile``: the whole of it compiled by Inductor, or an error."""

import contextlib
import types
from typing import TYPE_CHECKING, Any

from engines.errors import RunError, ToolkitError, UnsupportedError
from engines.metadata import ModelMetadata
from engines.sessions.proof import Proof
from engines.sessions.torch import TorchSession
from engines.tensors import Feeds

if TYPE_CHECKING:
    import torch


class TorchCompileSession(TorchSession):
    """Runs an ``nn.Module`` that PyTorch has compiled into one graph, without breaks that Python would run.

    It compiles at the first run: once for a batch of one, and once for all larger ones, which PyTorch may split
    where its kernels differ (seen on the CPU: below 16 images and from there). What it compiled lies in PyTorch's
    own cache (``TORCHINDUCTOR_CACHE_DIR``), so that later processes start sooner.

    Arguments and errors are those of :class:`TorchSession`, and:

    Raises:
        UnsupportedError: there is no C++ compiler on this machine, or no Triton for the GPU.
    """

    backend, provider = "torch-compile", "inductor"

    def __init__(
        self,
        module: "torch.nn.Module",
        metadata: ModelMetadata,
        device: str = "auto",
        *,
        threads: int | None = None,
    ) -> None:
        super().__init__(module, metadata, device, threads=threads)
        if self.provider == "inductor":
            _check_compiler(self._device.type)
        self._before = _graphs()
        plain = super()._compute

        def whole(*values: "torch.Tensor") -> "tuple[torch.Tensor, ...]":
            return plain(*values)

        # PyTorch keeps what it has compiled by the code object, and gives up after 8 variants of one: a new one each.
        own = types.FunctionType(whole.__code__.replace(), whole.__globals__, closure=whole.__closure__)
        self._compiled: Any = self._torch.compile(own, backend=self.provider, fullgraph=True, dynamic=False)

    def prove(self, feeds: Feeds) -> Proof:
        """How many graphs PyTorch has compiled in this process since the session was opened, and what it left out.

        The whole module is compiled into each, or the run fails: there is nothing that could fall back.
        """
        proof = super().prove(feeds)
        graphs, breaks = (after - before for after, before in zip(_graphs(), self._before, strict=True))
        provider = f"{self.provider} on {self._device}"
        if not graphs:
            return Proof(provider, problem="nothing has been compiled yet: it has to run first")
        compiled = f"{graphs} graph{'s' if graphs > 1 else ''} compiled whole, {breaks} graph breaks"
        left = (f"{breaks} graph breaks were run by Python",) if breaks else ()
        return Proof(
            provider, f"PyTorch's counters: {compiled}; {proof.how}", proof.shares, (*proof.fallbacks, *left)
        )

    def _compute(self, *values: "torch.Tensor") -> "tuple[torch.Tensor, ...]":
        if len(values[0]) > 1:  # a batch of one is always compiled for itself
            for value in values:
                self._torch._dynamo.mark_dynamic(value, 0)
        answers: tuple[torch.Tensor, ...] = self._compiled(*values)
        return answers

    def _failure(self, error: RuntimeError, batch: int) -> ToolkitError:
        kind, text = type(error).__name__, str(error)
        if "Python.h" in text:
            return UnsupportedError(
                "torch.compile needs Python's C headers, which are not installed",
                "install them (python3-dev), or use --backend torch",
            )
        if "Compil" in kind or "Inductor" in kind or type(error).__module__.startswith("torch._"):
            # The first line may be no more than that Inductor raised what stands in the second.
            lines = [line.strip() for line in text.splitlines() if line.strip()] or [kind]
            reason = lines[1] if lines[0].endswith("raised:") and len(lines) > 1 else lines[0]
            return UnsupportedError(f"torch.compile failed on this module: {reason}", "use --backend torch")
        return RunError(super()._failure(error, batch).cause, "use a smaller batch, or --backend torch")

    def _release(self) -> None:
        super()._release()
        self._compiled = None


def _graphs() -> tuple[int, int]:
    """Graphs that this process has compiled, and the breaks between them."""
    from torch._dynamo.utils import counters

    return counters["stats"]["unique_graphs"], sum(counters["graph_break"].values())


def _check_compiler(device: str) -> None:
    """Raises UnsupportedError when Inductor has no compiler for a kind of device."""
    if device == "cuda":
        with contextlib.suppress(ImportError):
            from torch.utils._triton import has_triton

            if not has_triton():
                raise UnsupportedError(
                    "torch.compile needs Triton on a GPU", "pip install triton, or --backend torch"
                )
        return
    try:
        from torch._inductor.cpp_builder import get_cpp_compiler

        get_cpp_compiler()
    except ImportError:  # moved in another version: compiling will tell
        return
    except RuntimeError as error:
        raise UnsupportedError(
            "torch.compile needs a C++ compiler, and finds none on this machine",
            "install g++, or name yours in the variable CXX; or use --backend torch",
        ) from error
