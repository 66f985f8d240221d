"""The synthetic market: seeded, arbitrage-free up to the tick, never crossed, always in session."""

from __future__ import annotations

import time
from collections import defaultdict
from datetime import date, datetime
from datetime import time as clock
from pathlib import Path

import numpy as np
import orjson
import pytest

from contracts.errors import FatalError
from contracts.symbology import CALL, NEW_YORK, parse_ticker
from ops.chain_file import ChainFile, ChainFileContract
from ops.mock import trading_days
from ops.mock.clock import ClockFile, MarketClock, moment_of
from ops.mock.listing import UNKNOWN_CENTS
from ops.mock.market import Market, first_moment
from ops.mock.scenario import Day, Fault, Scenario, Start, Step, parse_scenario

NICKELS = 300


def stream(market: Market, batches: int = 40, size: int = 50) -> list[bytes]:
    start = int(market.start_ts * 1000)
    return [frame for batch in range(batches) for frame in market.frames(start + 100 * batch, size, 10)]


def test_the_same_seed_gives_the_same_bytes() -> None:
    first, again, other = (stream(Market.synthetic(seed=seed, contracts=400)) for seed in (7, 7, 8))
    assert first == again
    assert first != other


def test_listing_has_todays_expiration_and_both_roots_on_a_third_friday() -> None:
    for seed in range(20):
        market = Market.synthetic(seed=seed)
        today = market.day.isoformat()
        planes = {(contract.root, contract.expiration) for contract in market.listing.contracts}
        for symbol, weekly in (("SPX", "SPXW"), ("NDX", "NDXP")):
            expirations = sorted(day for root, day in planes if root == weekly)
            assert expirations[0] == today
            assert len(expirations) >= 5
            assert {day for root, day in planes if root == symbol} & set(expirations[:5])
        counts = [len(market.listing.rows_of(symbol)) for symbol in market.symbols]
        assert all(1800 <= count <= 2200 for count in counts)


def test_number_of_contracts_follows_the_option() -> None:
    for symbols, contracts in ((("SPX", "SPY", "ACME"), 300), (("NDX", "ACME"), 2000), (("SPX",), 20_000)):
        market = Market.synthetic(symbols, contracts=contracts)
        counts = [len(market.listing.rows_of(symbol)) for symbol in market.symbols]
        assert counts == pytest.approx([contracts] * len(symbols), rel=0.1)
        assert len(set(market.listing.row_of)) == sum(counts)


def test_quotes_are_whole_ticks_and_never_crossed() -> None:
    market = Market.synthetic(symbols=("SPX", "SPY"), contracts=600)
    events = [event for frame in stream(market, 100) for event in orjson.loads(frame)]
    assert events
    for event in events:
        bid, ask = round(event["bp"] * 100), round(event["ap"] * 100)
        assert event["bp"] * 100 == pytest.approx(bid, abs=1e-6)
        assert 0 <= bid < ask
        if event["sym"].startswith("O:SPX"):
            assert bid % (5 if bid < NICKELS else 10) == 0
            assert ask % (5 if ask < NICKELS else 10) == 0
    assert np.all(market.bid < market.ask)
    assert np.any(market.bid == 0)


def test_sequences_rise_and_quotes_agree_with_the_last_event() -> None:
    market = Market.synthetic(contracts=200)
    newest: dict[str, dict[str, float]] = {}
    for frame in stream(market, 2, 100):
        for event in orjson.loads(frame):
            before = newest.get(event["sym"])
            assert before is None or (event["t"], event["q"]) > (before["t"], before["q"])
            newest[event["sym"]] = event
    for cid, event in newest.items():
        row = market.listing.row_of[cid]
        assert (market.bid[row], market.ask[row]) == (round(event["bp"] * 100), round(event["ap"] * 100))
        assert market.quote_ts_ms[row] == event["t"]


def test_sequences_rise_over_a_restart() -> None:
    market = Market.synthetic(contracts=200)
    last = market.quote_events(int(market.start_ts * 1000), 5000)[-1]["q"]
    later = Market.synthetic(contracts=200, start_ts=market.start_ts + 1.0)
    assert later.quote_events(int(later.start_ts * 1000), 1)[0]["q"] > last


