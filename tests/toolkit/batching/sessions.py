"""Sessions that run when a test lets them, and the questions that tests ask."""

import threading

import numpy as np

from engines.errors import RunError
from engines.sessions.base import SessionInfo
from engines.sessions.fake import FakeSession
from engines.sessions.owned import OwnedSession
from engines.tensors import TensorSpec

PATIENCE = 20
"""Seconds after which a test that waits for another thread fails; it is never waited out by a test that passes."""


def within(condition):
    """Assert that an Event, Semaphore or Barrier-like ``acquire`` comes through."""
    assert condition(timeout=PATIENCE), "nothing happened"


class Gated(FakeSession):
    """Runs only as often as it is let: ``entered`` tells of each run that has begun, ``let`` lets one end."""

    def __init__(self, *args, fails=lambda data: None, **options):
        super().__init__(*args, **options)
        self.entered, self.gate, self.fails = threading.Semaphore(0), threading.Semaphore(0), fails
        self.seen = []

    def _run(self, feeds, batch):
        self.seen.append(feeds["input"].copy())
        self.entered.release()
        assert self.gate.acquire(timeout=PATIENCE), "nobody let the session go on"
        if error := self.fails(feeds["input"]):
            raise error
        return super()._run(feeds, batch)

    def let(self, runs=1):
        self.gate.release(runs)

    def let_all(self):
        self.gate.release(1000)


def small(**options):
    """A gated session of two numbers a sample and one answer."""
    return Gated((2,), 1, **options)


def poisoned(value):
    """For ``Gated(fails=...)``: a batch fails that has this number in it."""
    return lambda data: RunError(f"there is a {value} in it", "take it out") if (data == value).any() else None


def sample(value, shape=(2,)):
    """One sample that holds a number."""
    return np.full(shape, value, np.float32)


def values(session):
    """The first number of every sample, by batch, that a gated session has run."""
    return [batch[:, 0].tolist() for batch in session.seen]


class Plain(OwnedSession):
    """A session of any inputs and outputs; ``function`` maps feeds to a dict of outputs."""

    def __init__(self, inputs, outputs, function, *, max_batch=None):
        super().__init__(
            tuple(TensorSpec(*one) for one in inputs),
            tuple(TensorSpec(*one) for one in outputs),
            None,
            SessionInfo("fake", "cpu", max_batch=max_batch),
        )
        self.function, self.fed = function, []

    def _run(self, feeds, batch):
        self.fed.append({name: array.copy() for name, array in feeds.items()})
        return self.function(feeds)

    def _release(self):
        pass


class DeviceLike(FakeSession):
    """Its slots run beside the host, each until a test lets it finish: ``started`` holds them in order."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self._info = SessionInfo("fake", "cuda:0", max_batch=self._info.max_batch)
        self.started, self.news = [], threading.Semaphore(0)
        self.at_once, self.refusal = False, None

    def slots(self, count=2, *, max_batch=None):
        return tuple(DeviceLikeSlot(self, slot) for slot in super().slots(count, max_batch=max_batch))

    def first(self, count):
        """The first slots that were started, once there are this many."""
        while len(self.started) < count:
            within(self.news.acquire)
        return self.started[:count]

    def finish(self):
        """Let everything finish, and from now on at once."""
        self.at_once = True
        for slot in self.started:
            slot.finished.set()


class DeviceLikeSlot:
    """A slot that is under way until ``finished`` is set; ``looked`` tells that its worker waits for it."""

    def __init__(self, session, slot):
        self._session, self._slot, self.capacity = session, slot, slot.capacity
        self.finished, self.looked, self.error = threading.Event(), threading.Semaphore(0), None

    def inputs(self, batch):
        self.batch = batch
        return self._slot.inputs(batch)

    def start(self):
        refusal, self._session.refusal = self._session.refusal, None
        if refusal is not None:
            raise refusal
        self.finished.clear()
        self._session.started.append(self)
        self._session.news.release()
        if self._session.at_once:
            self.finished.set()

    def done(self):
        return self.finished.is_set()

    def wait(self):
        self.looked.release()
        assert self.finished.wait(PATIENCE), "nobody let the slot finish"
        error, self.error = self.error, None
        if error is not None:
            raise error
        self._slot.start()
        return self._slot.wait()
