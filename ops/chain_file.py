"""Recorded option chains as files: three formats in, one `ChainFile` out.

Read are the options-desk JSON, the exchange's CSV and the exchange's raw delayed-quotes JSON. Every row is
kept, each contract under its full provider ticker, so roots that share dates and strikes stay apart.
Unknown is None, never 0: a last price or a volatility of 0 means that there is none.
"""

from __future__ import annotations

import csv
import gzip
import math
import re
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

import orjson

from contracts.errors import DataError
from contracts.symbology import CALL, NEW_YORK, PUT, OptionTicker, parse_ticker, series_of

# Sources write 0 or 1e-05 where their solver found no volatility.
_NO_VOLATILITY = 1.00001e-05

_CSV_SIDE = ["Last Sale", "Net", "Bid", "Ask", "Volume", "IV", "Delta", "Gamma", "Open Interest"]
_CSV_HEADER = ["Expiration Date", "Calls", *_CSV_SIDE, "Strike", "Puts", *_CSV_SIDE]
_CSV_HEADER_WITHIN_LINES = 10
_CSV_DATE = re.compile(r"Date:\s*(\w+ \d{1,2}, \d{4}) at (\d{1,2}:\d{2} [AP]M)(?:\s+(\S+))?\s*\Z")
_ZONES: Mapping[str | None, tzinfo] = {
    "EST": timezone(timedelta(hours=-5)),
    "EDT": timezone(timedelta(hours=-4)),
    "ET": NEW_YORK,
    None: NEW_YORK,
}


@dataclass(frozen=True, slots=True)
class ChainFileContract:
    """One listed option as the file states it. Prices in dollars, times in epoch seconds, unknown is None."""

    cid: str  # full provider ticker, O:SPXW260107C06850000
    root: str
    expiration: str  # YYYY-MM-DD
    type: str  # "call", "put"
    strike_milli: int  # thousandths of a dollar
    bid: float | None
    ask: float | None
    bid_size: int | None
    ask_size: int | None
    last: float | None
    last_size: int | None
    last_ts: float | None
    volume: int | None
    iv: float | None  # fraction: 0.1186 is 11.86 %
    delta: float | None
    gamma: float | None
    theta: float | None  # dollars per day
    vega: float | None  # dollars per volatility point
    oi: int | None


@dataclass(frozen=True, slots=True)
class ChainFile:
    """A recorded chain: one underlying at one moment, every row of its file."""

    path: Path
    symbol: str  # underlying without prefix: SPX, SPY
    spot: float  # dollars or index points
    ts: float  # the file's own moment, epoch seconds
    contracts: tuple[ChainFileContract, ...]


def read_chain_file(path: str | Path) -> ChainFile:
    """Read a recorded chain of any known format, also compressed (.gz); DataError names file and fault."""
    path = Path(path)
    try:
        content = path.read_bytes()
        text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode("utf-8-sig")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    try:
        chain = _from_json(path, text) if text.lstrip().startswith(("{", "[")) else _from_csv(path, text)
        _check(chain)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    return chain


def _from_json(path: Path, text: str) -> ChainFile:
    try:
        document = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise DataError(f"not valid JSON: {error}") from error
    if isinstance(document, dict) and isinstance(document.get("quotes"), list):
        return _from_options_desk(path, document)
    data = document.get("data") if isinstance(document, dict) else None
    if isinstance(data, dict) and isinstance(data.get("options"), list):
        return _from_delayed_quotes(path, document, data)
    raise DataError("unknown JSON: neither an options-desk file (quotes) nor delayed quotes (data.options)")


def _from_options_desk(path: Path, document: Mapping[str, Any]) -> ChainFile:
    return ChainFile(
        path=path,
        symbol=_symbol(document.get("symbol")),
        spot=_positive(document.get("underlyingPrice"), "underlyingPrice"),
        ts=_instant(document.get("updated"), "updated", NEW_YORK),
        contracts=_rows(document["quotes"], _options_desk_row),
    )


def _options_desk_row(row: Mapping[str, Any]) -> ChainFileContract:
    ticker = _ticker(row.get("symbol"))
    _agree("expiration", row.get("expiration"), ticker.expiration)
    _agree("side", row.get("side"), ticker.type)
    _agree_strike(row.get("strike"), ticker)
    return _contract(
        ticker,
        row,
        bid="bid",
        ask="ask",
        last="last",
        volume="volume",
        iv="iv",
        delta="delta",
        gamma="gamma",
        theta="theta",
        vega="vega",
        oi="openInterest",
    )


