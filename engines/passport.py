"""The passport beside an engine: what it came from, what it is, where it runs, what was measured.

An engine file stays plain, so that ``trtexec`` and Triton load it; everything else is in ``<engine>.json``.
Whether the engine can run here is answered from header and passport by :mod:`engines.portability`.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from engines.errors import EngineFormatError, InputError
from engines.files import digest_file, unreadable, write_atomically
from engines.installed import this_platform
from engines.metadata import ModelMetadata
from engines.tensors import TensorSpec

FORMAT = "onnx-tensorrt-toolkit/passport"
VERSION = 1
_MAX_BYTES = 16 << 20


@dataclass(frozen=True)
class Passport:
    """The facts about one engine file.

    Attributes:
        engine: the engine's file name; it lies in the passport's folder.
        digest: ``sha256:...`` of the engine file.
        size: bytes of the engine file.
        backend: the key in the table of backends that runs it.
        precision: what was asked for and audited: "fp32", "fp16", "bf16", "int8", "fp8".
        created: UTC time of the build, ISO 8601.
        command: the command that builds it again.
        versions: of the libraries that took part, by import name.
        platform: "linux-x86_64": system and architecture of the build.
        compute_capabilities: ("8.9", ...) that it was built for; empty where no GPU is involved.
        gpu: name of the GPU it was built on, where one was.
        driver: version of the NVIDIA driver that it was built with ("580.82.07"); None where no GPU took part.
        cuda: version of CUDA that this driver speaks ("13.0"); None where no GPU took part.
        profiles: optimisation profiles: for each, input name to [min, opt, max] shapes.
        inputs, outputs: the engine's tensors.
        metadata: what travelled with the model.
        sources: digests of what it was made from ("checkpoint", "graph", "typed_graph", "weights", "table",
            "data", "preprocess", as far as known).
        options: the build options that were set ("version_compatible": True, ...).
        layers: the audited layer types, as ``LayerReport.to_json`` gives them.
        partial: convolutions and matrix products of another type than asked for, which the build was told to allow
            (``--allow-partial``): "'conv1' (conv) is fp32" each; empty where all have the precision.
        log: name of the build's log, which lies in the passport's folder; None where none was kept.
        measurements: accuracy and latency of this very file, as measured.
        calibration: what images, method and classes the ranges of a quantised engine come from.
    """

    engine: str
    digest: str
    size: int
    backend: str
    precision: str
    created: str
    command: str
    versions: Mapping[str, str] = field(default_factory=dict)
    platform: str = ""
    compute_capabilities: tuple[str, ...] = ()
    gpu: str | None = None
    driver: str | None = None
    cuda: str | None = None
    profiles: tuple[Mapping[str, Sequence[Sequence[int]]], ...] = ()
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    metadata: ModelMetadata | None = None
    sources: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    layers: Mapping[str, Any] | None = None
    partial: tuple[str, ...] = ()
    log: str | None = None
    measurements: Mapping[str, Any] = field(default_factory=dict)
    calibration: Mapping[str, Any] | None = None

    @classmethod
    def of(
        cls,
        engine_path: Path,
        *,
        backend: str,
        precision: str,
        command: str,
        digest: str | None = None,
        **facts: Any,
    ) -> "Passport":
        """A passport for the file at ``engine_path`` as it is now; ``facts`` are further attributes.

        ``digest`` is the file's, where the caller knows it.

        Raises:
            InputError: the file can't be read.
        """
        path = Path(engine_path)
        facts.setdefault("created", datetime.now(UTC).isoformat(timespec="seconds"))
        facts.setdefault("platform", this_platform())
        size = path.stat().st_size
        return cls(path.name, digest or digest_file(path), size, backend, precision, command=command, **facts)

    def with_measurements(self, **measurements: Any) -> "Passport":
        """A copy with more measurements; one of the same name is replaced."""
        return replace(self, measurements={**self.measurements, **measurements})

    def to_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "version": VERSION,
            "engine": self.engine,
            "digest": self.digest,
            "size": self.size,
            "backend": self.backend,
            "precision": self.precision,
            "created": self.created,
            "command": self.command,
            "versions": dict(self.versions),
            "platform": self.platform,
            "compute_capabilities": list(self.compute_capabilities),
            "gpu": self.gpu,
            "driver": self.driver,
            "cuda": self.cuda,
            "profiles": [
                {name: [list(shape) for shape in shapes] for name, shapes in profile.items()}
                for profile in self.profiles
            ],
            "inputs": [spec.to_json() for spec in self.inputs],
            "outputs": [spec.to_json() for spec in self.outputs],
            "metadata": None if self.metadata is None else self.metadata.to_json(),
            "sources": dict(self.sources),
            "options": dict(self.options),
            "layers": None if self.layers is None else dict(self.layers),
            "partial": list(self.partial),
            "log": self.log,
            "measurements": dict(self.measurements),
            "calibration": None if self.calibration is None else dict(self.calibration),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Passport":
        """Read what :meth:`to_json` wrote.

        Raises:
            EngineFormatError: it isn't that, or was written by a newer version of this toolkit.
        """
        try:
            if int(value["version"]) > VERSION:
                raise EngineFormatError(
                    f"the passport has format version {value['version']}; this toolkit reads {VERSION}",
                    "upgrade onnx-tensorrt-toolkit",
                )
            metadata, calibration = value["metadata"], value.get("calibration")
            return cls(
                engine=str(value["engine"]),
                digest=str(value["digest"]),
                size=_size(value["size"]),
                backend=str(value["backend"]),
                precision=str(value["precision"]),
                created=str(value["created"]),
                command=str(value["command"]),
                versions={str(name): str(version) for name, version in value["versions"].items()},
                platform=str(value["platform"]),
                compute_capabilities=tuple(map(str, value["compute_capabilities"])),
                gpu=_text(value["gpu"]),
                driver=_text(value.get("driver")),
                cuda=_text(value.get("cuda")),
                profiles=tuple(
                    {str(name): tuple(tuple(map(int, shape)) for shape in shapes) for name, shapes in profile.items()}
                    for profile in value["profiles"]
                ),
                inputs=tuple(map(TensorSpec.from_json, value["inputs"])),
                outputs=tuple(map(TensorSpec.from_json, value["outputs"])),
                metadata=None if metadata is None else ModelMetadata.from_json(metadata),
                sources={str(name): str(digest) for name, digest in value["sources"].items()},
                options=dict(value["options"]),
                layers=None if value["layers"] is None else dict(value["layers"]),
                partial=tuple(map(str, value.get("partial") or ())),
                log=_text(value.get("log")),
                measurements=dict(value["measurements"]),
                calibration=None if calibration is None else dict(calibration),
            )
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError, InputError) as error:
            if isinstance(error, EngineFormatError):
                raise
            command = value.get("command")
            again = f"{command} --force" if isinstance(command, str) else "toolkit build-engine GRAPH.onnx --force"
            raise EngineFormatError(
                f"the passport is damaged: {type(error).__name__} {error}",
                f"copy engine and passport again, or rebuild it: {again}",
            ) from error

    def write(self, path: Path) -> None:
        """Write the passport to ``path``, whole or not at all.

        Raises:
            InputError: the file can't be written.
        """
        write_atomically(Path(path), json.dumps(self.to_json(), indent=2, ensure_ascii=False) + "\n")

    @classmethod
    def read(cls, path: Path) -> "Passport":
        """Read the passport at ``path``.

        Raises:
            InputError: the file can't be read.
            EngineFormatError: it isn't a passport, or is damaged.
        """
        value = _load(Path(path))
        if value.get("format") != FORMAT:
            raise EngineFormatError(
                f"'{path}' is JSON but not a passport", "give the <engine>.json that a build wrote"
            )
        try:
            return cls.from_json(value)
        except EngineFormatError as error:
            raise EngineFormatError(f"'{path}': {error.cause}", error.remedy) from error


def passport_path(engine_path: Path) -> Path:
    """Where the passport of ``engine_path`` lies: ``model.fp16.engine.json`` for ``model.fp16.engine``."""
    path = Path(engine_path)
    return path.with_name(path.name + ".json")


def find_passport(engine_path: Path) -> Passport | None:
    """The passport beside an engine; None where there is none, or the JSON there is somebody else's.

    Raises:
        EngineFormatError: there is one, and it is damaged.
    """
    path = passport_path(engine_path)
    if not path.is_file() or _load(path).get("format") != FORMAT:
        return None
    return Passport.read(path)


def _size(value: Any) -> int:
    size = int(value)
    if not 0 <= size < 1 << 63:
        raise ValueError("no file has such a size")
    return size


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _load(path: Path) -> dict[str, Any]:
    damaged = "copy engine and passport again, or rebuild it: toolkit build-engine GRAPH.onnx --force"
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise EngineFormatError(f"'{path}' is too large for a passport", damaged)
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise unreadable(path, error) from error
    except (ValueError, RecursionError) as error:
        raise EngineFormatError(f"'{path}' is not a passport: damaged JSON ({error})", damaged) from error
    return value if isinstance(value, dict) else {}
