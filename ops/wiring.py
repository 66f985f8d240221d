"""From settings to the parts of the pipeline: the only place where stages, broker and settings meet."""

from __future__ import annotations

from collections.abc import Iterator

from contracts.keys import Keys
from contracts.ports import Offload, inline
from contracts.settings import Settings
from contracts.stage import Stage
from contracts.topology import StageName
from stages.calculate.exposure import Conventions
from stages.calculate.stage import CalculateSettings
from stages.calculate.stage import build_stage as build_calculate
from stages.models.stage import ModelSettings
from stages.models.stage import build_stage as build_models
from stages.staging.chain import ChainSettings
from stages.staging.dormancy import DormancySettings
from stages.staging.health import HealthSettings
from stages.staging.hydrate import HydrateSettings
from stages.staging.stage import build_stage as build_staging
from stages.staging.tick import Ticker, TickSettings


def keys_of(settings: Settings) -> Keys:
    """How this deployment spells its keys."""
    return Keys(settings.marketswarm_namespace, settings.marketswarm_partitioned)


def conventions_of(settings: Settings) -> Conventions:
    """What the numbers of a tick depend on besides rows and tick."""
    return Conventions(settings.massive_gamma, settings.massive_rate, settings.massive_stale_sec)


def partitions(settings: Settings) -> tuple[tuple[str, ...], ...]:
    """The symbols of each partition: one partition, or one per symbol in partitioned mode."""
    if settings.marketswarm_partitioned:
        return tuple((symbol,) for symbol in settings.massive_symbols)
    return (settings.massive_symbols,)


def pure_stage(name: StageName, settings: Settings, symbols: tuple[str, ...], offload: Offload = inline) -> Stage:
    """One of the stages without effects (staging, calculate, models) for a partition."""
    keys, symbol, ttl = keys_of(settings), symbols[0], settings.massive_epoch_ttl * 1000
    if name is StageName.STAGING:
        dormancy = DormancySettings(settings.massive_epoch_dormant_threshold, settings.massive_epoch_dormant_count)
        chain = ChainSettings(ttl, settings.marketswarm_timeline_length, settings.massive_widths, dormancy)
        hydrate = HydrateSettings(symbols, settings.massive_future_tolerance_sec, ttl)
        return build_staging(keys, symbol, chain, hydrate)
    if name is StageName.CALCULATE:
        return build_calculate(keys, symbol, CalculateSettings(ttl, conventions_of(settings)), offload)
    window = settings.marketswarm_resume_window_sec * 1000
    models = ModelSettings(ttl, settings.massive_model_ttl * 1000, window, settings.massive_rate)
    return build_models(keys, symbol, models, offload)


def tickers(settings: Settings, symbols: tuple[str, ...], offload: Offload = inline) -> Iterator[Ticker]:
    """The tick of each symbol of a partition."""
    health = HealthSettings(
        settings.massive_chain_interval_sec,
        settings.massive_chain_interval_closed_sec,
        settings.massive_failing_sec,
        settings.massive_requests_per_minute,
    )
    dormancy = DormancySettings(settings.massive_epoch_dormant_threshold, settings.massive_epoch_dormant_count)
    tick = TickSettings(settings.massive_epoch_ttl * 1000, dormancy, health)
    for symbol in symbols:
        yield Ticker(keys_of(settings), symbol, tick, offload)
