"""Ways to run one graph or engine on a GPU that benchmarks.gpu_figures compares; opened in the measuring process."""

from collections import deque
from types import TracebackType
from typing import Any, Self

import numpy as np

from engines.errors import RunError
from engines.sessions import Session

SLOTS = 3
"""One that is copied in, one that computes, one that is copied out or read."""


def judged_by_the_library(path: str, *, backend: str, device: str, threads: int | None) -> Session:
    """A graph; or a plan without our own check, so that a GPU outside the documented ones is asked too."""
    from engines.sessions.opening import backend_class, backend_of

    kind = backend_of(path)
    options = {} if kind == "onnxruntime" else {"check": False}
    session: Session = backend_class(kind)(path, device=device, **options)
    return session


def plain(path: str, *, backend: str, device: str, threads: int | None) -> Session:
    """ONNX Runtime's own ``session.run`` on CUDA, as most people write it: the baseline for our session."""
    import onnxruntime

    from engines.nvidia_wheels import load_nvidia_wheels
    from engines.sessions.onnxruntime import OnnxRuntimeSession

    class Plain(OnnxRuntimeSession):
        def _run(self, feeds: Any, batch: int) -> Any:
            names = [spec.name for spec in self.outputs]
            return dict(zip(names, self._plain.run(names, dict(feeds)), strict=True))

        def stage_times(self) -> None:
            return None

    load_nvidia_wheels()
    session = Plain(path, device=device)
    cuda = "CUDAExecutionProvider"
    # Without TF32, as our session has it; everything else as it comes.
    providers = [(cuda, {"use_tf32": "0"})]
    session._plain = onnxruntime.InferenceSession(path, providers=providers, enable_fallback=0)
    if cuda not in session._plain.get_providers():
        raise RunError("ONNX Runtime took the CPU though CUDA was asked for", "run `toolkit doctor`")
    return session


def slots_filled(path: str, *, backend: str, device: str, threads: int | None) -> Session:
    """Our session through slots, each batch copied from an array into the slot: what a batcher does."""
    return Slotted(judged_by_the_library(path, backend=backend, device=device, threads=threads), fill=True)


def slots_in_place(path: str, *, backend: str, device: str, threads: int | None) -> Session:
    """Our session through slots whose memory holds the batch already, as when images are decoded straight into it."""
    return Slotted(judged_by_the_library(path, backend=backend, device=device, threads=threads), fill=False)


class Slotted:
    """A session whose ``run`` starts the batch that it is given and returns the answer to an earlier one.

    So the calls of a loop overlap, and the time of each is that of a batch's way through a full pipeline. Only the
    first calls, while the pipeline fills, answer the batch that they were given; batches have to be of one size.

    Args:
        session: closed with this one.
        fill: copy every batch into its slot; otherwise only the first that a slot sees.
    """

    def __init__(self, session: Session, *, fill: bool) -> None:
        self._session, self._fill = session, fill
        self._slots: deque[Any] = deque()
        self._under_way: deque[Any] = deque()
        self._held: dict[int, int] = {}
        self.inputs, self.outputs = session.inputs, session.outputs
        self.metadata, self.info = session.metadata, session.info

    def run(self, feeds: Any) -> dict[str, Any]:
        batch = len(next(iter(feeds.values())))
        if not self._slots:
            # The largest batch that is measured; an engine with a largest of its own has that one.
            self._slots.extend(self._session.slots(SLOTS, max_batch=self.info.max_batch or 128))
        if self._under_way and self._under_way[0][1] != batch:
            self._drain()
        slot = self._slots.popleft()
        if self._fill or self._held.get(id(slot)) != batch:
            for name, view in slot.inputs(batch).items():
                np.copyto(view, feeds[name])
            self._held[id(slot)] = batch
        slot.start()
        self._under_way.append((slot, batch))
        if len(self._under_way) < SLOTS:
            return self._session.run(feeds)  # the pipeline isn't full: an answer for a call that isn't counted
        return self._oldest()

    def _oldest(self) -> dict[str, Any]:
        slot, _ = self._under_way.popleft()
        self._slots.append(slot)
        return {name: value.copy() for name, value in slot.wait().items()}

    def _drain(self) -> None:
        while self._under_way:
            self._oldest()

    def slots(self, count: int = 2, *, max_batch: int | None = None) -> Any:
        raise RunError("the slots are in use", "open the session itself")

    def stage_times(self) -> None:
        return None

    def close(self) -> None:
        self._session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
