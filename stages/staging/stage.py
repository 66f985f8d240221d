"""The staging stage: chains become epochs, frames become rows."""

from __future__ import annotations

from contracts.errors import DataError
from contracts.keys import Keys
from contracts.messages import ChainCompleted, EpochForce, Fields, Message, decode
from contracts.stage import Source, Stage
from contracts.topology import StageName, streams_of
from stages.staging.chain import ChainMessage, ChainSettings, ChainState, Staging
from stages.staging.frames import DecodedFrame, decode_entry
from stages.staging.hydrate import HydrateSettings, HydrateState, Hydration

CHAIN_BATCH = 16
FRAME_BATCH = 2000  # what is there is taken; the more frames wait, the more conflate


def build_stage(keys: Keys, symbol: str, chain: ChainSettings, hydrate: HydrateSettings) -> Stage:
    """The staging stage of the partition that `symbol` belongs to."""
    chain_row, frame_row = streams_of(StageName.STAGING)
    staging = Staging(keys, chain)
    hydration = Hydration(keys, symbol, hydrate)
    chains: Source[ChainMessage, ChainState] = Source(
        chain_row,
        chain_row.key(keys, symbol),
        CHAIN_BATCH,
        _decode_chain,
        lambda message: message.symbol,
        staging.load,
        staging.step,
    )
    frames: Source[DecodedFrame, HydrateState] = Source(
        frame_row,
        frame_row.key(keys, symbol),
        FRAME_BATCH,
        decode_entry,
        lambda _: "frames",
        hydration.load,
        hydration.step,
    )
    return Stage(StageName.STAGING, (chains, frames))


def _decode_chain(fields: Fields) -> ChainMessage:
    message: Message = decode(fields, (ChainCompleted, EpochForce))
    if not isinstance(message, ChainCompleted | EpochForce):
        raise DataError(f"neither a chain.completed nor an epoch.force: {message!r}")
    return message
