"""What Prometheus is told: counts of the fronts, and what models have done, read when it asks."""

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from engines.installed import library_version
from engines.optional import require
from toolkit.server.plane.interface import Plane

if TYPE_CHECKING:
    import asyncio

Stats = Mapping[str, Mapping[str, Any]]
"""By model, what ``Plane.statistics`` gives."""

PREFIX = "toolkit_"


class FrontMetrics:
    """Counts what the fronts do; called in the event loop only.

    Args:
        plane: whose models are told of.

    Attributes:
        in_flight: requests under way.
        streams: what reads the streams of gRPC that are open; cancelling one ends its stream, once what it has read
            is answered.
    """

    def __init__(self, plane: Plane) -> None:
        self._plane = plane
        self._known: set[str] = set()
        self._requests: Counter[tuple[str, str, str]] = Counter()
        self.in_flight = 0
        self.streams: set[asyncio.Task[None]] = set()
        self._registry: Any = None

    def began(self) -> None:
        """A request has come in; :meth:`ended` follows, whatever becomes of it."""
        self.in_flight += 1

    def ended(self, model: str, protocol: str, status: str | int) -> None:
        """A request of :meth:`began` was answered, or its client is gone; see :meth:`request`."""
        self.in_flight -= 1
        self.request(model, protocol, status)

    def request(self, model: str, protocol: str, status: str | int) -> None:
        """Count a request that was answered at once.

        Args:
            model: which was asked; one that isn't served is counted as "", lest clients make up names without end.
            protocol: "http" or "grpc".
            status: 200, or "OK" for gRPC.
        """
        if model not in self._known:
            self._known = {state.name for state in self._plane.index()}
        self._requests[model if model in self._known else "", protocol, str(status)] += 1

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """The text that ``GET /metrics`` answers, and its content type.

        Args:
            accept: the request's header: Prometheus asks for one of two formats.

        Raises:
            MissingLibraryError: prometheus-client is not installed.
        """
        library = require("prometheus_client", "Metrics", "serve")
        if self._registry is None:
            self._registry = library.CollectorRegistry(auto_describe=False)
            self._registry.register(self)
        encode, content_type = library.exposition.choose_encoder(accept)
        return encode(self._registry), content_type

    def collect(self) -> Iterator[Any]:
        """What ``prometheus_client`` asks of a collector: every metric with its values as of now."""
        core = require("prometheus_client.core", "Metrics", "serve")
        build = core.InfoMetricFamily(f"{PREFIX}build", "The toolkit that serves.")
        build.add_metric([], {"version": library_version("onnx-tensorrt-toolkit") or "unknown"})
        yield build
        requests = core.CounterMetricFamily(
            f"{PREFIX}requests", "Requests that were answered.", labels=["model", "protocol", "status"]
        )
        for labels, count in self._requests.items():
            requests.add_metric(labels, count)
        yield requests
        flying = core.GaugeMetricFamily(f"{PREFIX}in_flight", "Requests under way.")
        flying.add_metric([], self.in_flight)
        yield flying
        streams = core.GaugeMetricFamily(f"{PREFIX}grpc_streams", "Streams of gRPC that are open.")
        streams.add_metric([], len(self.streams))
        yield streams
        draining = core.GaugeMetricFamily(f"{PREFIX}draining", "1 while the server ends.")
        draining.add_metric([], float(self._plane.draining()))
        yield draining
        yield from _of_models(core, self._plane.statistics())


_GAUGES = {
    "queue_depth": ("Samples that wait.", "depth"),
    "queue_limit": ("Samples that may wait.", "limit"),
    "sessions": ("Sessions at work; without one the model can't answer.", "sessions"),
    "generation": ("Which opening of the model answers, from 1.", "generation"),
}
_COUNTERS = {
    "batch_failures": ("Batches that a session failed.", "failures"),
    "retries": ("Requests that were run again after that.", "retries"),
    "session_restarts": ("Sessions that died and were replaced.", "restarts"),
}
_LABELLED = {
    "batcher_requests": ("Requests by what became of them in the batcher.", "requests", "outcome"),
    "errors": ("Requests that failed, by kind.", "errors", "kind"),
    "reloads": ("Openings of replaced files.", "reloads", "outcome"),
}
_TIMES = {
    "waiting": "Seconds from a request's arrival to its batch.",
    "staging": "Seconds of copying a batch to its session.",
    "running": "Seconds of a batch in its session.",
    "decoding": "Seconds from a picture's arrival to its pixels.",
}
"""Name, what it is, where it is in a model's statistics; and the label's name where there is one value a label."""


def _of_models(core: Any, models: Stats) -> Iterator[Any]:
    for name, (text, key) in _GAUGES.items():
        yield _single(core.GaugeMetricFamily, name, text, key, models)
    for name, (text, key) in _COUNTERS.items():
        yield _single(core.CounterMetricFamily, name, text, key, models)
    for name, (text, key, label) in _LABELLED.items():
        family = core.CounterMetricFamily(PREFIX + name, text, labels=["model", label])
        for model, stats in models.items():
            for value, count in stats.get(key, {}).items():
                family.add_metric([model, value], count)
        yield family
    for name, text in _TIMES.items():
        family = core.HistogramMetricFamily(f"{PREFIX}{name}_seconds", text, labels=["model"])
        for model, stats in models.items():
            if times := stats.get(name):
                family.add_metric([model], _buckets(stats["bounds"], times["buckets"]), times["seconds"])
        yield family
    family = core.HistogramMetricFamily(f"{PREFIX}batch_size", "Samples that ran together.", labels=["model"])
    for model, stats in models.items():
        batches = {int(size): count for size, count in stats["batches"].items()}
        bounds = _sizes(max([stats.get("max_batch", 1), *batches]))
        counts = [0] * (len(bounds) + 1)
        for size, count in batches.items():
            counts[bisect_left(bounds, size)] += count
        family.add_metric([model], _buckets(bounds, counts), sum(size * count for size, count in batches.items()))
    yield family


def _single(kind: Callable[..., Any], name: str, text: str, key: str, models: Stats) -> Any:
    """A metric with one value a model."""
    family = kind(PREFIX + name, text, labels=["model"])
    for model, stats in models.items():
        if key in stats:
            family.add_metric([model], stats[key])
    return family


def _sizes(largest: int) -> tuple[int, ...]:
    """Powers of two up to the first that isn't below ``largest``."""
    return tuple(1 << power for power in range((largest - 1).bit_length() + 1))


def _buckets(bounds: Sequence[float], counts: Sequence[int]) -> list[tuple[str, float]]:
    """Prometheus's buckets, each with those below it."""
    found, below = [], 0
    for bound, count in zip((*map(float, bounds), math.inf), counts, strict=True):
        below += count
        found.append(("+Inf" if bound == math.inf else repr(bound), float(below)))
    return found
