"""CUDA graphs on the GPU of simulated.py, as much of the driver's own functions as the sessions use."""

import types
from dataclasses import dataclass

from tests.engines import simulated


@dataclass(eq=False)
class Graph:
    """Recorded work: a CUgraph, or the CUgraphExec made of one."""

    work: list
    executable: bool = False
    closed: bool = False

    def __post_init__(self):
        graphs.append(self)


graphs: list[Graph] = []
"""Every graph that was made, for tests that ask whether all were destroyed."""

CAPTURE_INVALIDATED = 901


class Driver:
    """Stands for the module ``cuda.bindings.driver``; 0 is CUDA_SUCCESS."""

    CUstreamCaptureMode = types.SimpleNamespace(CU_STREAM_CAPTURE_MODE_THREAD_LOCAL="thread_local")

    @staticmethod
    def cuStreamBeginCapture(handle, mode):  # noqa: N802 - CUDA's name
        simulated.needs_context()
        stream = simulated._streams[handle]
        assert mode == "thread_local"
        assert stream.recording is None
        stream.recording, stream.spoilt = [], False
        return (0,)

    @staticmethod
    def cuStreamEndCapture(handle):  # noqa: N802 - CUDA's name
        stream = simulated._streams[handle]
        assert stream.recording is not None, "no capture to end"
        work, stream.recording = stream.recording, None
        return (CAPTURE_INVALIDATED, None) if stream.spoilt else (0, Graph(work))

    @staticmethod
    def cuGraphGetNodes(graph):  # noqa: N802 - CUDA's name
        assert not graph.closed
        return 0, graph.work, len(graph.work)

    @staticmethod
    def cuGraphInstantiate(graph, flags):  # noqa: N802 - CUDA's name
        assert not graph.closed
        assert flags == 0
        return 0, Graph(graph.work, executable=True)

    @staticmethod
    def cuGraphLaunch(graph, handle):  # noqa: N802 - CUDA's name
        assert graph.executable
        assert not graph.closed
        for step in graph.work:
            simulated._streams[handle].do(*step)
        return (0,)

    @staticmethod
    def cuGraphDestroy(graph):  # noqa: N802 - CUDA's name
        assert not graph.executable
        assert not graph.closed, "destroyed twice"
        graph.closed = True
        return (0,)

    @staticmethod
    def cuGraphExecDestroy(graph):  # noqa: N802 - CUDA's name
        assert graph.executable
        assert not graph.closed, "destroyed twice"
        for _, reads, writes in graph.work:
            for item in (*reads, *writes):
                item.check(simulated._known_to_host, writes=False)
        graph.closed = True
        return (0,)
