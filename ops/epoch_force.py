"""`marketswarm epochs force U`: a person's order to promote the geometry that is, everything dirty."""

from __future__ import annotations

import json
from secrets import token_hex
from time import monotonic, sleep, time
from typing import Any

from contracts.errors import FatalError, TransientError
from contracts.keys import Keys
from contracts.messages import EpochForce, encode
from contracts.settings import Settings
from contracts.topology import StageName
from ops.database import open_database
from ops.wiring import keys_of

ALIVE_S = 10.0  # a process that told of itself so long ago is there
POLL_S = 0.05


def force_epoch(redis_url: str, settings: Settings, symbol: str, timeout_s: float) -> str | None:
    """Give the order and return the id of the epoch that answers it; None if nobody waits for it (`timeout_s` 0).

    FatalError when there is nothing to force, or nobody to do it; TransientError when no answer came in time: the
    order stands and will be carried out.
    """
    keys = keys_of(settings)
    with open_database(redis_url) as database:
        _require_staging(database, keys)
        if not database.hget(keys.active(symbol), symbol):
            raise FatalError(f"{symbol} has no epoch yet: there is nothing to force")
        order = EpochForce(symbol, token_hex(8), time())
        database.xadd(keys.chain_stream(symbol), encode(order))
        return _answer(database, keys, order, timeout_s) if timeout_s else None


def _require_staging(database: Any, keys: Keys) -> None:
    beats = (json.loads(body) for body in database.hgetall(keys.heartbeat()).values())
    if not any(beat.get("role") == StageName.STAGING and time() - beat.get("ts", 0.0) < ALIVE_S for beat in beats):
        raise FatalError("no staging process is running: start the pipeline with `marketswarm up`")


def _answer(database: Any, keys: Keys, order: EpochForce, timeout_s: float) -> str:
    """The epoch whose meta names the order; another promotion may have come after it."""
    deadline = monotonic() + timeout_s
    while monotonic() < deadline:
        for item in database.lrange(keys.timeline(order.symbol), 0, 9):
            epoch: str = item.decode()
            if (database.hget(keys.meta(epoch), "request") or b"").decode() == order.request:
                return epoch
        sleep(POLL_S)
    raise TransientError(
        f"no new epoch of {order.symbol} within {timeout_s:g} s; the order stands, `marketswarm status` tells the lag"
    )
