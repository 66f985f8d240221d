"""`/healthz`, `/readyz` and `/metrics` of one process, on a free port told in the heartbeat."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from time import time

from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from consumers.runner import Activity

READY_WITHIN_S = 10.0

_COUNTERS: Mapping[str, str] = {
    "commits": "commits applied",
    "refused": "commits refused by a guard",
    "lost": "commits refused because another consumer owns an entry",
    "entries": "entries finished",
    "parked": "entries parked",
    "claimed": "entries taken over from a consumer that was away",
    "faults": "transient faults waited out",
}


def is_ready(activities: Sequence[Activity], now: float) -> bool:
    """Every runner has read or committed lately and waits for nothing."""
    return all(not one.waiting_for and now - one.last_read_ts < READY_WITHIN_S for one in activities)


class ActivityCollector(Collector):
    """The activity of this process's runners as Prometheus metrics."""

    def __init__(self, stage: str, activities: Sequence[Activity]) -> None:
        self._stage = stage
        self._activities = activities

    def collect(self) -> Iterator[Metric]:
        """One family per counter, and the time of the last commit."""
        for name, meaning in _COUNTERS.items():
            family = CounterMetricFamily(f"marketswarm_{name}", meaning, labels=["stage"])
            family.add_metric([self._stage], sum(getattr(one, name) for one in self._activities))
            yield family
        last = GaugeMetricFamily("marketswarm_last_commit_seconds", "receive time of the last commit", labels=["stage"])
        last.add_metric([self._stage], max((one.last_commit_ts for one in self._activities), default=0.0))
        yield last


@asynccontextmanager
async def serving(stage: str, activities: Sequence[Activity], clock: Callable[[], float] = time):  # type: ignore[no-untyped-def]
    """Serve the probes while the body runs; yields the port."""
    registry = CollectorRegistry()
    registry.register(ActivityCollector(stage, activities))

    async def healthz(_: web.Request) -> web.Response:
        return web.json_response({"status": "alive", "stage": stage})

    async def readyz(_: web.Request) -> web.Response:
        ready = is_ready(activities, clock())
        waiting = [one.waiting_for for one in activities if one.waiting_for]
        return web.json_response({"ready": ready, "waiting_for": waiting}, status=200 if ready else 503)

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(registry), content_type="text/plain")

    app = web.Application()
    app.add_routes([web.get("/healthz", healthz), web.get("/readyz", readyz), web.get("/metrics", metrics)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield runner.addresses[0][1]
    finally:
        await asyncio.shield(runner.cleanup())
