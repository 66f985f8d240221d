"""`/metrics`: the gateway's own figures, and the counters that the stages keep in Redis."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeVar

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from contracts.keys import Keys, Stat
from contracts.ports import Reader
from ops.gateway.follower import Follower
from ops.status import SEVERITY

_EPOCH_COUNTERS = {
    "dormancy_triggers": "epochs forced by a silent feed",
    "stale_epoch_refusals": "commits refused because their epoch was no longer active",
    "fences": "commits of promotions refused because another came first",
}
_Family = TypeVar("_Family", CounterMetricFamily, GaugeMetricFamily)

Healths = Mapping[str, Mapping[str, Any]]  # symbol -> what it tells of itself
Counters = Mapping[tuple[str, str], Mapping[str, float]]  # (partition, stat) -> counter -> value


async def read_counters(reader: Reader, keys: Keys, partitions: Sequence[tuple[str, ...]]) -> Counters:
    """The analytics HASHes of every partition; a partition is named by its first symbol."""
    found: dict[tuple[str, str], dict[str, float]] = {}
    for symbols in partitions:
        for stat in Stat:
            fields = await reader.fields(keys.analytics(stat, symbols[0]))
            found[symbols[0], str(stat)] = dict(_numbers(fields))
    return found


async def read_healths(reader: Reader, keys: Keys, symbols: Sequence[str]) -> Healths:
    """The health of every symbol that tells one."""
    bodies = await reader.values(*(keys.health(symbol) for symbol in symbols))
    return {symbol: json.loads(body) for symbol, body in zip(symbols, bodies, strict=True) if body is not None}


def render_metrics(
    followers: Sequence[Follower], counters: Counters | None, healths: Healths = MappingProxyType({})
) -> bytes:
    """The page; without counters Redis is away."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_GatewayCollector(followers, counters))
    registry.register(_EpochCollector(counters or {}, healths))
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


class _EpochCollector(Collector):
    """What `massive:epoch:analytics` and the health of the symbols tell, under names of their own."""

    def __init__(self, counters: Counters, healths: Healths) -> None:
        self._epochs = {partition: values for (partition, stat), values in counters.items() if stat == Stat.EPOCH}
        self._healths = healths

    def collect(self) -> Iterator[Metric]:
        yield self._named("promotions_", CounterMetricFamily, "promotions", "epochs promoted, by reason", "reason")
        for name, meaning in _EPOCH_COUNTERS.items():
            counter = CounterMetricFamily(f"marketswarm_{name}", meaning, labels=["partition"])
            for partition, values in self._epochs.items():
                counter.add_metric([partition], values.get(name, 0.0))
            yield counter
        yield self._named(
            "promotion_rate_per_min:", GaugeMetricFamily, "promotion_rate_per_min", "promotions of a minute", "symbol"
        )
        yield self._named(
            "dirty_ms_", GaugeMetricFamily, "dirty_ms", "how long changes wait to be computed", "quantile"
        )
        yield from self._health()

    def _named(self, prefix: str, family: type[_Family], name: str, meaning: str, label: str) -> Metric:
        """One metric of all values whose names begin alike; the rest of the name is a label."""
        metric = family(f"marketswarm_{name}", meaning, labels=["partition", label])
        for partition, values in self._epochs.items():
            for field, value in values.items():
                if field.startswith(prefix):
                    metric.add_metric([partition, field.removeprefix(prefix)], value)
        return metric

    def _health(self) -> Iterator[Metric]:
        health = GaugeMetricFamily("marketswarm_health", "0 ok, 1 degraded, 2 down", labels=["symbol"])
        signals = GaugeMetricFamily(
            "marketswarm_health_signal", "what is wrong, and how much: s, a count, or 1", labels=["symbol", "signal"]
        )
        for symbol, told in self._healths.items():
            health.add_metric([symbol], SEVERITY.index(told["status"]))
            for name, value in told["signals"].items():
                signals.add_metric([symbol, name], value)
        yield from (health, signals)


def _numbers(fields: Mapping[bytes, bytes]) -> Iterator[tuple[str, float]]:
    for name, text in sorted(fields.items()):
        try:
            yield name.decode(), float(text)
        except ValueError:
            continue  # a last value that is no number has no place here
