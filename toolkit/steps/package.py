"""Write an engine into another server's model repository."""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from engines.errors import InputError
from engines.files import read_text
from toolkit.packaging.model import Model, read_model
from toolkit.packaging.repository import Content, put_folder
from toolkit.packaging.serving import Accelerator, Device, Serving
from toolkit.packaging.triton import FILES, LABELS, make_config, origin_of

VERSION = "1"
"""The version under which the engine lies: the only one in the folder."""

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class Package:
    """What :func:`package` wrote.

    Attributes:
        name: the model's, in requests.
        folder: in the repository.
        files: in the folder.
        config: what ``config.pbtxt`` says, as JSON.
        notes: what whoever serves it should know, a line each.
    """

    name: str
    folder: Path
    files: tuple[str, ...]
    config: Mapping[str, Any]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"folder": str(self.folder), "files": list(self.files), "notes": list(self.notes)}


def package(
    engine: str | Path,
    *,
    triton: str | Path,
    name: str | None = None,
    max_batch: int | None = None,
    max_delay: float = 0.0,
    queue: int | None = None,
    device: Device = "auto",
    instances: int = 1,
    gpus: tuple[int, ...] = (),
    accelerator: Accelerator | None = None,
    threads: int | None = None,
    force: bool = False,
) -> Package:
    """Write ``engine`` into a model repository that Triton Inference Server loads.

    The folder has ``config.pbtxt``, ``labels.txt`` and ``1/model.plan`` or ``1/model.onnx``, with the graph's files
    of weights and the passport beside it. It appears whole or not at all.

    Args:
        engine: a TensorRT plan or an ONNX graph; of a plan, the passport beside it is needed.
        triton: the repository; made where it is missing.
        name: the model's; None for the file's name up to its first dot.
        max_batch: samples a run at most; None for the plan's largest, or 32 for a graph.
        max_delay: seconds that a request may wait for company although an instance is idle.
        queue: requests that may wait before further ones are refused; None for no bound.
        device: "gpu", "cpu", or "auto": a plan on the GPU, a graph for ONNX Runtime's INT8 kernels on the CPU,
            another where Triton finds a GPU, else on the CPU.
        instances: on each GPU, or on the CPU.
        gpus: the numbers of the GPUs; empty for all.
        accelerator: hand a graph to "tensorrt" (GPU) or "openvino" (CPU) inside ONNX Runtime.
        threads: CPU threads of each instance of a graph.
        force: replace a model of that name whatever it was made from.

    Raises:
        InputError: the engine is damaged, the options contradict it, or the folder can't be written.
        UnsupportedError: Triton would not load the engine, or would answer otherwise than it was measured.
        MissingLibraryError: tritonclient or, for a graph, onnx isn't installed.
    """
    engine, repository = Path(engine), Path(triton)
    model = read_model(engine)
    chosen = engine.name.split(".", maxsplit=1)[0] if name is None else name
    if not _NAME.fullmatch(chosen):
        raise InputError(
            f"'{chosen}' can't be the name of a model", "give --name with letters, digits, '_', '-' and '.'"
        )
    serving = Serving(max_batch, max_delay, queue, device, instances, tuple(gpus), accelerator, threads)
    config = make_config(chosen, model, serving)
    contents: dict[str, Content] = {"config.pbtxt": config.text}
    if config.labels is not None:
        contents[LABELS] = config.labels
    contents |= _version(model)
    folder = repository / chosen
    _check_folder(folder, contents, model, force=force)
    put_folder(folder, contents, replace=folder.exists())
    return Package(chosen, folder, tuple(contents), config.value, config.notes)


def _version(model: Model) -> dict[str, Content]:
    """The engine under the name that Triton looks for, what it refers to, and its passport."""
    file = FILES[model.kind]
    found: dict[str, Content] = {f"{VERSION}/{file}": model.path}
    found |= {f"{VERSION}/{name}": model.path.with_name(name) for name in model.external}
    if model.passport:
        passport = replace(model.passport, engine=file, log=None)
        text = json.dumps(passport.to_json(), indent=2, ensure_ascii=False) + "\n"
        found[f"{VERSION}/{file}.json"] = text
    return found


def _check_folder(folder: Path, contents: Mapping[str, Content], model: Model, *, force: bool) -> None:
    """Refuse to replace a model that was made from something else, or that others have put files to."""
    if not folder.exists():
        return
    if not folder.is_dir() or folder.is_symlink():
        raise InputError(f"'{folder}' exists and is no model's folder", "give another --name")
    if force:
        return
    try:
        origin = origin_of(read_text(folder / "config.pbtxt"))
    except (InputError, UnicodeDecodeError):
        origin = None
    if origin != (model.source, model.path.name):
        other = f"made from {origin[1]}" if origin and origin[0] == model.source else "not made from this source"
        raise InputError(f"'{folder}' exists and was {other}", "give --force to replace it, or another --name")
    known = {*contents, LABELS, *(f"{VERSION}/{file}{more}" for file in FILES.values() for more in ("", ".json"))}
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}
    if foreign := sorted(names - known):
        raise InputError(
            f"'{folder}' also holds {', '.join(foreign[:3])}, which `toolkit package` didn't write",
            "move them away, or give --force to replace the folder with all that is in it",
        )
