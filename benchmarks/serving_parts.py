"""The parts of ``benchmarks/serving.py``: tuning, capacity, and equal load, on servers that have been started."""

import argparse
import json
import statistics
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.serving_servers import OURS, Server

if TYPE_CHECKING:
    import subprocess

CALLERS = 16
WARM_UP = 1.0
"""Seconds before each turn that don't count: the process wakes, connections open, caches fill."""
ARRIVALS = 200
"""Requests in a turn of equal load at least: a slow pair gets longer turns, up to :data:`LONGEST` seconds."""
LONGEST = 60.0

Side = tuple[str, str]
"""A server's name and the wire that it is asked by."""


class Field:
    """The servers, and the process that asks them.

    Args:
        servers: all of them, started.
        load: the process, see :mod:`benchmarks.serving_load`.
    """

    def __init__(self, servers: list[Server], load: "subprocess.Popen[str]") -> None:
        self.servers = [server for server in servers if not server.failure]
        self._load = load

    def of(self, side: Side) -> list[Server]:
        return [server for server in self.servers if server.entrant.name == side[0]]

    def sides(self) -> list[Side]:
        names = dict.fromkeys(server.entrant for server in self.servers)
        return [(entrant.name, wire) for entrant in names for wire in entrant.wires]

    def turn(self, server: Server, wire: str, seconds: float, **how: Any) -> dict[str, Any]:
        """One server's turn: what the asking process found, and what the server's processes spent on it."""
        order = {"wire": wire, "port": server.port(wire), "seconds": seconds, "warm_up": WARM_UP, **how}
        server.work()
        before = server.cpu_seconds()
        assert self._load.stdin
        assert self._load.stdout
        try:
            self._load.stdin.write(json.dumps(order) + "\n")
            self._load.stdin.flush()
            found: dict[str, Any] = json.loads(self._load.stdout.readline())
            if "failure" not in found:
                found["server_cpu_seconds"] = server.cpu_seconds() - before
                found["resident_bytes"] = server.resident_bytes()
        finally:
            server.rest()
        return found


def tune(field: Field, seconds: float) -> tuple[dict[Side, Server], list[dict[str, Any]]]:
    """The variant of each side that answers the most requests a second, and of a server's ways over HTTP the best."""
    best: dict[Side, Server] = {}
    most: dict[Side, float] = {}
    tried = []
    for side in field.sides():
        rates = []
        for server in field.of(side):
            found = field.turn(server, side[1], seconds, concurrency=CALLERS)
            rates.append(found.get("per_second", 0.0) if not found.get("wrong") else 0.0)
            tried.append({"side": list(side), "variant": list(server.variant), **plain(found)})
            trouble = found.get("failure") or "; ".join(found.get("examples", [])[:1])
            print(f"  {' '.join(side):22} {' '.join(server.variant):38} {rates[-1]:8.1f}/s {trouble}", flush=True)
        if max(rates) > 0:
            best[side], most[side] = field.of(side)[rates.index(max(rates))], max(rates)
    for side, rate in most.items():
        if any(other[0] == side[0] and against(other, side) and most[other] > rate for other in most):
            del best[side]
    return best, tried


def capacity(field: Field, best: dict[Side, Server], rounds: int, seconds: float) -> dict[Side, list[dict[str, Any]]]:
    """Every side's turns; each round in the other direction."""
    found: dict[Side, list[dict[str, Any]]] = {side: [] for side in best}
    for number in range(rounds):
        for side in list(best)[:: 1 if number % 2 == 0 else -1]:
            found[side].append(field.turn(best[side], side[1], seconds, concurrency=CALLERS))
    return found


