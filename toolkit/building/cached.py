"""Builds from the cache: neither is a graph typed again nor an engine built again that was made before.

Two things are kept in the cache folder (:mod:`engines.store`). What is known of a typed graph, by the digests of the
master graph and the calibration table: if the typed graph still lies beside the master, nobody needs to read either.
And the engine, by the digest of the typed graph, the library and the options, with the report of its layers: the
audit judges that report as if the engine had just been built.
"""

import functools
import hashlib
import importlib.util
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engines.builders.tensorrt import BuiltPlan
from engines.errors import ToolkitError
from engines.files import atomic_file
from engines.installed import library_version, this_platform
from engines.metadata import ModelMetadata
from engines.store import Entry, Store, open_store, timing_cache
from engines.store.stamps import stamp_of
from toolkit.building.choose import typed_path
from toolkit.building.known_plan import PLAN, KnownPlan, kept_form, read_plan
from toolkit.building.typed_graph import TypedGraph

if TYPE_CHECKING:
    from engines.builders.options import BuildOptions
    from engines.target import Gpu

_DECIDING = ("export", "calibration", "engines.builders", "toolkit.building")
"""Packages whose code decides what a typed graph and an engine become."""


@dataclass(frozen=True)
class Recipe:
    """What a typed graph is made from.

    Attributes:
        graph: the master graph's file, or that of a graph that is typed already.
        precision: of the engine.
        backend: whose engine it becomes.
        table: the calibration table's file; None where the precision needs none.
        keep: layers that stay unquantised, as the user names them.
        allow_partial: whether the lint refuses what would run in a wider type, or tells it.
    """

    graph: Path
    precision: str
    backend: str
    table: Path | None = None
    keep: tuple[str, ...] = ()
    allow_partial: bool = False


@dataclass(frozen=True)
class KnownGraph:
    """What the cache knows of a typed graph.

    Attributes:
        typed: the graph; its content is read when somebody asks for it.
        notes: what its build told the user.
        calibration: what a passport says of its ranges.
    """

    typed: TypedGraph
    notes: tuple[str, ...]
    calibration: Mapping[str, Any] | None


