"""The cuts of a tick: for every plane the rows as read, the tiles of those rows, and their exposures. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

from contracts.analytics import AnalyticsCut
from contracts.messages import Tick
from contracts.planes import CHAIN_ROW, QUOTE_ROW, unpack_header, unpack_rows
from stages.calculate.columns import Columns, compile_columns
from stages.calculate.exposure import Conventions, compute_exposures
from stages.calculate.layers import compiled_epoch
from stages.calculate.tiles import compute_tiles


def compute_cuts(
    epoch: str,
    listing: bytes,
    tick: Tick,
    conventions: Conventions,
    quotes: Sequence[bytes | None],
    chains: Sequence[bytes | None],
) -> list[bytes | None]:
    """The encoded cut of each plane of an epoch at a tick, from its quotes and chain layers; None where one is absent.

    A function of its arguments alone: the same rows and tick give the same bits.
    """
    compiled, columns = compiled_epoch(epoch, listing), _columns(epoch, listing)
    cuts: list[bytes | None] = []
    for plane, quotes_blob, chain_blob in zip(compiled.geometry.planes, quotes, chains, strict=True):
        if quotes_blob is None or chain_blob is None:
            cuts.append(None)
            continue
        header, rows = unpack_header(quotes_blob), unpack_rows(quotes_blob, QUOTE_ROW)
        chain = unpack_rows(chain_blob, CHAIN_ROW)
        cells = compute_tiles(compiled.plans[plane.id], rows)
        exposures, row = compute_exposures(columns[plane.id], rows, chain, tick.spot, tick.market_ts, conventions)
        version, watermark = int(header["version"]), float(header["watermark"])
        cuts.append(AnalyticsCut(tick.tick, version, watermark, rows, chain, cells, exposures, row).encode())
    return cuts


@lru_cache(maxsize=8)
def _columns(epoch: str, listing: bytes) -> Mapping[str, Columns]:
    """The columns of every plane of an epoch, made once per process."""
    return {plane.id: compile_columns(plane) for plane in compiled_epoch(epoch, listing).geometry.planes}
