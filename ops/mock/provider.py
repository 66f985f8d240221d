"""The mock provider: one market, one clock and one scenario behind REST and WebSockets on one port."""

from __future__ import annotations

import re
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import web

from contracts.errors import FatalError
from ops.chain_file import read_chain_file
from ops.mock.clock import ClockFile, MarketClock, moment_of
from ops.mock.market import Market, first_moment
from ops.mock.scenario import Fault, Scenario, parse_scenario

_SYMBOL = re.compile(r"[A-Z]{1,5}\Z")


@dataclass(frozen=True, slots=True)
class MockOptions:
    """What to serve. `rate` is option quote events per second over all symbols; 0 keeps every value still.

    Events go to subscribed contracts only, `frame_events` at a time where the rate allows. `chain` replaces
    the synthetic market: `symbols` and `contracts` then come from the file. Any key is good unless `key` is
    given.
    `max_connections` counts per key and cluster. `data` is the folder that keeps the market's clock. With a
    certificate and its private key (PEM files) both REST and sockets speak TLS only.
    """

    host: str = "127.0.0.1"
    port: int = 8799
    seed: int = 1
    rate: float = 500.0
    contracts: int = 2000  # about, per symbol
    scenario: str = "normal"
    chain: Path | None = None
    symbols: tuple[str, ...] = ("SPX", "NDX")
    data: Path = Path(".marketswarm")
    key: str | None = None
    max_connections: int = 1
    frame_events: int = 10
    tls_certificate: Path | None = None
    tls_key: Path | None = None


@dataclass
class Provider:
    """What REST and feed share."""

    options: MockOptions
    market: Market
    clock: MarketClock
    clock_file: ClockFile
    scenario: Scenario
    started: float = field(default_factory=time.monotonic)
    _begun: Counter[Fault] = field(default_factory=Counter)
    _answers: Counter[Fault] = field(default_factory=Counter)

    @classmethod
    def of(cls, options: MockOptions) -> Provider:
        """A provider for these options; its market goes on where the data folder's last one stopped."""
        _check(options)
        scenario = parse_scenario(options.scenario)
        if options.chain is None:
            clock_file = ClockFile(options.data, "synthetic")
            clock = _synthetic_clock(clock_file.load() or first_moment(options.seed), scenario)
            market = Market.synthetic(
                options.symbols,
                options.seed,
                options.contracts,
                clock.now(),
                still=options.rate == 0,
                rate=clock.rate,
                delist_after_s=scenario.delist_after_s,
            )
        else:
            _check_chain(options, scenario)
            chain = read_chain_file(options.chain)
            clock_file = ClockFile(options.data, options.chain.name)
            # Never before the file's own moment: the folder may know another file of the same name.
            clock = MarketClock(max(clock_file.load() or chain.ts, chain.ts))
            market = Market.from_chain(chain, options.seed, still=options.rate == 0)
        return cls(options, market, clock, clock_file, scenario)

    def elapsed_s(self) -> float:
        """Local seconds since the start: the time of scenarios."""
        return time.monotonic() - self.started

    @property
    def max_connections(self) -> int:
        """Sockets of one key in one cluster."""
        return self.options.max_connections

    def lists(self, ticker: str) -> bool:
        """Whether there is such an option contract."""
        return ticker in self.market.listing.row_of

    def accepts(self, key: str) -> bool:
        """Whether this API key is good."""
        if not key or self.suffers(Fault.UNAUTHORISED):
            return False
        return self.options.key is None or key == self.options.key

    def suffers(self, fault: Fault) -> bool:
        """Whether this fault lasts now."""
        return self.scenario.acts(fault, self.elapsed_s())

    def begins(self, fault: Fault) -> bool:
        """Whether this fault has begun since this was last asked."""
        begun = self.scenario.times_begun(fault, self.elapsed_s())
        is_new = begun > self._begun[fault]
        self._begun[fault] = begun
        return is_new

    def count_answer(self, fault: Fault) -> int:
        """The number, from 0, of the next answer that this fault shapes."""
        number = self._answers[fault]
        self._answers[fault] += 1
        return number

    def refuses_sockets(self) -> bool:
        """Whether WebSockets are aborted and refused."""
        return self.suffers(Fault.OUTAGE) or self.suffers(Fault.RECONNECT)

    def failing_expiration(self) -> str | None:
        """The expiration whose pages answer 500: the second one, while a partial-chain scenario acts."""
        if not self.suffers(Fault.PARTIAL_CHAIN):
            return None
        return sorted({contract.expiration for contract in self.market.listing.contracts})[:2][-1]

    def refresh(self) -> float:
        """Bring the market to the present moment and return it (epoch seconds, market clock)."""
        elapsed_s = self.elapsed_s()
        if self.begins(Fault.NEW_STRIKE):
            self.market.new_strike()
        self.market.spot_factor = self.scenario.spot_factor(elapsed_s)
        ts = self.clock.now()
        self.market.advance(ts)
        return ts


def _synthetic_clock(ts: float, scenario: Scenario) -> MarketClock:
    """The clock of a market that has come to `ts`: in session for ever, or from where the scenario wants it."""
    if scenario.start is None:
        return MarketClock(ts, rate=scenario.rate, always_open=True)
    return MarketClock(moment_of(scenario.start, ts), rate=scenario.rate)


def _check_chain(options: MockOptions, scenario: Scenario) -> None:
    if scenario.start is not None:
        raise FatalError(f"--scenario {options.scenario} is of the synthetic market: a recorded chain has its own time")


def _check(options: MockOptions) -> None:
    if not options.rate >= 0.0:
        raise FatalError(f"--rate {options.rate}: must be 0 or more events per second")
    for name in ("contracts", "max_connections", "frame_events"):
        if getattr(options, name) < 1:
            raise FatalError(f"--{name.replace('_', '-')} {getattr(options, name)}: must be at least 1")
    if (options.tls_certificate is None) != (options.tls_key is None):
        raise FatalError("--tls-certificate and --tls-key: give both or neither")
    wrong = [symbol for symbol in options.symbols if not _SYMBOL.match(symbol)]
    if wrong or not options.symbols:
        raise FatalError(f"--symbols {','.join(options.symbols)!r}: want underlyings such as SPX,NDX")


PROVIDER = web.AppKey("provider", Provider)
