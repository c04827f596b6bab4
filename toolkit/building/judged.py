"""What a bisection judges: a graph as written, a graph in another backend, or the typed graph of an engine."""

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engines.errors import GraphError, InputError
from engines.files import write_atomically
from engines.passport import Passport, find_passport
from engines.progress import QUIET, Progress
from engines.sessions.opening import fitting_backend, open_session
from toolkit.artifacts import kind_of
from toolkit.building.marked import Note, build_marked, rebuild_options, typed_graph

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from calibration.bisection.source import Backend
    from engines.sessions.base import Session


@dataclass(frozen=True)
class Judged:
    """The second side of a bisection.

    Attributes:
        graph: the graph to read.
        backend: what runs it; None for ONNX Runtime, as written.
        batches: the (least, largest) batches that the engine takes, one a profile; empty where all are taken.
    """

    graph: Path
    backend: "Backend | None" = None
    batches: tuple[tuple[int, int], ...] = field(default=())

    def fit(self, batch_size: int, images: int) -> tuple[int, int]:
        """The nearest batch size that is taken, and how many images fill such batches; a rest that isn't is dropped.

        Raises:
            InputError: there are too few images for one batch.
        """
        if not self.batches:
            return batch_size, images
        below = [min(most, batch_size) for least, most in self.batches if least <= batch_size]
        size = max(below) if below else min(least for least, _ in self.batches)
        rest = images % size
        if any(least <= rest <= most for least, most in self.batches):
            return size, images
        if rest == images:
            raise InputError(f"the engine takes batches of {size} or more", f"give --images {size} or more")
        return size, images - rest


def judged(
    path: Path,
    asked: str = "auto",
    *,
    device: str = "auto",
    threads: int | None = None,
    progress: Progress = QUIET,
    on_note: Note,
) -> Judged:
    """What is to be judged, and what runs it.

    An engine is opened once before anything long is done: where it can't run there is nothing to find.

    Args:
        path: a graph or an engine.
        asked: a backend for the graph ("openvino"); "auto" computes it as written, or takes the engine's.
        device: of the backend.
        threads: CPU threads of the backend; None leaves it its default.
        progress: told of builds.
        on_note: told where the marked engine isn't of the engine's precision.

    Raises:
        InputError: the file can't be read, has no passport, or there is no such backend.
        GraphError: it is neither a graph nor an engine.
        EngineFormatError: the engine or its passport is damaged.
        EngineMismatchError: the typed graph isn't beside the engine, or the engine is for another GPU.
        UnsupportedError: this machine can't run the engine.
    """
    kind = kind_of(path)
    if kind not in {"graph", "plan"}:
        raise GraphError(
            f"'{path}' is a {kind}, not an ONNX graph", "give an ONNX graph, or an engine with its passport"
        )
    if asked != "auto":
        fitting_backend(path, asked)
    if kind == "plan":
        passport = _passport(path)
        rebuild_options(passport)
        graph = typed_graph(path, passport)
        with open_session(path, backend=asked, device=device):
            pass

        def marked(file: Path) -> AbstractContextManager[SessionRunner]:
            return _built(file, passport, device, progress, on_note)

        backend = _backend(
            passport.backend, marked, path, asked, device, None, tf32=bool(passport.options.get("tf32"))
        )
        return Judged(graph, backend, _batches(passport))
    if asked == "auto":
        return Judged(path)

    def opened(file: Path) -> AbstractContextManager[SessionRunner]:
        return _opened(file, asked, device, threads)

    if device not in {"auto", "cpu"}:  # one that isn't there is told before anything long is done
        with open_session(path, backend=asked, device=device, threads=threads):
            pass
    return Judged(path, _backend(asked, opened, path, asked, device, threads))


class SessionRunner:
    """A session that goes by the graph's names, or by places where the backend calls tensors otherwise."""

    def __init__(self, session: "Session") -> None:
        self._session = session

    def run(self, outputs: Sequence[str], feeds: Mapping[str, Any]) -> "Sequence[NDArray[Any]]":
        names = [spec.name for spec in self._session.inputs]
        found = self._session.run(
            feeds if set(names) == set(feeds) else dict(zip(names, feeds.values(), strict=True))
        )
        if all(name in found for name in outputs):
            return [found[name] for name in outputs]
        return [found[spec.name] for spec in self._session.outputs[: len(outputs)]]


def _backend(
    name: str,
    marked: "Callable[[Path], AbstractContextManager[SessionRunner]]",
    path: Path,
    asked: str,
    device: str,
    threads: int | None,
    *,
    tf32: bool = False,
) -> "Backend":
    from calibration.bisection.source import Backend

    return Backend(name, marked, lambda: _opened(path, asked, device, threads), tf32)


@contextlib.contextmanager
def _opened(path: Path, backend: str, device: str, threads: int | None) -> Iterator[SessionRunner]:
    with open_session(path, backend=backend, device=device, threads=threads) as session:
        yield SessionRunner(session)


@contextlib.contextmanager
def _built(
    graph: Path, passport: Passport, device: str, progress: Progress, on_note: Note
) -> Iterator[SessionRunner]:
    """A graph with marked tensors, built for and opened in the passport's backend."""
    with tempfile.TemporaryDirectory(prefix="marked-") as folder:
        engine = Path(folder) / "marked.engine"
        write_atomically(engine, build_marked(graph, passport, progress=progress, on_note=on_note).data)
        with _opened(engine, "auto", device, None) as runner:
            yield runner


def _passport(engine: Path) -> Passport:
    passport = find_passport(engine)
    if passport is None:
        raise InputError(
            f"'{engine}' has no passport beside it, which would say what graph it was built from, and how",
            "give the typed graph that the engine was built from, or build it again with `toolkit build-engine`",
        )
    return passport


def _batches(passport: Passport) -> tuple[tuple[int, int], ...]:
    """The batches that the engine's profiles take, those of its first input."""
    shapes = [next(iter(profile.values())) for profile in passport.profiles if profile]
    return tuple((int(least[0]), int(most[0])) for least, _, most in shapes if least and most)
