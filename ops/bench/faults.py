"""What the whole pipeline does about every fault the mock provider knows: a row of a table for each.

    python -m ops.bench.faults                               # all of them: a quarter of an hour
    python -m ops.bench.faults stall evict-oldest --out faults.md

Pipelines are started as `marketswarm up`, two at a time, each in a data folder of its own: one for the faults of feeds,
one after the other, one for those of chains, one for each that needs a day of its own. They are watched as a user can
(status, health, counters, gap and alert events, logs) and audited all the while. What must come of each fault says
`ops/bench/fault_cases.py`; exits 1 if a row is of another kind.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import redis

from consumers.embedded import find_url, free_port
from contracts.clock import decode_clock
from contracts.keys import Keys, Stat
from contracts.settings import Settings, load_settings
from ops.audit import Audit
from ops.bench.fault_cases import CASES, Event, Look, Row, Schedule, Seen, judge, scenario, schedules, table
from ops.status import read_status
from ops.supervision import SupervisorFiles
from ops.wiring import keys_of

LOOK_S = 0.5
SAID_AFTER_S = 0.2  # at most: by then the mock's faults have their time, and its line is written
AUDIT_EVERY_S = 15.0
FLOWING_S = 3.0  # option events and diffs no older than this
START_S = 300.0
AUDITED_S = 15.0
COUNTED = (
    "fault_",
    "failed_",
    "promotions_",
    "rows_without_greeks",
    "duplicate_rows",
    "refusals",
    "dropped",
    "excluded",
)
ALERTS = "[[rule]]\nname='stale'\nwhen='stale'\nseconds=15\n[[rule]]\nname='storm'\nwhen='promotion_storm'\n"


# --- watching a pipeline


class Watch:
    """Looks at a pipeline that is up in a data folder; `said` is what `up` prints."""

    def __init__(self, files: SupervisorFiles, settings: Settings, said: Path) -> None:
        self._files = files
        self._settings = settings
        self._said = said
        self._keys: Keys = keys_of(settings)
        self._url = find_url(None, files.data)
        self._client: Any = redis.Redis.from_url(self._url)
        self._looks: list[Look] = []
        self._audits: list[Event] = []

    def look(self) -> None:
        """Once: status, health's words, counters."""
        status, now = read_status(self._url, self._settings), time.time()
        symbols = self._settings.massive_symbols
        told = [json.loads(body) for body in self._client.mget([self._keys.health(one) for one in symbols]) if body]
        words = frozenset(word for body in told for word in body["signals"])
        is_open = decode_clock(self._client.get(self._keys.clock(symbols[0]))).is_open
        ages = ("ws_age_s", "last_diff_age_s") if is_open else ()
        rows = status["symbols"].values()
        flows = all(row[age] is not None and row[age] < FLOWING_S for row in rows for age in ages)
        chains = [row["snapshot_age_s"] for row in rows]
        is_well = flows and None not in chains and (status["health"] or {}).get("status") == "ok"
        chain_ts = 0.0 if None in chains else now - max(chains)
        epochs = [row["epoch"] for row in rows if row["epoch"]]
        self._looks.append(Look(now, words, is_well, chain_ts, self._counts(epochs)))

    def _counts(self, epochs: Sequence[str]) -> dict[str, int]:
        counts: Counter[str] = Counter()
        for stat in (Stat.CHAIN, Stat.WS, Stat.EPOCH):
            for name, value in self._client.hgetall(
                self._keys.analytics(stat, self._settings.massive_symbols[0])
            ).items():
                if name.decode().startswith(COUNTED) and ":" not in name.decode():
                    counts[name.decode()] += int(value)
        counts["rows_without_greeks"] -= counts["rows_without_greeks"] % 100  # a healthy chain has a few
        for epoch in epochs:
            counts["excluded"] += int(self._client.hget(self._keys.meta(epoch), "excluded_count") or 0)
        counts["restarts"] = self._said.read_text().count("ended and was started again")
        return {name: count for name, count in counts.items() if count}

    def seen(self, begun_ts: float, until_ts: float) -> Seen:
        """What was seen between two moments, with the look before the first."""
        before = [look for look in self._looks if look.ts < begun_ts][-1:]
        looks = [look for look in self._looks if begun_ts <= look.ts < until_ts]
        return Seen(begun_ts, before + looks, [event for event in self._events() if begun_ts <= event.ts < until_ts])

    def _events(self) -> Iterator[Event]:
        yield from list(self._audits)
        for symbol in self._settings.massive_symbols:
            for entry_id, fields in self._client.xrange(self._keys.alert_stream(symbol)):
                alert = json.loads(fields[b"data"])
                yield Event(int(entry_id.split(b"-")[0]) / 1000, f"alert {alert['when']}")
        for _, gap in self._client.xrange(self._keys.gaps_stream(self._settings.massive_symbols[0])):
            feed, reason = gap[b"feed"].decode(), gap[b"reason"].decode().partition(": ")[0]
            yield Event(float(gap[b"ts"]), f"gap {feed}", f"{feed} ({reason})")
        for log in self._files.logs.glob("*.stderr.log"):
            yield from warnings_of(log.read_text(errors="replace"))

    @contextmanager
    def auditing(self) -> Iterator[None]:
        """While the body runs, audit all symbols again and again, once they are live."""
        over = threading.Event()

        def audit() -> None:
            while not over.wait(AUDIT_EVERY_S):
                if any(look.is_well for look in self._looks):
                    self._audit()

        auditor = threading.Thread(target=audit)
        auditor.start()
        try:
            yield
        finally:
            over.set()
            auditor.join()

    def _audit(self) -> None:
        for symbol in self._settings.massive_symbols:
            begun_ts = time.time()
            findings = Audit(self._client, self._keys, symbol, self._settings, AUDITED_S).run()
            found = "; ".join(findings.problems + findings.unsettled)
            self._audits.append(Event(begun_ts, f"audit {symbol}", f"audit {symbol}: {found}" if found else ""))


