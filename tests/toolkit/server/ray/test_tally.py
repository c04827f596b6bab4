"""Sums over replicas that come and go."""

from toolkit.server.ray.tally import Tally, added


def said(accepted: int, depth: int, largest: float) -> dict[str, dict[str, object]]:
    return {
        "tiny": {
            "depth": depth,
            "sessions": 1,
            "requests": {"accepted": accepted},
            "batches": {"1": accepted},
            "running": {"count": accepted, "seconds": 0.5 * accepted, "largest": largest, "buckets": (accepted, 0)},
            "bounds": [0.1],
            "generation": 2,
            "errors": {},
        }
    }


def test_replicas_are_added_up_and_what_was_done_never_shrinks() -> None:
    tally = Tally()
    assert tally.total() == {}
    tally.take({"a": said(3, 2, 0.4), "b": said(4, 1, 0.9)})
    both = tally.total()["tiny"]
    assert (both["depth"], both["sessions"], both["generation"]) == (3, 2, 2)
    assert (both["requests"], both["batches"]) == ({"accepted": 7}, {"1": 7})
    assert both["running"] == {"count": 7, "seconds": 3.5, "largest": 0.9, "buckets": [7, 0]}
    assert both["bounds"] == [0.1]

    # "b" dies: what it did counts, what waited in it doesn't. "c" takes its place.
    tally.take({"a": said(5, 0, 0.4), "c": said(1, 6, 0.1)})
    then = tally.total()["tiny"]
    assert (then["depth"], then["sessions"]) == (6, 2)
    assert then["requests"] == {"accepted": 10}
    assert then["running"]["largest"] == 0.9

    tally.take({})
    assert tally.total()["tiny"]["requests"] == {"accepted": 10}
    assert tally.total()["tiny"]["sessions"] == 0


def test_what_only_one_knows_is_kept() -> None:
    assert added([{"a": {"depth": 1}}, {"b": {"depth": 2}}, {"a": {"errors": {"InputError": 1}}}]) == {
        "a": {"depth": 1, "errors": {"InputError": 1}},
        "b": {"depth": 2},
    }
