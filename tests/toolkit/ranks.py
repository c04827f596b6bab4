"""The processes of a training in several, as torchrun starts them."""

import json
import os
import signal
import sys
import time
from pathlib import Path

from tests.forking import forkserver

NUMBERS = ["--architecture", "tiny", "--batch-size", "8", "--lr", "0.005", "--precision", "fp32", "--dropout", "0"]
OPTIONS = [*NUMBERS, "--device", "cpu", "--no-curves"]


def main(arguments: list[str]) -> None:
    """``toolkit train`` with a small network, whose weights each process leaves in ``rank0.json``, ..."""
    import torch

    import toolkit.steps.train as steps
    from export.models import registry
    from export.state_dicts import digest_state
    from tests.export.tiny_net import SPEC
    from toolkit.cli import main as toolkit

    torch.set_num_threads(1)
    registry.ARCHITECTURES["tiny"] = SPEC  # type: ignore[index]
    saving = steps._Training._save

    def told(self, module, *rest):  # type: ignore[no-untyped-def]
        digest = digest_state(dict(module.state_dict()))
        Path(f"rank{self.group.rank}.json").write_text(json.dumps([digest, self.group.world]))
        return saving(self, module, *rest)

    steps._Training._save = told  # type: ignore[method-assign]
    sys.argv = ["toolkit", "train", *OPTIONS, *arguments]
    toolkit(sys.argv[1:])


def torchrun(arguments: list[str]) -> None:
    """``torchrun --standalone --nproc-per-node 2 --no-python`` of a Python that runs this file."""
    from torch.distributed import run

    own = [sys.executable, "-m", "tests.toolkit.ranks", *arguments]
    run.main(["--standalone", "--nproc-per-node", "2", "--no-python", *own])


class Process:
    """A process that runs one of the above in a folder.

    Args:
        folder: its working directory, in which its output is kept.
        arguments: of ``toolkit train``.
        rank: its place among two, as torchrun would say it; None for torchrun itself.
        port: of the leading process.
    """

    def __init__(self, folder: Path, *arguments: str, rank: int | None = None, port: int = 0) -> None:
        root = str(Path(__file__).resolve().parent.parent.parent)
        place = {"OMP_NUM_THREADS": "1", "PYTHONPATH": root}
        if rank is not None:
            place |= {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank)}
            place |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        self._out, self._err = (folder / f"{name}{rank}.txt" for name in ("out", "err"))
        self._err.unlink(missing_ok=True)
        files = (str(self._out), str(self._err))
        self._process = forkserver().Process(target=_begin, args=(str(folder), place, files, rank is None, arguments))
        self._process.start()

    def until(self, text: str) -> None:
        """Wait until it has said this."""
        limit = time.monotonic() + 120
        while text not in self.err:
            assert self._process.is_alive(), self.err
            assert time.monotonic() < limit, self.err
            time.sleep(0.02)

    def send(self, number: signal.Signals) -> None:
        assert self._process.pid is not None
        os.kill(self._process.pid, number)

    def wait(self) -> int:
        """Its exit status."""
        self._process.join(120)
        assert self._process.exitcode is not None, self.err
        return self._process.exitcode

    @property
    def out(self) -> str:
        return self._out.read_text()

    @property
    def err(self) -> str:
        return self._err.read_text() if self._err.exists() else ""


def _begin(folder: str, place: dict[str, str], files: tuple[str, str], launches: bool, arguments: list[str]) -> None:
    os.chdir(folder)
    os.environ.update(place)
    for path, number in zip(files, (1, 2), strict=True):
        with Path(path).open("wb") as file:
            os.dup2(file.fileno(), number)
    sys.stdout, sys.stderr = (open(number, "w", closefd=False, buffering=1) for number in (1, 2))  # noqa: SIM115
    (torchrun if launches else main)(list(arguments))


if __name__ == "__main__":
    main(sys.argv[1:])
