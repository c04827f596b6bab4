"""Sessions for the batcher's tests, and the check that none of its threads outlives a test."""

import threading

import onnx
import pytest

from engines.sessions import open_session
from engines.sessions.fake import FakeSession
from tests.tiny import tiny_graph


def batcher_threads():
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("batcher-")]


@pytest.fixture(autouse=True)
def no_thread_is_left():
    assert batcher_threads() == []
    yield
    assert batcher_threads() == []


@pytest.fixture(scope="session")
def graph_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("batching") / "tiny.onnx"
    onnx.save(tiny_graph(), path)
    return path


@pytest.fixture(params=["fake", "onnxruntime"])
def new_session(request, graph_path):
    """Makes sessions of one kind: the fake, or the real one on the CPU."""
    opened = []

    def make():
        real = request.param == "onnxruntime"
        session = open_session(graph_path, device="cpu", threads=1) if real else FakeSession()
        opened.append(session)
        return session

    yield make
    for session in opened:
        session.close()