def _from_delayed_quotes(path: Path, document: Mapping[str, Any], data: Mapping[str, Any]) -> ChainFile:
    return ChainFile(
        path=path,
        symbol=_symbol(data.get("symbol", document.get("symbol"))),
        spot=_positive(data.get("current_price"), "data.current_price"),
        ts=_instant(document.get("timestamp"), "timestamp", UTC),
        contracts=_rows(data["options"], _delayed_quotes_row),
    )


def _delayed_quotes_row(row: Mapping[str, Any]) -> ChainFileContract:
    traded = row.get("last_trade_time")
    return _contract(
        _ticker(row.get("option")),
        row,
        last_ts=None if traded is None else _instant(traded, "last_trade_time", NEW_YORK),
        bid="bid",
        ask="ask",
        bid_size="bid_size",
        ask_size="ask_size",
        last="last_trade_price",
        volume="volume",
        iv="iv",
        delta="delta",
        gamma="gamma",
        theta="theta",
        vega="vega",
        oi="open_interest",
    )


def _from_csv(path: Path, text: str) -> ChainFile:
    lines = list(csv.reader(text.splitlines()))
    header = next((n for n, cells in enumerate(lines) if cells[:1] == _CSV_HEADER[:1]), None)
    if header is None or header > _CSV_HEADER_WITHIN_LINES:
        raise DataError("neither JSON nor an exchange CSV (no header line `Expiration Date,Calls,...`)")
    if lines[header] != _CSV_HEADER:
        raise DataError(f"line {header + 1}: unexpected columns {','.join(lines[header])}")
    preamble = [cell.strip() for cells in lines[:header] for cell in cells]
    contracts: list[ChainFileContract] = []
    for number, cells in enumerate(lines[header + 1 :], start=header + 2):
        if cells:
            contracts.extend(_csv_pair(number, cells))
    if not contracts:
        raise DataError("no contracts")
    return ChainFile(
        path=path,
        symbol=series_of(contracts[0].root).underlying,
        spot=_csv_spot(preamble),
        ts=_csv_instant(preamble),
        contracts=tuple(contracts),
    )


def _csv_pair(number: int, cells: Sequence[str]) -> Iterable[ChainFileContract]:
    """One line is a call and the put of the same strike and date."""
    if len(cells) != len(_CSV_HEADER):
        raise DataError(f"line {number}: {len(cells)} cells instead of {len(_CSV_HEADER)}")
    try:
        call = _csv_contract(cells[0], cells[11], CALL, cells[1:11])
        put = _csv_contract(cells[0], cells[11], PUT, cells[12:])
    except DataError as error:
        raise DataError(f"line {number}: {error}") from error
    return call, put


def _csv_contract(day: str, strike: str, kind: str, cells: Sequence[str]) -> ChainFileContract:
    ticker = _ticker(cells[0])
    try:
        expiration = datetime.strptime(day, "%a %b %d %Y").date().isoformat()
    except ValueError as error:
        raise DataError(f"not a date: {day!r}") from error
    _agree("expiration", expiration, ticker.expiration)
    _agree("side", kind, ticker.type)
    _agree_strike(strike, ticker)
    row = {name: _csv_number(cell, name) for name, cell in zip(_CSV_SIDE, cells[1:], strict=True)}
    return _contract(
        ticker,
        row,
        bid="Bid",
        ask="Ask",
        last="Last Sale",
        volume="Volume",
        iv="IV",
        delta="Delta",
        gamma="Gamma",
        oi="Open Interest",
    )


def _csv_number(cell: str, name: str) -> float | None:
    text = cell.replace(",", "").strip()
    if not text:
        return None
    try:
        return float(text)
    except ValueError as error:
        raise DataError(f"{name} is not a number: {cell!r}") from error


def _csv_spot(preamble: Sequence[str]) -> float:
    last = next((cell for cell in preamble if cell.startswith("Last:")), None)
    if last is None:
        raise DataError("no spot (`Last: x`) above the header line")
    return _positive(_csv_number(last.removeprefix("Last:"), "Last"), "Last")


