"""Waiting requests in the order in which they are to be run: by priority, then by arrival."""

from collections import deque

from engines.errors import InputError
from toolkit.runtime.batching.answer import RUNNING, WAITING, Answer


class Lanes:
    """A lane of requests for each priority; whoever uses it holds the lock of the queue.

    A request that is answered while it waits leaves its place taken: it is passed over when its turn comes, or
    cleared away with others once there are too many such. So cancelling costs the same wherever a request stands.

    Args:
        limit: places of requests that have left, before they are cleared away.

    Attributes:
        depth: samples that wait.
    """

    def __init__(self, limit: int) -> None:
        self.depth = 0
        self._limit, self._gone = limit, 0
        self._lanes: dict[int, deque[Answer]] = {0: deque()}
        self._order: tuple[int, ...] = (0,)

    def add(self, answer: Answer) -> None:
        """Put a request behind the others of its priority; raises InputError where that is no whole number."""
        lane = self._lanes.get(answer.priority) or self._lane(answer.priority)
        # An interrupt may come after the call, not before: the depth must be right by then.
        self.depth += answer.count
        lane.append(answer)

    def add_first(self, answer: Answer) -> None:
        """Put a request before the others of its priority."""
        self._lane(answer.priority).appendleft(answer)
        self.depth += answer.count

    def leave(self, answer: Answer) -> None:
        """Count a request out that waits, and is about to be answered."""
        self.depth -= answer.count
        self._gone += 1
        if self._gone > self._limit:
            for priority, lane in self._lanes.items():
                self._lanes[priority] = deque(one for one in lane if one.state == WAITING and one is not answer)
            self._gone = 0

    def clear(self) -> list[Answer]:
        """Take everything that waits."""
        waiting = [answer for lane in self._lanes.values() for answer in lane if answer.state == WAITING]
        self._lanes, self._order = {0: deque()}, (0,)
        self.depth = self._gone = 0
        return waiting

    def oldest(self) -> float | None:
        """When the request arrived that has waited longest; None when none waits."""
        oldest = None
        for lane in self._lanes.values():
            while lane and lane[0].state != WAITING:
                lane.popleft()
                self._gone -= 1
            if lane and (oldest is None or lane[0].arrived < oldest):
                oldest = lane[0].arrived
        return oldest

    def form(self, room: int, now: float) -> tuple[list[Answer], list[Answer]]:
        """Take the next batch.

        A request is never split, and one that a session has failed before is alone in its batch.

        Args:
            room: samples that fit.
            now: by ``time.monotonic``.

        Returns:
            The batch, whose requests are running now; and requests whose deadline has passed, taken out too.
        """
        batch: list[Answer] = []
        late: list[Answer] = []
        for priority in self._order:
            lane = self._lanes[priority]
            while room and lane:
                answer = lane[0]
                if answer.state != WAITING:
                    self._gone -= 1
                elif answer.deadline is not None and answer.deadline <= now:
                    late.append(answer)
                    self.depth -= answer.count
                elif answer.count > room or (answer.attempts and batch):
                    room = 0
                    break
                else:
                    answer.state = RUNNING
                    batch.append(answer)
                    self.depth -= answer.count
                    room = 0 if answer.attempts else room - answer.count
                lane.popleft()
            if not lane and priority:
                self._close(priority)
            if not room:
                break
        return batch, late

    def _lane(self, priority: int) -> deque[Answer]:
        if not isinstance(priority, int):
            raise InputError(f"the priority is {priority!r}", "give a whole number: higher goes first")
        lane = self._lanes.get(priority)
        if lane is None:
            lane = self._lanes[priority] = deque()
            self._order = tuple(sorted(self._lanes, reverse=True))
        return lane

    def _close(self, priority: int) -> None:
        del self._lanes[priority]
        self._order = tuple(one for one in self._order if one != priority)
