"""One process of one stage: its runner, the leases it competes for, its heartbeat and its probes."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import socket
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from functools import partial
from importlib.metadata import version
from time import time

import structlog

from consumers.broker import Broker
from consumers.embedded import find_url
from consumers.lease import every
from consumers.offload import WorkerProcess
from consumers.probes import serving
from consumers.runner import Activity, Runner
from contracts.errors import FatalError, TransientError
from contracts.keys import Keys
from contracts.ports import GetMemoryPolicy
from contracts.settings import Settings
from contracts.topology import StageName
from ops.logs import configure_logs
from ops.wiring import keys_of, partitions, pure_stage, tickers
from stages.staging.tick import Ticker

log = structlog.get_logger("stage")

HEARTBEAT_EVERY_S = 1.0
HEARTBEAT_STALE_S = 15.0

# what the worker process of a stage computes
_WORKED_ON: dict[StageName, tuple[str, ...]] = {
    StageName.MASSIVE: (),
    StageName.STAGING: ("stages.staging.tick_state",),
    StageName.CALCULATE: ("stages.calculate.cuts",),
    StageName.MODELS: ("stages.models.build",),
}

Work = Callable[[asyncio.Event], Awaitable[None]]


def run_stage(name: StageName, settings: Settings, consumer: str | None = None) -> None:
    """Run one stage process until SIGTERM or SIGINT, then drain. FatalError says what a person must fix."""
    configure_logs()
    try:
        asyncio.run(StageProcess(name, settings, consumer or consumer_name(name)).run())
    except BaseExceptionGroup as group:
        fatal = group.subgroup(FatalError)
        if fatal is None:
            raise
        raise _first(fatal) from None


def consumer_name(name: str) -> str:
    """A name no other process has: role, host, process id and a random part."""
    return f"{name}-{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(2)}"


def _first(group: BaseException) -> BaseException:
    while isinstance(group, BaseExceptionGroup):
        group = group.exceptions[0]
    return group


class StageProcess:
    """Everything one process of a stage runs, for all its partitions."""

    def __init__(self, name: StageName, settings: Settings, consumer: str) -> None:
        self.name = name
        self.settings = settings
        self.consumer = consumer
        self.url = find_url(settings.redis_url, settings.marketswarm_data)
        self.keys: Keys = keys_of(settings)
        self.activities: list[Activity] = []
        self._started_ts = time()
        self._resources = AsyncExitStack()
        self._worker = WorkerProcess(*_WORKED_ON[name])
        self._resources.callback(self._worker.close)

    async def run(self) -> None:
        """Run until a signal; what was not finished stays pending for the next owner."""
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        if _WORKED_ON[self.name]:
            self._worker.start()
        async with self._resources:
            work = [part for symbols in partitions(self.settings) for part in await self._partition(symbols)]
            port = await self._resources.enter_async_context(serving(self.name, self.activities))
            log.info("started", stage=self.name, consumer=self.consumer, probes=port)
            async with asyncio.TaskGroup() as tasks:
                parts: list[Work] = [partial(self._heartbeat, port), *work]
                for part in parts:
                    tasks.create_task(_ending_all(part, stop))
        log.info("drained", stage=self.name, consumer=self.consumer)

    def broker(self, symbol: str) -> Broker:
        """A broker of its own, closed with the process."""
        broker = Broker(self.url, self.name, self.consumer, self.keys.cursor(self.name, symbol))
        self._resources.push_async_callback(broker.close)
        return broker

    async def _partition(self, symbols: tuple[str, ...]) -> list[Work]:
        broker = self.broker(symbols[0])
        if self.name is StageName.MASSIVE:
            from ops.ingestion import Ingestion

            ingestion = Ingestion(self.settings, self.keys, symbols, self.broker)
            stage = await self._resources.enter_async_context(ingestion)
            extra = ingestion.work()
        else:
            stage = pure_stage(self.name, self.settings, symbols, self._worker)
            extra = [self._ticks(symbols)] if self.name is StageName.STAGING else []
        runner = Runner(
            stage,
            broker,
            self.keys,
            symbols[0],
            claim_idle_ms=self.settings.marketswarm_claim_idle_ms,
            journal=self.settings.marketswarm_journal,
        )
        self.activities.append(runner.activity)
        return [runner.run, *extra]

    def _ticks(self, symbols: tuple[str, ...]) -> Work:
        """The tick of a partition: one owner over all staging processes."""
        broker = self.broker(symbols[0])
        own = list(tickers(self.settings, symbols, self._worker))

        async def tick(lease: str, owner: str) -> None:
            await self._prune_heartbeats(broker)
            for ticker in own:
                await apply_tick(broker, ticker, lease, owner)

        async def work(stop: asyncio.Event) -> None:
            lease = self.keys.lease("tick", symbols[0])
            await every(broker, lease, self.settings.massive_tick_ms / 1000, tick, stop)

        return work

    async def _heartbeat(self, port: int, stop: asyncio.Event) -> None:
        broker = self.broker(self.settings.massive_symbols[0])
        asked = False
        while not stop.is_set():
            try:
                await broker.set_field(self.keys.heartbeat(), self.consumer, self._heartbeat_body(port))
                if not asked:
                    asked = True
                    await warn_if_evicting(broker)
            except TransientError as error:
                log.warning("waiting", stage=self.name, reason=str(error))
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), HEARTBEAT_EVERY_S)
        try:
            await broker.drop_field(self.keys.heartbeat(), self.consumer)
        except TransientError:
            return

    def _heartbeat_body(self, port: int) -> bytes:
        body = {
            "role": self.name,
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "started": self._started_ts,
            "last_commit": max((one.last_commit_ts for one in self.activities), default=0.0),
            "commits": sum(one.commits for one in self.activities),
            "version": version("marketswarm"),
            "port": port,
            "ts": time(),
        }
        return json.dumps(body).encode()

    async def _prune_heartbeats(self, broker: Broker) -> None:
        for name, body in (await broker.fields(self.keys.heartbeat())).items():
            if time() - json.loads(body).get("ts", 0.0) > HEARTBEAT_STALE_S:
                await broker.drop_field(self.keys.heartbeat(), name.decode())


async def warn_if_evicting(broker: Broker) -> None:
    """Say so when the server may delete our keys to save memory: then the board can lose contracts."""
    (policy,) = await broker.read(GetMemoryPolicy())
    if policy not in ("", "noeviction"):
        log.warning("server_may_evict", policy=policy, reason="set maxmemory-policy to noeviction")


async def _ending_all(part: Work, stop: asyncio.Event) -> None:
    """Run a part; when it fails, everything else stops at its next chance, cancelled or not."""
    try:
        await part(stop)
    finally:
        stop.set()


async def apply_tick(broker: Broker, ticker: Ticker, lease: str, owner: str) -> None:
    """Load, step and commit one tick; a refusal means that the lease or the epoch is another's now."""
    now_ts = time()  # before the load: a frame that arrives meanwhile is not taken for processed
    state = await ticker.load(broker)
    for commit in ticker.step(state, now_ts, lease, owner):
        await broker.commit(commit)
