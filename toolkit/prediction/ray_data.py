"""Pictures classified on a Ray cluster: each actor holds a predictor, and files come back as rows in their order.

Only names and rows travel; pictures are read where they are classified, so they and the model lie where every node
finds them.
"""

import os
import pickle
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from engines.errors import InputError, RunError, ToolkitError
from engines.optional import require
from toolkit.loading import load
from toolkit.prediction.cluster import Cluster, ordered, plainly
from toolkit.prediction.journal import Identity
from toolkit.prediction.row import Row
from toolkit.prediction.stream import RowsOf, answered, identity_of
from toolkit.ray_cluster import joined
from toolkit.runtime.predictor import Predictor

BLOCK = 256
"""Pictures that an actor is given at a time, rounded up to whole batches: a second's work or less, against which a
call's milliseconds don't count."""

WINDOW = 1 << 18
"""Pictures that Ray is told of at a time, which bounds what this process holds: some 100 bytes each."""

FAILED = -1
"""The number of a row that is an error which stopped an actor."""


@dataclass(frozen=True)
class Model:
    """What an actor loads; see :func:`toolkit.loading.load`.

    Attributes:
        top: classes an answer.
        folder: the current folder, from which relative paths go.
    """

    path: str
    top: int
    device: str = "auto"
    backend: str = "auto"
    threads: int | None = None
    batch_size: int | None = None
    trust_pickle: bool = False
    code: str | None = None
    folder: str = ""

    def load(self) -> Predictor:
        """The predictor."""
        if self.folder and Path(self.folder).is_dir():
            os.chdir(self.folder)
        return load(
            self.path,
            device=self.device,
            backend=self.backend,
            threads=self.threads,
            trust_pickle=self.trust_pickle,
            model=self.code,
            batch_size=self.batch_size,
        )


class Classifier:
    """An actor: the predictor is loaded with the first block, so that what is wrong with it comes back as a row."""

    def __init__(self, model: Model, identity: Identity) -> None:
        self._model, self._identity = model, identity
        self._predictor: Predictor | None = None

    def __call__(self, block: Mapping[str, Any]) -> dict[str, list[Any]]:
        """Rows for a block of files, or the error as one: as an exception Ray would hand on no more than its text."""
        try:
            rows = [row.dumps() for row in self._rows([os.fsdecode(name) for name in block["file"]])]
        except ToolkitError as error:
            return {"number": [FAILED], "row": [pickle.dumps(error)]}
        return {"number": list(block["number"]), "row": rows}

    def _rows(self, files: list[str]) -> Iterator[Row]:
        if self._predictor is None:
            predictor = self._model.load()
            here = identity_of(self._model.path, predictor, self._model.top)
            if here != self._identity:
                raise InputError(
                    f"'{self._model.path}' is not the same on every node of the cluster",
                    "put the model where every node reads the same file, on machines of one kind",
                )
            self._predictor = predictor
        for file, answer in answered(self._predictor, files, self._model.top):
            yield Row.of(file, answer)


@contextmanager
def rows_on(cluster: Cluster, model: Model) -> Iterator[tuple[Identity, RowsOf]]:
    """What classifies pictures on a cluster, and what its answers are known by.

    Args:
        cluster: where; joined or started, and left or stopped when the block ends.
        model: what.

    Raises:
        MissingLibraryError: Ray isn't installed.
        InputError: the cluster can't be reached, or has no such GPUs.
        ToolkitError: the model can't be loaded there.
    """
    if cluster.actors < 1 or cluster.gpus < 0:
        raise InputError(f"{cluster.actors} actors with {cluster.gpus} GPUs each", "give 1 or more, and 0 or more")
    ray = require("ray", "Predicting on a cluster", "ray")
    require("ray.data", "Predicting on a cluster", "ray")
    with ExitStack() as stack:
        stack.enter_context(joined(ray, cluster.address, workers=cluster.actors, gpus=cluster.gpus, what="actors"))
        stack.enter_context(ordered(ray))
        with plainly(ray):
            identity: Identity = ray.get(
                ray.remote(_identity).options(num_cpus=1, num_gpus=cluster.gpus, max_retries=0).remote(model)
            )
        yield identity, lambda files: _rows(ray, cluster, model, identity, files)


def _identity(model: Model) -> Identity:
    with model.load() as predictor:
        return identity_of(model.path, predictor, model.top)


def _rows(ray: Any, cluster: Cluster, model: Model, identity: Identity, files: Iterator[str]) -> Iterator[list[Row]]:
    size = -(-BLOCK // identity.batch_size) * identity.batch_size
    while window := list(islice(files, -(-WINDOW // size) * size)):
        data = _blocks(ray, window, size).map_batches(
            Classifier,
            fn_constructor_args=(model, identity),
            batch_size=None,
            concurrency=min(cluster.actors, -(-len(window) // size)),
            num_cpus=1,
            num_gpus=cluster.gpus,
        )
        expected = 0
        with plainly(ray):
            for block in data.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=0):
                numbers = [int(number) for number in block["number"]]
                if numbers[0] == FAILED:
                    raise pickle.loads(block["row"][0])  # noqa: S301 - from our own actor, by the way of Ray's pickles
                rows = [Row.loads(line) for line in block["row"]]
                if numbers != list(range(expected, expected + len(rows))):
                    raise RunError("Ray gave the pictures back in another order", "use another version of ray")
                expected += len(rows)
                yield rows
        if expected != len(window):
            raise RunError(f"Ray gave {expected} of {len(window)} pictures back", "repeat the command to go on")


def _blocks(ray: Any, files: list[str], size: int) -> Any:
    arrow = require("pyarrow", "Predicting on a cluster", "ray")
    tables = [
        arrow.table(
            {
                "number": range(at, min(at + size, len(files))),
                "file": arrow.array([os.fsencode(file) for file in files[at : at + size]], arrow.binary()),
            }
        )
        for at in range(0, len(files), size)
    ]
    return ray.data.from_arrow(tables)
