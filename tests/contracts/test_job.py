"""The fetch job: one ticket at a time, and why the next is due."""

from __future__ import annotations

import pytest

from contracts.job import LOST_AFTER_S, Job, decode_job

NOW = 1_768_500_000.0


@pytest.mark.parametrize(
    ("job", "reason"),
    [
        (Job(), "interval"),
        (Job(not_before_ts=NOW), "interval"),
        (Job(not_before_ts=NOW + 0.1), ""),
        (Job(not_before_ts=NOW + 60, again="expired"), "expired"),
        (Job(ticket=3, issued_ts=NOW - 5), ""),
        (Job(ticket=3, issued_ts=NOW - 5, again="expired"), ""),
        (Job(ticket=3, issued_ts=NOW - LOST_AFTER_S), ""),
        (Job(ticket=3, issued_ts=NOW - LOST_AFTER_S - 1), "lost"),
        (Job(ticket=3, issued_ts=NOW - 500, progress_ts=NOW - 5), ""),
        (Job(ticket=3, issued_ts=NOW - 500, progress_ts=NOW - LOST_AFTER_S - 1), "lost"),
    ],
    ids=[
        "at the start", "when the pause is over", "not before", "earlier, if somebody asks", "not while one is out",
        "not even if somebody asks", "not at the limit", "when the one out is lost", "not while it makes progress",
        "when its progress ended",
    ],
)  # fmt: skip
def test_when_a_fetch_is_due(job: Job, reason: str) -> None:
    assert job.due(NOW) == reason


def test_an_absent_job_is_at_its_start() -> None:
    assert decode_job({}) == Job()


def test_a_job_is_read_from_its_hash() -> None:
    fields = {
        b"ticket": b"3", b"last_ticket": b"4", b"issued_ts": b"1.5", b"progress_ts": b"2.5", b"not_before_ts": b"3.5",
        b"again": b"expired", b"fetch": b"7", b"windows": b"{}",
    }  # fmt: skip
    assert decode_job(fields) == Job(3, 4, 1.5, 2.5, 3.5, "expired", 7)


def test_empty_fields_are_at_their_start_too() -> None:
    assert decode_job({b"ticket": b"", b"again": b""}) == Job()