def test_middle_prices_are_free_of_arbitrage_up_to_the_tick() -> None:
    """Calls fall and puts rise with the strike, by no more than the strikes differ; no fly costs less than nothing."""
    market = Market.synthetic()
    middle = (market.bid + market.ask) / 2.0
    planes: dict[tuple[str, str], list[int]] = defaultdict(list)
    for row, contract in enumerate(market.listing.contracts):
        planes[contract.plane, contract.type].append(row)
    for (_, kind), rows in planes.items():
        strike = market.listing.strike_milli[rows] / 10.0  # cents
        price = middle[rows] if kind == CALL else middle[rows][::-1]
        width = np.diff(strike) if kind == CALL else np.diff(strike)[::-1]
        fall = -np.diff(price)
        tolerance = 15.0
        assert np.all(fall >= -tolerance)
        assert np.all(fall <= width + tolerance)
        assert np.all(np.diff(-fall / width) >= -4.0 * tolerance / np.minimum(width[1:], width[:-1]))


def test_fair_values_keep_put_call_parity() -> None:
    market = Market.synthetic(symbols=("SPX",))
    today = market.day.isoformat()
    fair, listing = market.valuation.price, market.listing
    forwards = [
        contract.strike + fair[row] - fair[listing.row_of[contract.cid.replace("C0", "P0")]]
        for row, contract in enumerate(listing.contracts)
        if contract.expiration == today and contract.type == CALL
    ]
    assert max(forwards) - min(forwards) < 0.2
    assert forwards[0] == pytest.approx(market.spot("SPX"), rel=1e-3)


def test_the_spot_moves_little_and_deep_greeks_are_missing() -> None:
    market = Market.synthetic()
    path = market.spot_path("SPX", [market.start_ts + second for second in range(3600)])
    assert 0.0 < np.max(np.abs(np.diff(path))) < 3.0
    assert 3.0 < np.ptp(path) < 200.0
    solved = ~np.isnan(market.valuation.gamma)
    assert 0.5 < solved.mean() < 1.0
    assert np.all(market.valuation.gamma[solved] >= 0.0)


def test_quotes_follow_the_spot() -> None:
    market = Market.synthetic(symbols=("SPX",))
    row = market.listing.row_of[f"O:SPXW{market.day:%y%m%d}C06900000"]
    before = int(market.bid[row])
    market.spot_factor = 1.01
    market.advance(market.start_ts + 1.0)
    assert market.bid[row] - before > 4_000
    assert market.quote_ts_ms[row] == int((market.start_ts + 1.0) * 1000)


def test_a_still_market_keeps_every_value() -> None:
    market = Market.synthetic(contracts=200, still=True)
    bid, spot = market.bid.copy(), market.spot("SPX")
    market.advance(market.start_ts + 600.0)
    assert np.array_equal(market.bid, bid)
    assert market.spot("SPX") == spot


def test_near_the_money_contracts_quote_more_often() -> None:
    market = Market.synthetic(symbols=("SPX",))
    events = market.quote_events(int(market.start_ts * 1000), 5000)
    distances = [abs(parse_ticker(event["sym"]).strike / market.spot("SPX") - 1.0) for event in events]
    everywhere = np.abs(market.listing.strike / market.spot("SPX") - 1.0)
    assert np.median(distances) < 0.5 * np.median(everywhere)


def test_only_watched_contracts_quote() -> None:
    market = Market.synthetic(contracts=200)
    watched = {contract.cid for contract in market.listing.contracts[::40]}
    market.watch(watched)
    now = int(market.start_ts * 1000)
    assert {event["sym"] for event in market.quote_events(now, 2000)} == watched
    market.watch(["O:NOPE260101C00001000"])
    assert market.quote_events(now, 10) == []


def test_the_next_day_lists_anew_and_a_settled_plane_freezes() -> None:
    market = Market.synthetic(seed=1, symbols=("SPX",))
    first_day = market.day
    third_friday = trading_days.third_friday(first_day.year, first_day.month)
    market.advance(trading_days.at(third_friday, trading_days.NEXT_START))
    expirations = {contract.expiration for contract in market.listing.contracts}
    assert first_day.isoformat() not in expirations
    assert min(expirations) == third_friday.isoformat()
    rows = [row for row, contract in enumerate(market.listing.contracts) if contract.plane == f"SPX:{third_friday}"]
    frozen = market.bid[rows].copy()
    market.spot_factor = 1.02
    market.advance(trading_days.at(third_friday, trading_days.NEXT_START) + 10.0)
    assert rows
    assert np.array_equal(market.bid[rows], frozen)


