"""Recorded chains: three formats, every row, and the figures the sources are known to give."""

from __future__ import annotations

import gzip
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest

from contracts.errors import DataError
from ops.chain_file import ChainFile, read_chain_file

CHAINS = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "chains"

CSV_HEADER = (
    "Expiration Date,Calls,Last Sale,Net,Bid,Ask,Volume,IV,Delta,Gamma,Open Interest,Strike,"
    "Puts,Last Sale,Net,Bid,Ask,Volume,IV,Delta,Gamma,Open Interest"
)
CSV_ROW = (
    "Wed Oct 01 2025,SPY251001C00500500,0,0,157.1,159.91,3,0.6659,0.9994,0,7,500.50,"
    "SPY251001P00500500,0.01,0,0,0.01,0,0,-0.0007,0.0001,16"
)
CSV_DATE = '"Date: September 25, 2025 at 9:05 PM EDT",Bid: 657.81,Ask: 657.83,Size: 1*4,"Volume: 89,468,957"'


def csv_text(*rows: str, first: str = "", date_line: str = CSV_DATE, header: str = CSV_HEADER) -> str:
    return "\n".join([first, "SPDR S&P 500 ETF Trust,Last: 658.05,Change:  -3.05", date_line, header, *rows])


def desk(**changes: Any) -> dict[str, Any]:
    quote = {
        "symbol": "SPXW260713C06100000",
        "expiration": "2026-07-13",
        "side": "call",
        "strike": 6100.0,
        "bid": 1468.4,
        "ask": None,
        "last": 0.0,
        "volume": None,
        "openInterest": None,
        "iv": 1.0000000000000003e-05,
        "delta": 0.9996,
        "gamma": 0.0016,
        "theta": -0.0141,
        "vega": 0.0038,
    }
    return {
        "symbol": "SPX",
        "updated": "2026-07-12T04:34:47.129426-04:00",
        "underlyingPrice": 7575.39,
        "quotes": [quote | changes],
    }


def write(tmp_path: Path, content: str | dict[str, Any], name: str = "chain") -> Path:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else orjson.dumps(content))
    return path


def test_options_desk_row_keeps_unknown_apart_from_zero(tmp_path: Path) -> None:
    chain = read_chain_file(write(tmp_path, desk()))
    (row,) = chain.contracts
    assert (chain.symbol, chain.spot, chain.ts) == ("SPX", 7575.39, 1783845287.129426)
    assert (row.cid, row.root, row.expiration) == ("O:SPXW260713C06100000", "SPXW", "2026-07-13")
    assert (row.type, row.strike_milli, row.bid, row.gamma) == ("call", 6_100_000, 1468.4, 0.0016)
    assert (row.ask, row.last, row.volume, row.oi, row.iv, row.bid_size) == (None,) * 6


def test_csv_line_is_a_call_and_a_put(tmp_path: Path) -> None:
    chain = read_chain_file(write(tmp_path, csv_text(CSV_ROW)))
    call, put = chain.contracts
    assert (chain.symbol, chain.spot) == ("SPY", 658.05)
    assert datetime.fromtimestamp(chain.ts, UTC) == datetime(2025, 9, 26, 1, 5, tzinfo=UTC)
    assert (call.cid, call.strike_milli, call.bid, call.oi) == ("O:SPY251001C00500500", 500_500, 157.1, 7)
    assert (put.cid, put.last, put.bid, put.iv, put.gamma) == ("O:SPY251001P00500500", 0.01, 0.0, None, 0.0001)


@pytest.mark.parametrize(
    ("date_line", "expected"),
    [
        ('"Date: December 12, 2022 at 8:31 PM EST",Bid: 0', datetime(2022, 12, 13, 1, 31, tzinfo=UTC)),
        ('"Date: July 12, 2022 at 8:31 AM EST",Bid: 0', datetime(2022, 7, 12, 13, 31, tzinfo=UTC)),
        ('"Date: July 12, 2022 at 8:31 AM",Bid: 0', datetime(2022, 7, 12, 12, 31, tzinfo=UTC)),
    ],
)
def test_csv_time_zone_is_honoured(tmp_path: Path, date_line: str, expected: datetime) -> None:
    chain = read_chain_file(write(tmp_path, csv_text(CSV_ROW, first="---Example---", date_line=date_line)))
    assert datetime.fromtimestamp(chain.ts, UTC) == expected


