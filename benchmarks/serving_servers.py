"""The servers that are compared: each a process group that is started once, and stands still between its turns."""

import contextlib
import itertools
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.children import tree

PEERS = Path(__file__).resolve().parent / "peers"
START = 90.0
"""Seconds that a server gets to answer at all."""
END = 10.0
"""Seconds that a server gets to end by itself."""
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Entrant:
    """A server that takes part.

    Attributes:
        name: of the environment that its Python is given for.
        wires: how it is asked, of :data:`benchmarks.serving_wire.WIRES`.
        variants: arguments that it is tried with; the best ones stand for it.
        health: the path that answers 200 once it is ready.
        arguments: those that it has in every variant; ``{port}`` becomes a free port.
        about: what there is to know about the comparison.
    """

    name: str
    wires: tuple[str, ...]
    variants: tuple[tuple[str, ...], ...] = ((),)
    health: str = "/v2/models/model/ready"
    arguments: tuple[str, ...] = ()
    about: str = ""


def variants(*choices: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    """Every combination of the choices, each of which is a line of arguments; the threads may spin or not."""
    lines = itertools.product(*choices, ("", "--no-spin"))
    return tuple(tuple(" ".join(line).split()) for line in lines)


OURS = Entrant("toolkit", ("oip-binary", "oip-grpc"))
RIVALS = (
    Entrant(
        "litserve",
        ("raw",),
        # A delay of 0 keeps a core busy with looking into an empty queue.
        variants(("--delay 0", "--delay 0.001", "--delay 0.005", "--delay 0.001 --slow-queue")),
        health="/health",
        about="its own API with bytes as the body and the answer; batches in a process beside the HTTP server's",
    ),
    Entrant(
        "kserve",
        ("oip-binary", "oip-json", "oip-grpc"),
        variants(("", "--in-threads")),
        about="the Python server has no batching: that is another process's, the agent's, in a cluster",
    ),
    Entrant(
        "mlserver",
        ("oip-json", "oip-grpc"),
        variants(("--delay 0.001", "--delay 0.01"), ("--workers 0", "--workers 1")),
        arguments=("--metrics-port", "{port}"),
        about="adaptive batching; its HTTP server takes JSON alone",
    ),
    Entrant(
        "pytriton",
        ("oip-binary", "oip-grpc"),
        variants(("--delay 0", "--delay 0.001", "--delay 0.005")),
        about="Triton's HTTP and gRPC servers and dynamic batcher in front of a Python process",
    ),
)


@dataclass
class Server:
    """A server at work or standing still.

    Attributes:
        entrant: whose it is.
        variant: its arguments.
        http, grpc: its ports.
        failure: why it can't take part; empty where it does.
        idle_cores: cores that it kept busy while nobody asked.
    """

    entrant: Entrant
    variant: tuple[str, ...]
    command: list[str]
    http: int
    grpc: int
    log: Path
    failure: str = ""
    idle_cores: float = 0.0
    process: "subprocess.Popen[bytes] | None" = field(default=None, repr=False)

    def port(self, wire: str) -> int:
        return self.grpc if wire == "oip-grpc" else self.http

    def start(self) -> None:
        """Start it, wait until it answers, look what it costs idle, and let it rest."""
        self._scratch.mkdir(exist_ok=True)
        environment = {**os.environ, "TMPDIR": str(self._scratch)}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                self.command, stdout=log, stderr=log, env=environment, start_new_session=True
            )
        until = time.monotonic() + START
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > until:
                lines = self.log.read_text(errors="replace").strip().splitlines()
                self.failure = f"it didn't start: {lines[-1][:300] if lines else 'without a word'}"
                self.end()
                return
            time.sleep(0.1)
        time.sleep(1.0)  # what it still does after its start isn't what it does idle
        before, began = self.cpu_seconds(), time.monotonic()
        time.sleep(1.0)
        self.idle_cores = (self.cpu_seconds() - before) / (time.monotonic() - began)
        self.rest()

    def work(self) -> None:
        self._signal(signal.SIGCONT)

    def rest(self) -> None:
        self._signal(signal.SIGSTOP)

    def end(self) -> None:
        """End it as it wants to be ended, if that doesn't take long: what it shares with its children goes too."""
        if self.process is not None and self.process.poll() is None:
            pids = self._pids()
            self._signal(signal.SIGCONT)
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(END)
            self._signal(signal.SIGKILL, pids)
            self.process.wait()
        shutil.rmtree(self._scratch, ignore_errors=True)

    @property
    def _scratch(self) -> Path:
        return self.log.with_suffix(".tmp")

    def cpu_seconds(self) -> float:
        """Of all of its processes, since they began."""
        return sum(_cpu_seconds(pid) for pid in self._pids())

    def resident_bytes(self) -> int:
        """What all of its processes have for themselves and their share of what they have together."""
        return sum(_proportional_bytes(pid) for pid in self._pids())

    def _pids(self) -> list[int]:
        return tree(self.process.pid) if self.process is not None else []

    def _signal(self, number: signal.Signals, pids: list[int] | None = None) -> None:
        for pid in self._pids() if pids is None else pids:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.http}{self.entrant.health}", timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False


def servers_of(
    entrant: Entrant, python: str, graph: Path, threads: int, max_batch: int, folder: Path
) -> list[Server]:
    """One for each variant, not started yet."""
    found = []
    for number, variant in enumerate(entrant.variants):
        http, grpc = free_port(), free_port()
        extra = [argument.format(port=free_port()) for argument in entrant.arguments]
        common = ["--http-port", str(http), "--grpc-port", str(grpc), "--threads", str(threads)]
        common += ["--max-batch", str(max_batch), *extra, *variant]
        if entrant is OURS:
            command = [str(Path(python).with_name("toolkit")), "serve", f"model={graph}", "--device", "cpu", *common]
        else:
            command = [python, str(PEERS / f"serve_{entrant.name}.py"), str(graph), *common]
        found.append(Server(entrant, variant, command, http, grpc, folder / f"{entrant.name}-{number}.log"))
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def python_of(name: str, given: dict[str, str]) -> str | None:
    return sys.executable if name == OURS.name else given.get(name)


def describe(server: Server) -> dict[str, Any]:
    return {"variant": list(server.variant), "idle_cores": round(server.idle_cores, 3), "failure": server.failure}


def _cpu_seconds(pid: int) -> float:
    try:
        # The name, in brackets, may hold spaces; user and system time are the 14th and 15th field of the line.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / TICKS


def _proportional_bytes(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    return int(text.split("\nPss:")[1].split()[0]) * 1024