def test_a_new_strike_is_added_to_the_first_expiration() -> None:
    market = Market.synthetic(contracts=300)
    before = set(market.listing.row_of)
    market.new_strike()
    added = [parse_ticker(cid) for cid in set(market.listing.row_of) - before]
    assert len(added) == 2 * len(market.symbols)
    assert before < set(market.listing.row_of)
    assert {contract.expiration for contract in added} == {market.day.isoformat()}


def test_generation_is_fast_enough_for_the_load_test() -> None:
    market = Market.synthetic()
    start = int(market.start_ts * 1000)
    began = time.process_time()
    for batch in range(100):
        for frame in market.frames(start + 10 * batch, 200, 10):
            assert frame
    assert 20_000 / (time.process_time() - began) > 100_000


def recorded(bid: float | None, ask: float | None, cid: str = "O:SPXW260713C06100000") -> ChainFileContract:
    ticker = parse_ticker(cid)
    nothing = dict.fromkeys(
        ("bid_size", "ask_size", "last", "last_size", "last_ts", "volume", "iv", "delta", "theta", "vega")
    )
    return ChainFileContract(
        cid=cid,
        root=ticker.root,
        expiration=ticker.expiration,
        type=ticker.type,
        strike_milli=ticker.strike_milli,
        bid=bid,
        ask=ask,
        gamma=0.01,
        oi=5,
        **nothing,
    )


def test_recorded_quotes_stay_near_the_files_values() -> None:
    rows = (
        recorded(12.3, 12.9),
        recorded(0.0, 0.05, "O:SPXW260713C06200000"),
        recorded(5.0, None, "O:SPXW260713C06300000"),
        recorded(9.0, 8.0, "O:SPXW260713C06400000"),
    )
    market = Market.from_chain(ChainFile(Path("x"), "SPX", 6100.0, 1783845287.0, rows))
    events = market.quote_events(int(market.start_ts * 1000), 500)
    assert {event["sym"] for event in events} == {rows[0].cid, rows[1].cid}
    for event in events:
        middle, tick = (12.6, 0.1) if event["sym"] == rows[0].cid else (0.025, 0.05)
        assert event["bp"] < event["ap"]
        assert abs(event["ap"] - middle) <= 0.31 + tick
        assert event["sym"] == rows[0].cid or event["bp"] == 0
    assert market.ask[market.listing.row_of[rows[2].cid]] == UNKNOWN_CENTS
    assert market.bid[market.listing.row_of[rows[3].cid]] == 900


