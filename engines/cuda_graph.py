"""CUDA graphs: what is put on a stream, recorded once and launched again, over the driver's own functions.

cuda-core has a graph builder too. It isn't used: up to 1.2 the process crashes when a builder is closed whose capture
was spoilt by work that can't be captured, and such engines have to run on without graphs.
"""

from collections.abc import Callable
from typing import Any

from engines.errors import RunError
from engines.optional import require

API = (
    "cuStreamBeginCapture",
    "cuStreamEndCapture",
    "cuGraphGetNodes",
    "cuGraphInstantiate",
    "cuGraphLaunch",
    "cuGraphExecDestroy",
    "cuGraphDestroy",
)
"""What is used of ``cuda.bindings.driver``, which cuda-core brings: CUDA's own names, in 12 and 13 alike."""

_REMEDY = "open it with graphs=False"


def cuda_driver() -> Any:
    """The module ``cuda.bindings.driver``.

    Raises:
        MissingLibraryError: it isn't installed.
    """
    return require("cuda.bindings.driver", "Running on a GPU", "tensorrt")


class CapturedGraph:
    """Work that can be launched again and again.

    Args:
        driver: ``cuda.bindings.driver``.
        executable: its ``CUgraphExec``; destroyed by :meth:`close`.
    """

    def __init__(self, driver: Any, executable: Any) -> None:
        self._driver, self._executable = driver, executable

    def launch(self, stream: Any) -> None:
        """Put the work on a stream.

        Raises:
            RuntimeError: the driver refuses.
        """
        _checked("cuGraphLaunch", self._driver.cuGraphLaunch(self._executable, stream.handle))

    def close(self) -> None:
        """Give the graph back; a launch under way still ends. Safe to call twice."""
        executable, self._executable = self._executable, None
        if executable is not None:
            # What a faulty device answers is no reason not to go on closing.
            self._driver.cuGraphExecDestroy(executable)


def capture(stream: Any, enqueue: Callable[[int], bool]) -> CapturedGraph:
    """Record what ``enqueue`` puts on a stream as a CUDA graph.

    Args:
        stream: what is under way on it goes on; nothing else may be put on it meanwhile.
        enqueue: puts work on the stream whose handle it is given; answers whether it could.

    Returns:
        The graph, to be launched with ``graph.launch(stream)``.

    Raises:
        RunError: the work can't be captured; the stream is usable as before.
    """
    driver, handle = cuda_driver(), stream.handle
    try:
        graph = _recorded(driver, handle, enqueue)
        try:
            _, count = _checked("cuGraphGetNodes", driver.cuGraphGetNodes(graph))
            if not count:
                # Launching it would leave the last answer in place and call it the new one.
                raise RunError("the engine put nothing on the stream that it was captured on", _REMEDY)
            executable = _checked("cuGraphInstantiate", driver.cuGraphInstantiate(graph, 0))
        finally:
            driver.cuGraphDestroy(graph)
    except RunError:
        raise
    except Exception as error:
        raise RunError(f"capturing a CUDA graph failed: {error}", _REMEDY) from error
    return CapturedGraph(driver, executable)


def _recorded(driver: Any, handle: Any, enqueue: Callable[[int], bool]) -> Any:
    """The graph of what ``enqueue`` does, not ready to run; the caller destroys it."""
    # Other threads keep allocating and launching while this one captures.
    mode = driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
    _checked("cuStreamBeginCapture", driver.cuStreamBeginCapture(handle, mode))
    accepted, ended = False, None
    try:
        accepted = enqueue(int(handle))
    finally:
        # Whatever became of it: a stream that is left capturing refuses all further work.
        ended = driver.cuStreamEndCapture(handle)
        if not accepted and not int(ended[0]):
            driver.cuGraphDestroy(ended[1])
    if not accepted:
        raise RunError("the engine refused to be captured as a CUDA graph", _REMEDY)
    # A capture that was spoilt has an error here, and no graph.
    return _checked("cuStreamEndCapture", ended)


def _checked(name: str, answer: tuple[Any, ...]) -> Any:
    """What a function of the driver gives beside its code: None, one value, or a tuple of several."""
    code, *values = answer
    if int(code):
        raise RuntimeError(f"{name}: {getattr(code, 'name', code)}")
    return values[0] if len(values) == 1 else tuple(values) or None
