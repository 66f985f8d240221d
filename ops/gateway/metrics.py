"""`/metrics`: the gateway's own figures, and the counters that the stages keep in Redis."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from contracts.keys import Keys, Stat
from contracts.ports import Reader
from ops.gateway.follower import Follower

Counters = Mapping[tuple[str, str], Mapping[str, float]]  # (partition, stat) -> counter -> value


async def read_counters(reader: Reader, keys: Keys, partitions: Sequence[tuple[str, ...]]) -> Counters:
    """The analytics HASHes of every partition; a partition is named by its first symbol."""
    found: dict[tuple[str, str], dict[str, float]] = {}
    for symbols in partitions:
        for stat in Stat:
            fields = await reader.fields(keys.analytics(stat, symbols[0]))
            found[symbols[0], str(stat)] = dict(_numbers(fields))
    return found


def render_metrics(followers: Sequence[Follower], counters: Counters | None) -> bytes:
    """The page; without counters Redis is away."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_GatewayCollector(followers, counters))
    page: bytes = generate_latest(registry)
    return page


class _GatewayCollector(Collector):
    def __init__(self, followers: Sequence[Follower], counters: Counters | None) -> None:
        self._followers = followers
        self._counters = counters

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily(
            "marketswarm_redis_up", "whether Redis answers the gateway", float(self._counters is not None)
        )
        clients = GaugeMetricFamily("marketswarm_gateway_clients", "connected event streams", labels=["symbol"])
        events = CounterMetricFamily("marketswarm_gateway_events", "published events handed out", labels=["symbol"])
        resets = CounterMetricFamily("marketswarm_gateway_resets", "resets sent to clients", labels=["symbol"])
        for follower in self._followers:
            clients.add_metric([follower.symbol], follower.client_count)
            events.add_metric([follower.symbol], follower.events)
            resets.add_metric([follower.symbol], follower.resets)
        yield from (clients, events, resets)
        analytics = GaugeMetricFamily(
            "marketswarm_analytics",
            "counters and last values kept by the stages in massive:*:analytics",
            labels=["partition", "stat", "name"],
        )
        for (partition, stat), values in (self._counters or {}).items():
            for name, value in values.items():
                analytics.add_metric([partition, stat, name], value)
        yield analytics


def _numbers(fields: Mapping[bytes, bytes]) -> Iterator[tuple[str, float]]:
    for name, text in sorted(fields.items()):
        try:
            yield name.decode(), float(text)
        except ValueError:
            continue  # a last value that is no number has no place here
