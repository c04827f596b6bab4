"""The short form of ``benchmarks/soak.py``: a real server in a process of its own, and clients good and bad."""

import asyncio

import numpy as np
import pytest

from benchmarks import soak, soak_clients, soak_drain
from benchmarks.serving_wire import Reply
from benchmarks.soak_clients import KINDS, Client, Tally

ROWS = np.array([[1, 2, 3, 4], [5, 6, 7, 8]], np.float32)


def answer(rows: np.ndarray, *versions: int) -> dict[str, np.ndarray]:
    return {"echo": rows, "sum": rows.sum(axis=1), "version": np.array(versions, np.float32)}


def test_thousands_of_requests_through_reloads_and_deaths() -> None:
    found = soak.run_soak(2000, 16, reloads=2, kills=1)
    assert found["examples"] == []
    assert found["problems"] == 0
    assert found["versions"] == {"written": 3, "seen": 3}
    # One died by itself, and three behind a replaced file, of which no session may take their place.
    assert found["failures"] >= 4
    assert found["tracebacks"] == 0
    assert found["exit_code"] == 0
    assert found["requests"] >= 2000
    assert {outcome.split(":")[0] for outcome in found["outcomes"]} == set(KINDS)


def test_a_server_that_is_told_to_end_under_load_answers_what_it_was_sent() -> None:
    (found,) = soak_drain.run_drains(1, 16, after=0.5)
    lost = {outcome: count for outcome, count in found["outcomes"].items() if outcome.startswith("lost")}
    assert lost == {}
    assert found["lost"] == 0
    assert found["answered"] > 100
    assert found["exit_code"] == 0


@pytest.mark.parametrize(
    ("outputs", "complaint"),
    [
        (answer(ROWS[::-1], 1, 1), "somebody else's answer"),
        ({**answer(ROWS, 1, 1), "sum": np.array([10, 27], np.float32)}, "a wrong sum"),
        (answer(ROWS, 1, 1), "after 2 had answered"),
        (answer(ROWS, 4, 4), "after 2 had answered"),
        (answer(ROWS, 2, 3), "versions {2, 3} in one answer"),
    ],
)
def test_a_wrong_answer_is_noticed(outputs: dict[str, np.ndarray], complaint: str) -> None:
    tally = Tally(written=3, seen=2)
    with pytest.raises(AssertionError, match=complaint):
        Client(0, (0, 0), tally)._right(ROWS, 2, outputs)
    assert tally.seen == 2


def test_the_newest_version_that_answered_is_remembered() -> None:
    tally = Tally(written=3, seen=2)
    Client(0, (0, 0), tally)._right(ROWS, 2, answer(ROWS, 3, 3))
    assert tally.seen == 3


@pytest.mark.parametrize("body", [b"[]", b"{}", b'{"error": ""}', b'{"error": 3}', b'{"error": "Traceback (most"}'])
def test_an_error_without_a_message_is_noticed(body: bytes) -> None:
    with pytest.raises(AssertionError):
        Client(0, (0, 0), Tally())._typed(Reply(400, body))


def test_a_server_that_hangs_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soak_clients, "LIMIT", 0.2)
    monkeypatch.setattr(soak_clients, "KINDS", {"http_binary": 1})

    class Silent(asyncio.Protocol):
        """Takes everything, and says nothing."""

    async def main() -> Tally:
        silent = await asyncio.get_running_loop().create_server(Silent, "127.0.0.1", 0)
        tally = Tally(disturbed=True)
        async with silent:
            await Client(0, (silent.sockets[0].getsockname()[1], 0), tally).run(1)
        return tally

    tally = asyncio.run(main())
    assert tally.outcomes == {"http_binary: problem": 1}
    assert "hung" in tally.problems[0]
