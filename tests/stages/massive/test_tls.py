"""A provider whose certificate nobody trusts: said in one line, counted, waited for; the key is never sent."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from contracts.errors import TransientError
from ops.mock.provider import MockOptions
from ops.mock.server import RunningMock, serving
from stages.massive.feed import Feed, FeedTimings
from stages.massive.outbox import Outbox
from stages.massive.rest import ProviderClient, open_session
from tests.stages.massive.test_feed import Frames
from tests.waiting import wait_until_async


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A certificate that signed itself; its key lies beside it."""
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    wanted = "-x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=127.0.0.1"
    command = ["openssl", "req", *wanted.split(), "-out", str(certificate), "-keyout", str(key)]
    subprocess.run(command, check=True, capture_output=True)
    return certificate


@asynccontextmanager
async def untrusted(certificate: Path) -> AsyncIterator[RunningMock]:
    """A provider that shows this certificate."""
    folder = certificate.parent
    async with serving(
        MockOptions(port=0, contracts=50, data=folder, tls_certificate=certificate, tls_key=folder / "key.pem")
    ) as mock:
        yield mock


async def test_rest_says_that_tls_failed(certificate: Path) -> None:
    async with untrusted(certificate) as mock, open_session() as session:
        client = ProviderClient(mock.rest_url, "s3cret-key", session)
        with pytest.raises(TransientError, match=r"TLS failed .*certificate.*; check MASSIVE_REST_URL") as caught:
            await client.clock()
    assert client.activity.counts() == {"requests": 1, "fault_tls": 1}
    assert "\n" not in str(caught.value) and "s3cret-key" not in str(caught.value)


async def test_a_feed_says_so_and_goes_on_trying(certificate: Path) -> None:
    async def wanted() -> Sequence[str]:
        return ()

    async def gap(reason: str, seconds: float) -> None:
        return None

    async with untrusted(certificate) as mock, open_session() as session:
        outbox, timings = Outbox(Frames(), "massive:ws:stream"), FeedTimings(backoff=0.01)
        feed = Feed("options", mock.ws_url, "s3cret-key", session, outbox, wanted, gap, timings=timings)
        with capture_logs() as logs:
            task = asyncio.create_task(feed.run(asyncio.Event()))
            await wait_until_async(lambda: len([line for line in logs if line["event"] == "feed_lost"]) > 2, "tries")
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
    reasons = {line["reason"] for line in logs if line["event"] == "feed_lost"}
    assert all("cannot be reached" in reason and "certificate" in reason for reason in reasons)