class LocalTime:
    """A local clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_the_market_clock_runs_at_its_rate_and_rolls_to_the_next_morning() -> None:
    local = LocalTime()
    friday = trading_days.at(date(2026, 1, 16), trading_days.CLOSE) - 60.0
    market = MarketClock(friday, always_open=True, rate=2.0, local_time=local)
    local.now += 10.0
    assert market.now() == friday + 20.0
    local.now += 20.0
    assert datetime.fromtimestamp(market.now(), NEW_YORK).isoformat() == "2026-01-20T09:35:00-05:00"
    local.now += 1.0
    assert datetime.fromtimestamp(market.now(), NEW_YORK).isoformat() == "2026-01-20T09:35:02-05:00"


def test_a_recorded_clock_never_rolls() -> None:
    local = LocalTime()
    market = MarketClock(1783845287.0, local_time=local)
    local.now += 5.0
    assert market.now() == 1783845292.0


def test_the_clock_file_keeps_each_source(tmp_path: Path) -> None:
    assert ClockFile(tmp_path / "new", "synthetic").load() is None
    ClockFile(tmp_path / "new", "synthetic").save(5.0)
    ClockFile(tmp_path / "new", "chain.csv").save(7.0)
    assert ClockFile(tmp_path / "new", "synthetic").load() == 5.0
    (tmp_path / "new" / "mock-clock.json").write_text("{")
    with pytest.raises(FatalError, match=r"delete the mock's clock file .*mock-clock\.json"):
        ClockFile(tmp_path / "new", "synthetic").load()


@pytest.mark.parametrize("seed", range(40))
def test_a_seeded_market_begins_in_session_in_a_monthly_week(seed: int) -> None:
    begin = first_moment(seed)
    day = datetime.fromtimestamp(begin, NEW_YORK).date()
    assert trading_days.in_session(begin)
    assert 0 < (trading_days.third_friday(day.year, day.month) - day).days < 5


def test_faults_recur() -> None:
    step = Step(Fault.SILENCE, 20.0, 3.0, 30.0)
    seconds = (0, 19.9, 20, 22.9, 23, 50, 53, 80.5)
    assert [step.covers(second) for second in seconds] == [False, False, True, True, False, True, False, True]
    assert [step.times_begun(second) for second in seconds] == [0, 0, 1, 1, 1, 2, 2, 3]
    assert Step(Fault.NEW_STRIKE, 20.0).times_begun(1e6) == 1


def test_scenarios_take_a_duration_and_refuse_what_they_do_not_know() -> None:
    assert parse_scenario("silence:30s") == Scenario((Step(Fault.SILENCE, 30.0, 30.0),))
    assert not parse_scenario("silence:20s").acts(Fault.SILENCE, 100.0)
    assert parse_scenario("outage:20m").acts(Fault.OUTAGE, 1229.0)
    for text in ("nonsense", "silence:soon", "drift:3s", "new-strike:3s"):
        with pytest.raises(FatalError):
            parse_scenario(text)


def test_a_gap_moves_the_spot_from_its_moment_on() -> None:
    gap = parse_scenario("spot-gap")
    assert gap.spot_factor(29.0) == 1.0
    assert gap.spot_factor(31.0) == gap.spot_factor(1e6) == pytest.approx(1.03)


def test_a_start_is_the_next_such_moment_of_the_calendar() -> None:
    thursday = trading_days.at(date(2026, 2, 19), trading_days.FIRST_START)
    starts = {
        (Day.THIRD_FRIDAY, clock(9, 29, 30)): "2026-02-20T09:29:30-05:00",
        (Day.ORDINARY, clock(15, 59, 30)): "2026-02-19T15:59:30-05:00",
        (Day.ORDINARY, clock(9, 30)): "2026-02-23T09:30:00-05:00",  # not the third Friday in between
    }
    for (day, at), told in starts.items():
        assert datetime.fromtimestamp(moment_of(Start(day, at), thursday), NEW_YORK).isoformat() == told


def test_an_expiration_leaves_the_listing_as_soon_as_it_settles_when_told() -> None:
    day = date(2026, 2, 19)
    close = trading_days.at(day, trading_days.CLOSE)
    kept = Market.synthetic(contracts=200, start_ts=close - 1.0)
    left = Market.synthetic(contracts=200, start_ts=close - 1.0, delist_after_s=0.0)
    assert len(kept.listing) == len(left.listing)
    interest = {cid: left.facts.open_interest[row] for cid, row in left.listing.row_of.items()}
    for market in (kept, left):
        market.advance(close)
    assert min(contract.expiration for contract in kept.listing.contracts) == "2026-02-19"
    assert min(contract.expiration for contract in left.listing.contracts) == "2026-02-20"
    assert set(left.listing.row_of) < set(kept.listing.row_of)
    assert all(left.facts.open_interest[row] == interest[cid] for cid, row in left.listing.row_of.items())


def test_nothing_was_traded_in_the_future() -> None:
    before_open = trading_days.at(date(2026, 2, 20), trading_days.OPEN) - 30.0
    market = Market.synthetic(contracts=200, start_ts=before_open)
    assert (market.facts.last_ts <= before_open + 0.001).all()


def test_a_day_of_drift_stays_within_a_normal_range() -> None:
    start = parse_scenario("drift").start
    assert start is not None
    opened = moment_of(start, first_moment(1))
    day = np.arange(opened, opened + 6.5 * 3600.0, 10.0)
    path = Market.synthetic(contracts=200).spot_path("SPX", day.tolist())
    assert 0.004 < (path.max() - path.min()) / path[0] < 0.02
