"""The cuts of a tick: for every plane the rows as read, the tiles of those rows, and their exposures. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from contracts.analytics import AnalyticsCut
from contracts.messages import Tick
from contracts.planes import CHAIN_ROW, QUOTE_ROW, unpack_header, unpack_rows
from stages.calculate.exposure import GammaMode, compute_exposures
from stages.calculate.layers import compiled_epoch
from stages.calculate.tiles import compute_tiles


def compute_cuts(
    epoch: str,
    listing: bytes,
    tick: Tick,
    gamma_mode: GammaMode,
    quotes: Sequence[bytes | None],
    chains: Sequence[bytes | None],
) -> list[bytes | None]:
    """The encoded cut of each plane of an epoch at a tick, from its quotes and chain layers; None where one is absent.

    A function of its arguments alone: the same rows and tick give the same bits.
    """
    compiled = compiled_epoch(epoch, listing)
    cuts: list[bytes | None] = []
    for plane, quotes_blob, chain_blob in zip(compiled.geometry.planes, quotes, chains, strict=True):
        if quotes_blob is None or chain_blob is None:
            cuts.append(None)
            continue
        header, rows = unpack_header(quotes_blob), unpack_rows(quotes_blob, QUOTE_ROW)
        chain = unpack_rows(chain_blob, CHAIN_ROW)
        cells = compute_tiles(compiled.plans[plane.id], rows)
        exposures = compute_exposures(plane, chain, tick.spot, tick.market_ts, gamma_mode)
        version, watermark = int(header["version"]), float(header["watermark"])
        cuts.append(AnalyticsCut(tick.tick, version, watermark, rows, chain, cells, exposures).encode())
    return cuts