def warnings_of(text: str) -> Iterator[Event]:
    """The warnings and worse among the lines of a log."""
    for line in text.splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict) and event.get("level") in ("warning", "error", "critical"):
            yield Event(datetime.fromisoformat(event["timestamp"]).timestamp(), f"log {event['event']}")


# --- running a pipeline


def run_schedule(schedule: Schedule, rate: float, contracts: int) -> list[Row]:
    """Start a pipeline, watch it through its faults, stop it; the data stays if something went wrong."""
    folder = Path(tempfile.mkdtemp(prefix="marketswarm-faults-"))
    files, said = SupervisorFiles(folder / "data"), folder / "up.log"
    given, rules = folder / "scenario.json", folder / "alerts.toml"
    given.write_text(json.dumps(scenario(schedule)))
    rules.write_text(ALERTS)
    ours = ("MASSIVE_", "MARKETSWARM_", "REDIS_URL")
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(ours)},
        "MARKETSWARM_DATA": str(files.data),
        "MARKETSWARM_PORT": str(free_port()),
        "MARKETSWARM_ALERTS": str(rules),
    }
    options = ["--scenario", str(given), "--rate", f"{rate:g}", "--contracts", str(contracts)]
    with _up(options, environment, said):
        start_ts = _mock_ready_ts(files.log("mock", "stdout"), said)
        watch = Watch(files, load_settings(environment), said)
        ends_ts = [start_ts + at_s + case.slot_s for at_s, case in schedule]
        with watch.auditing():
            while time.time() < ends_ts[-1]:
                watch.look()
                time.sleep(LOOK_S)
        watched = [watch.seen(start_ts + at_s, end_ts) for (at_s, _), end_ts in zip(schedule, ends_ts, strict=True)]
    rows = [judge(case, seen) for (_, case), seen in zip(schedule, watched, strict=True)]
    for row in rows:
        print(" | ".join(row.cells), flush=True)
    if any(row.problems for row in rows):
        print(f"the data of a pipeline that went wrong is in {folder}", flush=True)
    else:
        shutil.rmtree(folder)
    return rows


@contextmanager
def _up(options: Sequence[str], environment: Mapping[str, str], log: Path) -> Iterator[None]:
    with log.open("wb") as target:
        command = [sys.executable, "-P", "-m", "ops.cli", "up", *options]
        process = subprocess.Popen(command, env=dict(environment), stdout=target, stderr=target)
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def _mock_ready_ts(mock_log: Path, up_log: Path) -> float:
    """When the time of the mock's faults began; returns once the stages start. TimeoutError tells what `up` said."""
    deadline = time.monotonic() + START_S
    while "\nstages " not in (said := up_log.read_text()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {START_S:g} s for the stages: {said}")
        time.sleep(0.1)
    return mock_log.stat().st_mtime - SAID_AFTER_S


def main() -> None:
    """Run the cases, print the table, exit 1 if one is not as it must be."""
    parser = argparse.ArgumentParser(description="What the pipeline does about every fault of the mock provider.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"faults, all by default: {', '.join(CASES)}")
    parser.add_argument("--out", type=Path, help="also write the table to this file")
    parser.add_argument("--at-once", type=int, default=2, help="pipelines at the same time")
    parser.add_argument("--first", type=float, default=90, help="seconds until the first fault: by then all is live")
    parser.add_argument("--rate", type=float, default=200, help="quote events a second")
    parser.add_argument("--contracts", type=int, default=400, help="per symbol, about")
    given = parser.parse_args()
    if unknown := set(given.names) - CASES.keys():
        parser.error(f"no fault {', '.join(sorted(unknown))}; there are {', '.join(CASES)}")
    plan = schedules([CASES[name] for name in given.names or CASES], given.first)
    with ThreadPoolExecutor(given.at_once) as pool:
        rows = [
            row for done in pool.map(lambda one: run_schedule(one, given.rate, given.contracts), plan) for row in done
        ]
    print("\n" + table(rows))
    if given.out is not None:
        given.out.write_text(table(rows))
    sys.exit(any(row.problems for row in rows))


if __name__ == "__main__":
    main()