def test_delayed_quotes_are_stamped_in_utc_and_traded_in_new_york(tmp_path: Path) -> None:
    row = {
        "option": "RUTW231020P01000000",
        "bid": 0.0,
        "bid_size": 0.0,
        "ask": 0.15,
        "ask_size": 86.0,
        "iv": 0.6836,
        "open_interest": 22.0,
        "volume": 0.0,
        "delta": -0.0004,
        "gamma": 0.0,
        "theta": -0.0076,
        "vega": 0.0081,
        "last_trade_price": 0.25,
        "last_trade_time": "2023-08-21T12:48:51",
    }
    document = {
        "timestamp": "2023-09-21 03:17:42",
        "symbol": "_RUT",
        "data": {"symbol": "^RUT", "current_price": 1806.1193, "options": [row]},
    }
    chain = read_chain_file(write(tmp_path, document))
    (contract,) = chain.contracts
    assert (chain.symbol, chain.spot) == ("RUT", 1806.1193)
    assert datetime.fromtimestamp(chain.ts, UTC) == datetime(2023, 9, 21, 3, 17, 42, tzinfo=UTC)
    assert (contract.bid, contract.ask_size, contract.oi, contract.last) == (0.0, 86, 22, 0.25)
    assert contract.last_ts == datetime(2023, 8, 21, 16, 48, 51, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("{", "not valid JSON"),
        ("[1]", "unknown JSON"),
        ("hello", "neither JSON nor an exchange CSV"),
        (csv_text(), "no contracts"),
        (csv_text(CSV_ROW, header=CSV_HEADER + ",Rho"), "unexpected columns"),
        (csv_text(CSV_ROW + ",1"), "line 5: 23 cells"),
        (csv_text(CSV_ROW.replace("500.50", "500.75")), "line 5: strike '500.75' disagrees"),
        (csv_text(CSV_ROW.replace("Oct 01", "Oct 02").replace("Wed", "Thu")), "expiration '2025-10-02'"),
        (csv_text(CSV_ROW.replace("157.1", "many")), "line 5: Bid is not a number"),
        (csv_text(CSV_ROW, CSV_ROW), "O:SPY251001C00500500 is listed twice"),
        (csv_text(CSV_ROW, date_line="Date: yesterday"), "no readable date"),
        (csv_text(CSV_ROW, date_line=CSV_DATE.replace("EDT", "CET")), "unknown time zone"),
        (desk(symbol="SPX"), "row 1: not an option ticker"),
        (desk(side="put"), "row 1: side 'put' disagrees"),
        (desk(bid="1"), "row 1: bid is not a number"),
        (desk(symbol="NDXP260713C06100000"), "is an option on NDX, the file is about SPX"),
        (desk() | {"underlyingPrice": 0}, "underlyingPrice is not a positive number"),
        (desk() | {"updated": "today"}, "updated is not a time"),
        (desk() | {"quotes": []}, "no contracts"),
    ],
)
def test_a_bad_file_is_named_with_what_is_wrong(tmp_path: Path, content: str | dict[str, Any], complaint: str) -> None:
    path = write(tmp_path, content, "bad.file")
    with pytest.raises(DataError) as raised:
        read_chain_file(path)
    assert str(path) in str(raised.value)
    assert complaint in str(raised.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.json: cannot be read"):
        read_chain_file(tmp_path / "nowhere.json")


def gamma_exposure(chain: ChainFile, without_expired_on: str = "") -> tuple[float, float]:
    """Calls and puts in billions of dollars per 1 % move, by the file's own gamma."""
    total = Counter[str]()
    for row in chain.contracts:
        if row.gamma is not None and row.oi is not None and row.expiration != without_expired_on:
            total[row.type] += row.gamma * row.oi * 100 * chain.spot**2 * 0.01 / 1e9  # type: ignore[assignment]
    return float(total["call"]), -float(total["put"])


@pytest.mark.skipif(not CHAINS.is_dir(), reason="the recorded chains are not beside the project")
@pytest.mark.parametrize(
    ("name", "symbol", "spot", "roots", "net"),
    [
        ("spx_2026-07-12_optionsdesk.json", "SPX", 7575.39013671875, {"SPX": 618, "SPXW": 3542}, 49.23827316),
        ("qqq_2026-07-12_optionsdesk.json", "QQQ", 725.510009765625, {"QQQ": 7823}, None),
        ("spx_2022-12-12_gflows.csv", "SPX", 3990.5601, {"SPX": 6394, "SPXW": 12762}, -1.075156892),
        ("ndx_gflows.csv", "NDX", 11706.4395, {"NDX": 6096, "NDXP": 13022}, 1.0875414956),
        ("rut_2023-09-20_delayed_quotes.json", "RUT", 1806.1193, {"RUT": 1472, "RUTW": 5208}, -1.270000618),
        ("spy_2025-09-25_2105EDT.csv", "SPY", 658.05, {"SPY": 3716}, -3.9178358823),
    ],
)
def test_real_files_reproduce_the_known_figures(
    name: str, symbol: str, spot: float, roots: dict[str, int], net: float | None
) -> None:
    chain = read_chain_file(CHAINS / name)
    assert (chain.symbol, chain.spot) == (symbol, spot)
    assert Counter(row.root for row in chain.contracts) == roots
    if net is not None:
        assert sum(gamma_exposure(chain)) == pytest.approx(net, rel=1e-6)


@pytest.mark.skipif(not CHAINS.is_dir(), reason="the recorded chains are not beside the project")
def test_expired_rows_are_kept_and_can_be_told_apart() -> None:
    chain = read_chain_file(CHAINS / "rut_2023-09-20_delayed_quotes.json")
    assert sum(gamma_exposure(chain, "2023-09-20")) == pytest.approx(-1.253137036, rel=1e-6)


def test_a_compressed_file_is_read_alike(tmp_path: Path) -> None:
    plain = write(tmp_path, desk(), "chain.json")
    packed = tmp_path / "chain.json.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert read_chain_file(packed).contracts == read_chain_file(plain).contracts


def test_a_compressed_file_that_is_cut_or_is_none_is_refused(tmp_path: Path) -> None:
    packed = gzip.compress(write(tmp_path, desk()).read_bytes())
    for content in (packed[:-12], b"no gzip at all"):
        file = tmp_path / "chain.json.gz"
        file.write_bytes(content)
        with pytest.raises(DataError, match="cannot be read"):
            read_chain_file(file)