def _csv_instant(preamble: Sequence[str]) -> float:
    stated = next((cell for cell in preamble if cell.startswith("Date:")), None)
    match = _CSV_DATE.match(stated or "")
    if match is None:
        raise DataError(f"no readable date above the header line: {stated!r}")
    day, clock, zone = match.groups()
    if zone not in _ZONES:
        raise DataError(f"unknown time zone in {stated!r} (EST, EDT or none)")
    try:
        moment = datetime.strptime(f"{day} {clock}", "%B %d, %Y %I:%M %p")
    except ValueError as error:
        raise DataError(f"not a date: {stated!r}") from error
    return moment.replace(tzinfo=_ZONES[zone]).timestamp()


def _rows(rows: Sequence[Any], read: Callable[[Mapping[str, Any]], ChainFileContract]) -> tuple[ChainFileContract, ...]:
    contracts = []
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise DataError(f"row {number} is not an object")
        try:
            contracts.append(read(row))
        except DataError as error:
            raise DataError(f"row {number}: {error}") from error
    return tuple(contracts)


def _contract(
    ticker: OptionTicker, row: Mapping[str, Any], *, last_ts: float | None = None, **columns: str
) -> ChainFileContract:
    """Take the named columns of a row; a field without a column stays unknown."""

    def number(name: str) -> float | None:
        return _number(row.get(columns[name]), columns[name]) if name in columns else None

    def count(name: str) -> int | None:
        value = number(name)
        return None if value is None else round(value)

    volatility = number("iv")
    return ChainFileContract(
        cid=ticker.cid,
        root=ticker.root,
        expiration=ticker.expiration,
        type=ticker.type,
        strike_milli=ticker.strike_milli,
        bid=number("bid"),
        ask=number("ask"),
        bid_size=count("bid_size"),
        ask_size=count("ask_size"),
        last=number("last") or None,
        last_size=None,
        last_ts=last_ts,
        volume=count("volume"),
        iv=None if volatility is None or volatility <= _NO_VOLATILITY else volatility,
        delta=number("delta"),
        gamma=number("gamma"),
        theta=number("theta"),
        vega=number("vega"),
        oi=count("oi"),
    )


def _check(chain: ChainFile) -> None:
    if not chain.contracts:
        raise DataError("no contracts")
    seen: set[str] = set()
    for contract in chain.contracts:
        if contract.cid in seen:
            raise DataError(f"{contract.cid} is listed twice")
        seen.add(contract.cid)
        underlying = series_of(contract.root).underlying
        if underlying != chain.symbol:
            raise DataError(f"{contract.cid} is an option on {underlying}, the file is about {chain.symbol}")


def _symbol(value: Any) -> str:
    name = value.lstrip("^_") if isinstance(value, str) else ""
    if not name:
        raise DataError(f"no underlying symbol: {value!r}")
    return name


def _ticker(value: Any) -> OptionTicker:
    return parse_ticker(f"O:{value.strip()}" if isinstance(value, str) else str(value))


def _agree(name: str, stated: Any, ticker_says: str) -> None:
    if stated != ticker_says:
        raise DataError(f"{name} {stated!r} disagrees with the ticker's {ticker_says!r}")


def _agree_strike(stated: Any, ticker: OptionTicker) -> None:
    try:
        milli = Decimal(str(stated)) * 1000
    except InvalidOperation as error:
        raise DataError(f"strike is not a number: {stated!r}") from error
    if milli != ticker.strike_milli:
        raise DataError(f"strike {stated!r} disagrees with {ticker.cid}")


def _number(value: Any, name: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise DataError(f"{name} is not a number: {value!r}")
    return float(value)


def _positive(value: Any, name: str) -> float:
    number = _number(value, name)
    if number is None or number <= 0:
        raise DataError(f"{name} is not a positive number: {value!r}")
    return number


def _instant(value: Any, name: str, zone: tzinfo) -> float:
    """Epoch seconds of an ISO time; `zone` applies when it states no offset."""
    try:
        moment = datetime.fromisoformat(value)
    except (TypeError, ValueError) as error:
        raise DataError(f"{name} is not a time: {value!r}") from error
    return (moment if moment.tzinfo else moment.replace(tzinfo=zone)).timestamp()
