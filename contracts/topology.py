"""THE table of streams: who writes which messages where, which group reads them, how long entries stay."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from contracts import messages
from contracts.keys import Keys


class StageName(StrEnum):
    """The four stages; also the names of their consumer groups."""

    MASSIVE = "massive"
    STAGING = "staging"
    CALCULATE = "calculate"
    MODELS = "models"


class Retention(StrEnum):
    """How a stream is bounded."""

    ACKNOWLEDGED = "trimmed to what its group has acknowledged"
    WINDOW = "trimmed to the resume window"


@dataclass(frozen=True, slots=True)
class StreamRow:
    """One stream. `group` is None where programs read by id (published events)."""

    name: str
    key: Callable[[Keys, str], str]
    messages: tuple[type[messages.Message], ...]
    producer: str
    group: StageName | None
    retention: Retention


STREAMS: tuple[StreamRow, ...] = (
    StreamRow(
        "jobs",
        Keys.jobs_stream,
        (messages.ChainFetch,),
        "staging (tick)",
        StageName.MASSIVE,
        Retention.ACKNOWLEDGED,
    ),
    StreamRow(
        "chain",
        Keys.chain_stream,
        (messages.ChainCompleted, messages.EpochForce),
        "massive, operators (force)",
        StageName.STAGING,
        Retention.ACKNOWLEDGED,
    ),
    StreamRow("ws", Keys.ws_stream, (), "massive (feed), foreign writers", StageName.STAGING, Retention.ACKNOWLEDGED),
    StreamRow(
        "epoch",
        Keys.epoch_stream,
        (messages.EpochPromoted, messages.PlaneDirty, messages.Tick),
        "staging, calculate (re-flag)",
        StageName.CALCULATE,
        Retention.ACKNOWLEDGED,
    ),
    StreamRow(
        "strategy",
        Keys.strategy_stream,
        (messages.EpochComputed, messages.PlaneComputed, messages.AnalyticsComputed),
        "calculate, models (re-flag)",
        StageName.MODELS,
        Retention.ACKNOWLEDGED,
    ),
    StreamRow("model", Keys.model_stream, (), "models", None, Retention.WINDOW),
)


def streams_of(stage: StageName) -> tuple[StreamRow, ...]:
    """The streams a stage reads, in the order of the table (chain before frames)."""
    return tuple(row for row in STREAMS if row.group == stage)
