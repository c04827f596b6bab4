"""What Prometheus reads adds up."""

import asyncio
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as classic

from engines.errors import InputError, Overloaded
from engines.sessions.fake import FakeSession
from tests.tiny import METADATA
from tests.toolkit.server.plane.models import Mortal, fake_plane, infer, samples, until, within
from toolkit.server.metrics import FrontMetrics
from toolkit.server.plane.plane import DataPlane

Values = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def values(metrics: FrontMetrics) -> Values:
    body, kind = metrics.render()
    assert kind.startswith("text/plain")
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in classic(body.decode())
        for sample in family.samples
    }


def of(found: Values, name: str, **labels: str) -> float:
    return found[f"toolkit_{name}", tuple(sorted(labels.items()))]


def test_counts_add_up_over_a_reload() -> None:
    async def work(plane: DataPlane) -> None:
        metrics = FrontMetrics(plane)
        for size in (1, 3, 10):
            await plane.infer(infer("fake", samples(size)))
        with pytest.raises(InputError):
            await plane.infer(infer("fake", samples(1), name="other"))
        before = values(metrics)
        await plane.reload("fake")
        await until(lambda: not plane.models["fake"]._leaving)
        assert {key: value for key, value in values(metrics).items() if before.get(key) != value} == {
            ("toolkit_generation", (("model", "fake"),)): 2,
            ("toolkit_reloads_total", (("model", "fake"), ("outcome", "succeeded"))): 1,
        }
        await plane.infer(infer("fake", samples(4)))
        found = values(metrics)
        # 10 samples are cut into 4, 4 and 2.
        assert of(found, "batcher_requests_total", model="fake", outcome="answered") == 6
        assert of(found, "batch_size_sum", model="fake") == 18
        assert of(found, "errors_total", model="fake", kind="InputError") == 1
        assert of(found, "queue_limit", model="fake") == 64
        for stage in ("waiting", "staging", "running"):
            count = of(found, f"{stage}_seconds_count", model="fake")
            assert count == of(found, f"{stage}_seconds_bucket", model="fake", le="+Inf")
            assert count == (6 if stage == "waiting" else of(found, "batch_size_count", model="fake"))

    within(work, fake_plane(lambda _: FakeSession(), max_batch=4, queue=64))


def test_buckets_grow_and_sizes_fall_where_they_belong() -> None:
    async def work(plane: DataPlane) -> None:
        for size in (1, 2, 3, 5, 5):
            await plane.infer(infer("fake", samples(size)))
        found = values(FrontMetrics(plane))
        buckets = [of(found, "batch_size_bucket", model="fake", le=le) for le in ("1.0", "2.0", "4.0", "8.0", "+Inf")]
        assert buckets == [1, 2, 3, 5, 5]

    within(work, fake_plane(lambda _: FakeSession(), max_batch=5))


def test_sessions_restarts_and_readiness() -> None:
    sessions: list[Mortal] = []

    def open_session(_: str) -> Mortal:
        sessions.append(Mortal())
        return sessions[-1]

    async def work(plane: DataPlane) -> None:
        metrics = FrontMetrics(plane)
        assert of(values(metrics), "sessions", model="fake") == 2
        for session in sessions[:2]:
            session.kill()
        await asyncio.gather(*(plane.infer(infer("fake", samples(1))) for _ in range(8)))
        found = values(metrics)
        assert of(found, "session_restarts_total", model="fake") == len(sessions) - 2 >= 1
        assert of(found, "batch_failures_total", model="fake") >= 1
        assert of(found, "retries_total", model="fake") >= 1
        assert (of(found, "sessions", model="fake"), of(found, "draining")) == (2, 0)
        plane.gate.drain()
        assert of(values(metrics), "draining") == 1

    within(work, fake_plane(open_session, instances=2))


def test_fronts_are_counted_and_strangers_names_are_not() -> None:
    async def work(plane: DataPlane) -> None:
        metrics = FrontMetrics(plane)
        metrics.began()
        metrics.began()
        assert of(values(metrics), "in_flight") == 2
        metrics.ended("fake", "http", 200)
        metrics.ended("fake", "grpc", "OK")
        for number in range(100):
            metrics.request(f"stranger{number}", "http", 404)
        found = values(metrics)
        assert of(found, "in_flight") == 0
        assert {key[1]: value for key, value in found.items() if key[0] == "toolkit_requests_total"} == {
            (("model", "fake"), ("protocol", "http"), ("status", "200")): 1,
            (("model", "fake"), ("protocol", "grpc"), ("status", "OK")): 1,
            (("model", ""), ("protocol", "http"), ("status", "404")): 100,
        }

    within(work, fake_plane(lambda _: FakeSession()))


def test_refused_requests_and_the_queue_show() -> None:
    session = FakeSession(delay=0.1)

    async def work(plane: DataPlane) -> None:
        metrics = FrontMetrics(plane)
        first = asyncio.create_task(plane.infer(infer("fake", samples(1))))
        await until(lambda: session.runs > 1)
        waiting = asyncio.create_task(plane.infer(infer("fake", samples(2))))
        await until(lambda: of(values(metrics), "queue_depth", model="fake") == 2)
        with pytest.raises(Overloaded):
            await plane.infer(infer("fake", samples(1)))
        found = values(metrics)
        assert of(found, "batcher_requests_total", model="fake", outcome="refused") == 1
        assert of(found, "errors_total", model="fake", kind="Overloaded") == 1
        await asyncio.gather(first, waiting)

    within(work, fake_plane(lambda _: session, queue=2))


def test_both_formats_parse() -> None:
    async def work(plane: DataPlane) -> None:
        await plane.infer(infer("fake", samples(1)))
        body, kind = FrontMetrics(plane).render("application/openmetrics-text; version=1.0.0")
        assert kind.startswith("application/openmetrics-text")
        families: list[Any] = list(open_metrics(body.decode()))
        assert {"toolkit_requests", "toolkit_running_seconds", "toolkit_build"} <= {one.name for one in families}
        assert all(one.documentation for one in families)

    within(work, fake_plane(lambda _: FakeSession(metadata=METADATA)))
