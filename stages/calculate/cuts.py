"""The cuts of a tick: for every plane the rows as read, the tiles of those rows, and their exposures. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np

from contracts.analytics import AnalyticsCut
from contracts.compiled import compiled_epoch
from contracts.messages import Tick
from contracts.planes import CHAIN_ROW, QUOTE_ROW, TRADE_ROW, UNKNOWN_COUNT, Array, unpack_header, unpack_rows
from stages.calculate.columns import Columns, Floats, compile_columns
from stages.calculate.exposure import Conventions, compute_exposures
from stages.calculate.tiles import compute_tiles


def compute_cuts(
    epoch: str,
    listing: bytes,
    tick: Tick,
    conventions: Conventions,
    quotes: Sequence[bytes | None],
    chains: Sequence[bytes | None],
    trades: Sequence[bytes | None],
) -> list[bytes | None]:
    """The encoded cut of each plane of an epoch at a tick, from its layers of rows; None where one is absent.

    A function of its arguments alone: the same rows and tick give the same bits.
    """
    compiled, columns = compiled_epoch(epoch, listing), _columns(epoch, listing)
    cuts: list[bytes | None] = []
    for plane, *blobs in zip(compiled.geometry.planes, quotes, chains, trades, strict=True):
        quotes_blob, chain_blob, trades_blob = blobs
        if quotes_blob is None or chain_blob is None or trades_blob is None:
            cuts.append(None)
            continue
        header, rows = unpack_header(quotes_blob), unpack_rows(quotes_blob, QUOTE_ROW)
        chain = unpack_rows(chain_blob, CHAIN_ROW)
        cells = compute_tiles(compiled.plans[plane.id], rows)
        exposures, row = compute_exposures(columns[plane.id], rows, chain, tick.spot, tick.market_ts, conventions)
        exposures["volume"] = _volume(unpack_rows(trades_blob, TRADE_ROW))
        version, watermark = int(header["version"]), float(header["watermark"])
        cuts.append(AnalyticsCut(tick.tick, version, watermark, rows, chain, cells, exposures, row).encode())
    return cuts


def _volume(trades: Array) -> Floats:
    volume = trades["volume"]["volume"]
    return np.where(volume == UNKNOWN_COUNT, np.nan, volume)


@lru_cache(maxsize=8)
def _columns(epoch: str, listing: bytes) -> Mapping[str, Columns]:
    """The columns of every plane of an epoch, made once per process."""
    return {plane.id: compile_columns(plane) for plane in compiled_epoch(epoch, listing).geometry.planes}
