"""The provider's official Python clients, unmodified, against the mock as its own process."""

from __future__ import annotations

import asyncio
import importlib
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

KEY = "test-key"
PATIENCE_S = 30.0
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """host:port of a mock with more than 600 contracts per symbol."""
    with running(tmp_path_factory.mktemp("mock")) as found:
        yield found


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A self-signed certificate of 127.0.0.1 and its key, for this run only."""
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    wanted = "-x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1"
    command = ["openssl", "req", *wanted.split(), "-out", str(certificate), "-keyout", str(key)]
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key


@contextmanager
def running(data: Path, *options: str) -> Iterator[str]:
    """host:port of a mock that runs as its own process."""
    command = [sys.executable, "-m", "ops.mock", "--port", "0", "--contracts", "700", "--key", KEY, *options]
    process = subprocess.Popen([*command, "--data", str(data)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        ready = re.search(r"https?://(\S+:\d+)", process.stdout.readline())
        assert ready is not None
        yield ready[1]
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(params=["massive", "polygon"])
def package(request: pytest.FixtureRequest) -> Any:
    return importlib.import_module(request.param)


def rest_client(package: Any, address: str, key: str = KEY) -> Any:
    return package.RESTClient(api_key=key, base=f"http://{address}")


def test_a_chain_of_more_than_600_rows_pages(package: Any, address: str) -> None:
    client = rest_client(package, address)
    requests: list[str] = []
    fetch = client._get

    def counted(*arguments: Any, **options: Any) -> Any:
        requests.append(options.get("path", arguments[0] if arguments else ""))
        return fetch(*arguments, **options)

    client._get = counted
    rows = list(client.list_snapshot_options_chain("I:SPX", params={"limit": 250}))
    assert len(rows) > 600
    assert len({row.details.ticker for row in rows}) == len(rows)
    assert len(requests) >= 3
    assert all(row.underlying_asset.value > 6000 for row in rows)
    assert [row for row in rows if row.greeks is not None and row.greeks.gamma]


def test_filters_and_single_objects(package: Any, address: str) -> None:
    client = rest_client(package, address)
    parameters = {"strike_price.gte": 6900, "contract_type": "put", "sort": "strike_price", "limit": 250}
    puts = list(client.list_snapshot_options_chain("I:SPX", params=parameters))
    strikes = [row.details.strike_price for row in puts]
    assert strikes == sorted(strikes)
    assert strikes[0] == 6900
    ticker = puts[0].details.ticker
    assert client.get_snapshot_option("I:SPX", ticker).details.ticker == ticker
    assert client.get_options_contract(ticker).underlying_ticker == "SPX"
    assert len(list(client.list_options_contracts("SPX", limit=1000))) > 600
    indices = list(client.get_snapshot_indices(["I:SPX", "I:NOPE"]))
    assert sorted(str(row.error) for row in indices) == ["NOT_FOUND", "None"]
    universal = list(client.list_universal_snapshots(ticker_any_of=["I:SPX", ticker]))
    assert {row.ticker for row in universal} == {"I:SPX", ticker}
    status = client.get_market_status()
    assert (status.market, status.exchanges.nyse) == ("open", "open")
    assert client.get_market_holidays()[0].status == "closed"


def test_a_bad_key_is_refused(package: Any, address: str) -> None:
    client = rest_client(package, address, key="wrong")
    with pytest.raises(package.exceptions.BadResponse, match="Unknown API Key"):
        client.get_market_status()


@pytest.mark.parametrize(("market", "kind"), [("options", "Q"), ("indices", "V")])
async def test_live_events_stream(package: Any, address: str, market: str, kind: str) -> None:
    rows = rest_client(package, address).list_snapshot_options_chain("I:SPX", params={"limit": 250})
    wanted = {row.details.ticker for row, _ in zip(rows, range(5), strict=False)}
    subscriptions = [f"Q.{ticker}" for ticker in wanted] if market == "options" else ["V.I:SPX"]
    client = package.WebSocketClient(
        api_key=KEY, feed=address, market=market, secure=False, subscriptions=subscriptions
    )
    received: list[Any] = []

    async def take(events: list[Any]) -> None:
        received.extend(events)
        if len(received) >= (50 if kind == "Q" else 2):
            await client.close()

    async with asyncio.timeout(PATIENCE_S):
        await client.connect(take, proxy=None)
    assert {event.event_type for event in received} == {kind}
    if kind == "Q":
        assert {event.symbol for event in received} <= wanted
        assert all(0 <= event.bid_price < event.ask_price for event in received)
        assert all(event.timestamp > 1_700_000_000_000 and event.sequence_number for event in received)
    else:
        assert {event.ticker for event in received} == {"I:SPX"}
        assert all(event.value > 6000 for event in received)


async def test_rest_and_feed_over_tls(tmp_path: Path, certificate: tuple[Path, Path]) -> None:
    package = importlib.import_module("massive")  # the other one knows no ca_certs
    trusted = str(certificate[0])
    with running(tmp_path, "--tls-certificate", trusted, "--tls-key", str(certificate[1])) as address:
        client = package.RESTClient(api_key=KEY, base=f"https://{address}", ca_certs=trusted)
        rows = list(client.list_snapshot_options_chain("I:SPX", params={"limit": 250}))
        assert len(rows) > 600
        feed = package.WebSocketClient(
            api_key=KEY,
            feed=address,
            market="options",
            secure=True,
            ca_certs=trusted,
            subscriptions=[f"Q.{row.details.ticker}" for row in rows[:5]],
        )
        received: list[Any] = []

        async def take(events: list[Any]) -> None:
            received.extend(events)
            await feed.close()

        async with asyncio.timeout(PATIENCE_S):
            await feed.connect(take, proxy=None)
        assert {event.event_type for event in received} == {"Q"}


async def test_every_topic_parses(package: Any, address: str) -> None:
    rows = list(rest_client(package, address).list_snapshot_options_chain("I:SPX", params={"limit": 250}))
    topics = {"T": "EquityTrade", "A": "EquityAgg", "FMV": "FairMarketValue"}
    client = package.WebSocketClient(
        api_key=KEY,
        feed=address,
        market="options",
        secure=False,
        subscriptions=[f"{topic}.{row.details.ticker}" for topic in topics for row in rows[:200]],
    )
    kinds: dict[str, str] = {}

    async def take(events: list[Any]) -> None:
        kinds.update({event.event_type: type(event).__name__ for event in events})
        if set(kinds) == set(topics):
            await client.close()

    async with asyncio.timeout(PATIENCE_S):
        await client.connect(take, proxy=None)
    assert kinds == topics
