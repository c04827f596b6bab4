"""The key of a run: a digest of what is compared, on what data, how and where. The same key continues a record."""

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from engines.store import Store, open_store
from toolkit.comparison.measuring.plan import Plan
from toolkit.comparison.records.record import VERSION
from toolkit.machine import Machine

if TYPE_CHECKING:
    from toolkit.data import Dataset
    from toolkit.data.tensors import TensorDataset

_MOST_PIXELS = 64 << 20
"""Bytes of an array of images that are digested; of a larger one every n-th image, so that it takes no second."""


def key_of(plan: Plan, machine: Machine) -> str:
    """``sha256:...``: another one where a file, an image, an option, a library or the machine is another.

    Raises:
        InputError: an artifact can't be read.
    """
    store = open_store()
    artifacts: list[dict[str, Any]] = [
        {
            "name": contestant.name,
            "path": contestant.path,
            "digests": _digests(store, Path(contestant.path)),
            "backend": contestant.backend,
            "device": contestant.device,
            "threads": contestant.threads,
            "opener": contestant.opener,
            "options": repr(sorted(contestant.options.items())),
        }
        for contestant in plan.contestants
    ]
    facts = {
        "version": VERSION,
        "artifacts": artifacts,
        "reference": plan.reference,
        "settings": plan.settings(),
        "data": None if plan.dataset is None else _images(plan.dataset),
        "machine": machine.to_json(),
    }
    return f"sha256:{hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()}"


def _digests(store: Store, path: Path) -> list[str]:
    """Of an artifact and of the weights that lie beside a large graph."""
    external = path.with_name(path.name + ".data")
    return [store.digest(path), *([store.digest(external)] if external.is_file() else [])]


def _images(dataset: "Dataset | TensorDataset") -> str:
    """A digest of the test images' pixels, or of their files' names, sizes and times, and of their labels."""
    from toolkit.data.tensors import TensorDataset

    digest = hashlib.sha256(repr((dataset.name, dataset.labels)).encode())
    if dataset.test.labels is not None:
        digest.update(dataset.test.labels.tobytes())
    if isinstance(dataset, TensorDataset):
        digest.update(dataset.test.identity())
        return digest.hexdigest()
    images = dataset.test.images
    if isinstance(images, np.ndarray):
        step = max(1, -(-images.nbytes // _MOST_PIXELS))
        digest.update(repr(images.shape).encode())
        for image in images[::step]:
            digest.update(np.ascontiguousarray(image).tobytes())
    else:
        digest.update(dataset.test.identity(strict=True))
    return digest.hexdigest()
