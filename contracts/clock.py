"""The market clock as a value: an affine map from receive time to market time, recorded so that steps can use it."""

from __future__ import annotations

import msgspec

from contracts.errors import UNDECODABLE, DataError


class MarketClock(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Market time = market_ts + rate * (receive time - receive_ts); all in epoch seconds. `is_open`: session or not."""

    receive_ts: float = 0.0
    market_ts: float = 0.0
    rate: float = 1.0
    is_open: bool = True

    def market_time(self, receive_ts: float) -> float:
        """What time it is for the market when our clock says `receive_ts`."""
        return self.market_ts + self.rate * (receive_ts - self.receive_ts)


LOCAL = MarketClock()


def encode_clock(clock: MarketClock) -> bytes:
    """The value of `massive:clock`."""
    return msgspec.json.encode(clock)


def decode_clock(blob: bytes | None) -> MarketClock:
    """Read a recorded clock; without one, market time is local time."""
    if blob is None:
        return LOCAL
    try:
        return msgspec.json.decode(blob, type=MarketClock)
    except UNDECODABLE as error:
        raise DataError(f"market clock: {error}") from error