class BuildCache:
    """The cache as one build sees it.

    Args:
        backend: that is built for.
        gpus: those of this machine; TensorRT builds for the first.
        driver: version of their driver.
        enabled: False never finds or keeps anything.

    Attributes:
        notes: why something couldn't be kept, a line each.
    """

    def __init__(
        self, backend: str, gpus: "Sequence[Gpu]" = (), driver: str | None = None, *, enabled: bool = True
    ) -> None:
        self._store = open_store() if enabled else Store(None)
        self._backend, self._library = backend, library_version(backend) if enabled else None
        self._gpu = None
        if backend == "tensorrt" and gpus:
            self._gpu = [gpus[0].name, gpus[0].compute_capability, driver or ""]
        self.remember = self._store.remember
        self._begun: dict[Path, tuple[Any, Future[str]]] = {}

    @property
    def notes(self) -> tuple[str, ...]:
        return tuple(self._store.notes)

    def begin_digest(self, path: Path) -> None:
        """Digest a file in a thread of its own, for :meth:`digest` to be asked later."""
        pool = ThreadPoolExecutor(1, "digesting")
        self._begun[path] = stamp_of(path), pool.submit(self._store.digest, path)
        pool.shutdown(wait=False)

    def digest(self, path: Path) -> str:
        """``sha256:<hex>`` of a file, from the cache if it is known there.

        Raises:
            InputError: it can't be read.
        """
        stamp, begun = self._begun.pop(path, (None, None))
        if begun is not None and stamp is not None and stamp == stamp_of(path):
            return begun.result()
        return self._store.digest(path)

    def timing(self) -> Path | None:
        """Where TensorRT's timings are kept for a build whose user names no place; None for other libraries."""
        if self._gpu is None or self._library is None or self._store.folder is None:
            return None
        return timing_cache(f"{self._backend} {self._library}", ", ".join(filter(None, self._gpu)))

    def graph(self, recipe: Recipe) -> KnownGraph | None:
        """What is known of the typed graph of a recipe, if it lies there as it was written."""
        try:
            entry = self._store.find("graphs", self._recipe_key(recipe))
            if entry is None:
                return None
            facts = entry.facts
            path = recipe.graph if facts["given"] else typed_path(recipe.graph, recipe.precision, recipe.backend)
            files = facts["files"].items()
            if any(self.digest(recipe.graph.with_name(name)) != digest for name, digest in files):
                return None
            metadata = None if facts["metadata"] is None else ModelMetadata.from_json(facts["metadata"])
            typed = TypedGraph(
                path, recipe.precision, facts["weights"], facts["sources"], metadata, frozenset(facts["keep"])
            )
            return KnownGraph(typed, tuple(facts["notes"]), facts["calibration"])
        except (ToolkitError, OSError, KeyError, TypeError, AttributeError):
            return None  # a file is gone, or the entry is somebody else's: the long way says what is wrong

    def keep_graph(self, recipe: Recipe, known: KnownGraph) -> None:
        """Remember a typed graph that was written."""
        if self._store.folder is None:
            return
        typed = known.typed
        files = {path.name: self.digest(path) for path in _files(recipe.graph) | _files(typed.path)}
        facts = {
            "given": typed.path == recipe.graph,
            "files": files,
            "weights": typed.weights,
            "sources": typed.sources,
            "metadata": None if typed.metadata is None else typed.metadata.to_json(),
            "keep": sorted(typed.keep),
            "notes": known.notes,
            "calibration": known.calibration,
        }
        self._store.put("graphs", self._recipe_key(recipe), typed.path.name, facts)

    def plan(self, typed: TypedGraph, options: "BuildOptions") -> KnownPlan | None:
        """The plan that was built of a graph; its bytes are mapped, not read."""
        entry = self._find(typed, options)
        if entry is None:
            return None
        try:
            return read_plan(entry)
        except (ToolkitError, OSError, KeyError, TypeError, ValueError, AttributeError):
            return None  # removed by another process meanwhile, or of another version

    def keep_plan(self, typed: TypedGraph, options: "BuildOptions", built: BuiltPlan, engine: Path) -> str | None:
        """Keep a plan that passed its audit and was written to ``engine``; its digest, where it could be kept."""
        facts, files = kept_form(built)
        entry = self._put(typed, options, engine.name, facts, files)
        if entry is None:
            return None
        self.remember(engine, entry.files[PLAN])
        return entry.files[PLAN]

    def facts(self, typed: TypedGraph, options: "BuildOptions") -> Mapping[str, Any] | None:
        """What was proven of a graph that is its own engine."""
        entry = self._find(typed, options)
        return None if entry is None else entry.facts

    def keep_facts(self, typed: TypedGraph, options: "BuildOptions", facts: Mapping[str, Any]) -> None:
        """Keep what was proven of a graph that is its own engine."""
        self._put(typed, options, typed.path.name, facts, {})

    def place(self, known: KnownPlan, engine: Path) -> None:
        """Copy a plan out of the cache, unless it lies there already.

        Raises:
            InputError: the file can't be written.
        """
        if engine.is_file() and self.digest(engine) == known.digest:
            return
        with atomic_file(engine) as file:
            known.copy_into(file)
        self.remember(engine, known.digest)

    def _find(self, typed: TypedGraph, options: "BuildOptions") -> Entry | None:
        key = self._engine_key(typed, options)
        return self._store.find("engines", key) if key else None

    def _put(
        self,
        typed: TypedGraph,
        options: "BuildOptions",
        name: str,
        facts: Mapping[str, Any],
        files: Mapping[str, bytes | memoryview],
    ) -> Entry | None:
        key = self._engine_key(typed, options)
        return self._store.put("engines", key, name, facts, files) if key else None

    def _engine_key(self, typed: TypedGraph, options: "BuildOptions") -> dict[str, Any] | None:
        """What decides about a plan's bytes; None where that isn't known."""
        if self._store.folder is None or self._library is None:
            return None
        asked = options.to_json()
        asked.pop("allow_partial", None)  # decides what is said of the plan, not what is in it
        return {
            "code": _code(),
            "graph": self.digest(typed.path),
            "weights": typed.weights,
            "backend": self._backend,
            "library": self._library,
            "options": asked,
            "platform": this_platform(),
            "gpu": self._gpu,
        }

    def _recipe_key(self, recipe: Recipe) -> dict[str, Any]:
        table = recipe.table
        return {
            "code": _code(),
            "graph": self.digest(recipe.graph),
            "name": recipe.graph.name,
            "table": self.digest(table) if table is not None and table.is_file() else None,
            "precision": recipe.precision,
            "backend": recipe.backend,
            "keep": recipe.keep,
            "allow_partial": recipe.allow_partial,
        }


@functools.cache
def _code() -> str:
    """The digest of the code that makes typed graphs and engines: other code could make others of the same inputs."""
    found = hashlib.sha256((library_version("onnx-tensorrt-toolkit") or "").encode())
    for package in _DECIDING:
        spec = importlib.util.find_spec(package)
        for folder in spec.submodule_search_locations or () if spec else ():
            for path in sorted(Path(folder).rglob("*.py")):
                found.update(f"{package} {path.relative_to(folder)}\0".encode() + path.read_bytes())
    return found.hexdigest()


def _files(graph: Path) -> set[Path]:
    """A graph's file, and those beside it that hold its weights."""
    from export.graph import external_files

    return {graph, *(graph.with_name(name) for name in external_files(graph))}
