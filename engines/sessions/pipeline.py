"""A session's way through a GPU: the stages of its runs and slots, and what other libraries have there."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from engines.sessions.base import StageTimes
from engines.sessions.device_arrays import DeviceArray, DeviceInput, adopt, is_on_a_device
from engines.sessions.plan_profiles import Shape
from engines.sessions.stage import Program, Stage, Streams
from engines.sessions.staging import Copier
from engines.tensors import Array

if TYPE_CHECKING:
    import numpy as np


class Pipeline:
    """A session's way through a GPU: the stage of ``run``, and one for every slot.

    Args:
        streams: of this session alone; whoever made them closes them, after the pipeline.
        inputs: their names, in the engine's order.
        dtypes: numpy's type of every input and output.
        new_program: makes the engine ready for one more stage.
    """

    def __init__(
        self,
        streams: Streams,
        inputs: Sequence[str],
        dtypes: "Mapping[str, np.dtype[Any]]",
        new_program: Callable[[], Program],
    ) -> None:
        self._streams, self._dtypes, self._new_program = streams, dict(dtypes), new_program
        self._inputs = tuple(inputs)
        self._copier = Copier()
        self._stages: list[Stage] = []
        with self.new_stages(1) as (main,):
            self._main = main

    @contextlib.contextmanager
    def new_stages(self, count: int) -> Iterator[list[Stage]]:
        """Further stages; should making them or the block fail, those that were made are closed."""
        made: list[Stage] = []
        self._streams.gpu.make_current()
        try:
            for _ in range(count):
                made.append(Stage(self._streams, self._dtypes, self._new_program()))  # noqa: PERF401 - one may fail
            yield made
        except BaseException:
            self._streams.settle()
            for stage in made:
                stage.close()
            raise
        self._stages += made

    def reserve(self, shapes: Mapping[str, Shape]) -> None:
        """Allocate what :meth:`run` needs for inputs of these shapes."""
        self._main.reserve(shapes)

    def adopt(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        """``feeds`` with a :class:`DeviceInput` in place of every array that is on this device."""
        if not any(is_on_a_device(value) for value in feeds.values()):
            return dict(feeds)
        streams = self._streams
        streams.gpu.make_current()
        return {
            name: adopt(streams.gpu, name, value, streams.copy_in) if is_on_a_device(value) else value
            for name, value in feeds.items()
        }

    def run(self, feeds: Mapping[str, Any]) -> dict[str, Array]:
        """Run a batch of host arrays and :class:`DeviceInput`; the arrays returned belong to the caller."""
        self._run(feeds, to_host=True)
        return {name: array.copy() for name, array in self._main.on_host().items()}

    def run_on_device(self, feeds: Mapping[str, Any]) -> dict[str, DeviceArray]:
        """As :meth:`run`, with the outputs left on the device."""
        self._run(feeds, to_host=False)
        return self._main.on_device()

    def _run(self, feeds: Mapping[str, Any], *, to_host: bool) -> None:
        self._streams.gpu.make_current()
        shapes = {name: tuple(feeds[name].shape) for name in self._inputs}
        foreign = {name: value for name, value in feeds.items() if isinstance(value, DeviceInput)}
        views, copier = self._main.views(shapes), self._copier
        # The first piece of an input is on its way while the next is copied into page-locked memory.
        self._main.launch(shapes, foreign, lambda name: copier.copy(views[name], feeds[name]), to_host=to_host)
        self._main.wait()

    def stage_times(self) -> StageTimes | None:
        """The device's own times of the last ``run``; None before the first."""
        return self._main.times()

    def close(self) -> None:
        """Wait for what is under way and give the stages back; safe to call twice."""
        self._streams.gpu.make_current()
        self._streams.settle()
        for stage in self._stages:
            stage.close()
        self._stages.clear()
        self._copier.close()
