"""What the protocol tells of the server and its models, as JSON-ready values."""

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from engines.installed import library_version
from toolkit.server.protocol.messages import ModelMetadata, TensorMetadata
from toolkit.server.protocol.parameters import DEFAULT_LEVEL, LEVELS, MICROSECONDS

NAME = "onnx-tensorrt-toolkit"

EXTENSIONS = (
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "model_repository",
    "parameters",
    "schedule_policy",
    "statistics",
)
"""The protocol's extensions that the server has."""

NANOSECONDS = 1e9
"""In a second: the protocol's statistics are in nanoseconds."""

_CONFIG_TYPES = {"BYTES": "TYPE_STRING"}
"""Where a type's name in a model configuration isn't ``TYPE_`` and the protocol's."""


class State(Protocol):
    """A model in the index: ``toolkit.server.plane.interface.ModelState``."""

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> str: ...

    @property
    def state(self) -> str: ...

    @property
    def reason(self) -> str: ...


def server() -> dict[str, Any]:
    """The answer to ``GET /v2``: name, version, extensions."""
    return {"name": NAME, "version": library_version(NAME) or "unknown", "extensions": list(EXTENSIONS)}


def model(metadata: ModelMetadata) -> dict[str, Any]:
    """The answer to ``GET /v2/models/{model}``: name, versions, platform, inputs, outputs."""
    return {
        "name": metadata.name,
        "versions": list(metadata.versions),
        "platform": metadata.platform,
        "inputs": [_tensor(tensor) for tensor in metadata.inputs],
        "outputs": [_tensor(tensor) for tensor in metadata.outputs],
    }


def config(metadata: ModelMetadata) -> dict[str, Any]:
    """The answer to ``GET /v2/models/{model}/config``, in the form of Triton's model configuration.

    Where every tensor's first dimension varies it is the batch: ``max_batch_size`` is the model's and ``dims`` leave
    it out. Else ``max_batch_size`` is 0 and ``dims`` are whole.

    Of ``metadata.facts`` these are used where they are there: "backend" (a session's), "device" ("cuda:0"),
    "instances" (a number), "max_delay" (seconds), "file" (the engine's name, without its folder).
    """
    facts = metadata.facts
    tensors = (*metadata.inputs, *metadata.outputs)
    batched = all(tensor.shape[:1] == (-1,) for tensor in tensors)
    group: dict[str, Any] = {
        "name": f"{metadata.name}_0",
        "kind": "KIND_CPU",
        "count": int(facts.get("instances", 1)),
        "gpus": [],
    }
    device = str(facts.get("device", "cpu"))
    if device.startswith("cuda"):
        number = device.partition(":")[2]
        group.update(kind="KIND_GPU", gpus=[int(number) if number.isdigit() else 0])
    return {
        "name": metadata.name,
        "platform": metadata.platform,
        "backend": str(facts.get("backend", "")),
        "version_policy": {"latest": {"num_versions": 1}},
        "max_batch_size": metadata.max_batch if batched else 0,
        "input": [
            {**_entry(tensor, batched=batched), "format": "FORMAT_NONE", "optional": False}
            for tensor in metadata.inputs
        ],
        "output": [{**_entry(tensor, batched=batched), "label_filename": ""} for tensor in metadata.outputs],
        "instance_group": [group],
        "default_model_filename": str(facts.get("file", "")),
        "dynamic_batching": {
            "preferred_batch_size": [],
            "max_queue_delay_microseconds": round(float(facts.get("max_delay", 0.0)) * MICROSECONDS),
            "preserve_ordering": False,
            "priority_levels": LEVELS,
            "default_priority_level": DEFAULT_LEVEL,
        },
        "model_transaction_policy": {"decoupled": False},
        "parameters": {},
    }


def statistics(stats: Mapping[str, Mapping[str, Any]], versions: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The answer to ``GET /v2/models/{model}/stats`` and ``GET /v2/models/stats``, in the form of Triton's.

    The protocol counts copying and running by request, a batcher by batch: a request is counted here with what a
    batch took on average. Times by size of batch aren't measured, so those of ``batch_stats`` are 0.

    Args:
        stats: by model, ``BatcherStats.to_json()``, and "last_inference" (milliseconds since the epoch) if known.
        versions: by model, the one that is served; "1" where it isn't said.
    """
    return {"model_stats": [_statistics(name, (versions or {}).get(name, "1"), of) for name, of in stats.items()]}


def index(states: Iterable[State]) -> list[dict[str, Any]]:
    """The answer to ``POST /v2/repository/index``: name, version, state, and the reason where there is one."""
    return [
        {
            "name": one.name,
            "version": one.version,
            "state": one.state,
            **({"reason": one.reason} if one.reason else {}),
        }
        for one in states
    ]


def _tensor(tensor: TensorMetadata) -> dict[str, Any]:
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}


def _entry(tensor: TensorMetadata, *, batched: bool) -> dict[str, Any]:
    return {
        "name": tensor.name,
        "data_type": _CONFIG_TYPES.get(tensor.datatype, f"TYPE_{tensor.datatype}"),
        "dims": list(tensor.shape[1:] if batched else tensor.shape),
    }


def _statistics(name: str, version: str, stats: Mapping[str, Any]) -> dict[str, Any]:
    requests, batches = stats["requests"], {int(size): count for size, count in stats["batches"].items()}
    answered = requests["answered"]
    queue = _time(stats["waiting"]["count"], stats["waiting"]["seconds"])
    copying = _time(answered, answered * _mean(stats["staging"]))
    running = _time(answered, answered * _mean(stats["running"]))
    nothing = _time(0, 0.0)
    return {
        "name": name,
        "version": version,
        "last_inference": int(stats.get("last_inference", 0)),
        "inference_count": sum(size * count for size, count in batches.items()),
        "execution_count": sum(batches.values()),
        "inference_stats": {
            "success": {"count": answered, "ns": queue["ns"] + copying["ns"] + running["ns"]},
            "fail": _time(requests["failed"] + requests["expired"] + requests["refused"] + requests["invalid"], 0.0),
            "queue": queue,
            "compute_input": copying,
            "compute_infer": running,
            "compute_output": _time(answered, 0.0),
            "cache_hit": nothing,
            "cache_miss": nothing,
        },
        "batch_stats": [
            {
                "batch_size": size,
                "compute_input": _time(count, 0.0),
                "compute_infer": _time(count, 0.0),
                "compute_output": _time(count, 0.0),
            }
            for size, count in sorted(batches.items())
        ],
        "memory_usage": [],
    }


def _mean(times: Mapping[str, Any]) -> float:
    return times["seconds"] / times["count"] if times["count"] else 0.0


def _time(count: int, seconds: float) -> dict[str, int]:
    return {"count": int(count), "ns": round(seconds * NANOSECONDS)}