def equal_load(
    field: Field, sides: tuple[Side, Side], best: dict[Side, Server], slower: float, options: argparse.Namespace
) -> dict[str, Any]:
    """Ours and a rival in turns at the same arrivals; the rival in the variant that did best at the highest load."""
    ours, rival = sides
    shares = sorted(float(share) for share in options.loads.split(","))
    served, tried = dict(best), []
    if len(field.of(rival)) > 1:
        rate = shares[-1] * slower
        for server in field.of(rival):
            found = field.turn(server, rival[1], longest(options.tuning, rate), rate=rate, seed=99)
            tried.append({"variant": list(server.variant), **plain(found)})
        served[rival] = field.of(rival)[int(np.argmin([trial.get("p99", np.inf) for trial in tried]))]
    loads = []
    for share in shares:
        rate = share * slower
        turns: dict[Side, list[dict[str, Any]]] = {side: [] for side in sides}
        for number in range(options.rounds):
            for side in sides[:: 1 if number % 2 == 0 else -1]:
                seconds = longest(options.seconds, rate)
                turns[side].append(field.turn(served[side], side[1], seconds, rate=rate, seed=number))
        pooled = {side: np.concatenate([turn.get("latencies", []) for turn in turns[side]]) for side in sides}
        cuts = {
            side: {f"p{cut}": float(np.quantile(pooled[side], cut / 100)) for cut in (50, 90, 99)}
            if len(pooled[side])
            else {}
            for side in sides
        }
        loads.append(
            {
                "share": share,
                "rate": rate,
                "ours": cuts[ours],
                "rival": cuts[rival],
                "p99_ratio": cuts[ours]["p99"] / cuts[rival]["p99"] if cuts[ours] and cuts[rival] else None,
                "turns": {
                    "ours": [plain(turn) for turn in turns[ours]],
                    "rival": [plain(turn) for turn in turns[rival]],
                },
            }
        )
    return {"variant": list(served[rival].variant), "tried": tried, "loads": loads}


def longest(seconds: float, rate: float) -> float:
    return max(seconds, min(LONGEST, ARRIVALS / rate))


def plain(found: dict[str, Any]) -> dict[str, Any]:
    """A turn as it goes into the record: without each single time."""
    return {key: value for key, value in found.items() if key != "latencies"}


def against(ours: Side, rival: Side) -> bool:
    """Whether the two are compared: gRPC with gRPC, and HTTP, in whatever form, with HTTP."""
    return (ours[1] == "oip-grpc") == (rival[1] == "oip-grpc")


def measure(field: Field, options: argparse.Namespace) -> dict[str, Any]:
    """All three parts."""
    print("tuning", flush=True)
    best, tried = tune(field, options.tuning)
    print("capacity", flush=True)
    turns = capacity(field, best, options.rounds, options.seconds)
    rates = {side: statistics.median(turn.get("per_second", 0.0) for turn in found) for side, found in turns.items()}
    for side, rate in rates.items():
        print(f"  {' '.join(side):22} {rate:8.1f}/s", flush=True)
    pairs = []
    print("load", flush=True)
    for ours in (side for side in best if side[0] == OURS.name):
        for rival in (side for side in best if side[0] != OURS.name and against(ours, side)):
            ratios = [
                one["per_second"] / other["per_second"]
                for one, other in zip(turns[ours], turns[rival], strict=True)
                if one.get("per_second") and other.get("per_second")
            ]
            pair: dict[str, Any] = {
                "ours": list(ours),
                "rival": list(rival),
                "capacity_ratios": ratios,
                "capacity_ratio": statistics.median(ratios) if ratios else None,
            }
            if (slower := min(rates[ours], rates[rival])) > 0:
                pair["load"] = equal_load(field, (ours, rival), best, slower, options)
            pairs.append(pair)
            print(sentence(pair), flush=True)
    return {
        "tuning": tried,
        "capacity": [
            {
                "side": list(side),
                "variant": list(best[side].variant),
                "per_second": rates[side],
                "turns": [plain(turn) for turn in found],
            }
            for side, found in turns.items()
        ],
        "pairs": pairs,
        "wrong_answers": wrong_answers(turns, pairs),
    }


def wrong_answers(turns: dict[Side, list[dict[str, Any]]], pairs: list[dict[str, Any]]) -> dict[str, int]:
    """By server, in everything that counted."""
    found: dict[str, int] = {}
    rows = [(side[0], turn) for side, several in turns.items() for turn in several]
    for pair in pairs:
        for load in pair.get("load", {}).get("loads", []):
            for who in ("ours", "rival"):
                rows += [(pair[who][0], turn) for turn in load["turns"][who]]
    for name, turn in rows:
        found[name] = found.get(name, 0) + turn.get("wrong", 0)
    return found


def sentence(pair: dict[str, Any]) -> str:
    parts = [f"  {' '.join(pair['ours'])} : {' '.join(pair['rival'])}: "]
    parts.append(f"{pair['capacity_ratio']:.2f} times its requests/s" if pair["capacity_ratio"] else "no rate")
    for load in pair.get("load", {}).get("loads", []):
        if load["p99_ratio"] is not None:
            ours, rival = (1e3 * load[who]["p99"] for who in ("ours", "rival"))
            parts.append(f"; p99 at {load['rate']:.0f}/s {ours:.1f} ms against {rival:.1f} ms")
    return "".join(parts)
