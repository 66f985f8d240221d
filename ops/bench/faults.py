"""What the whole pipeline does about every fault the mock provider knows: one fault, one pipeline, one row of a table.

    python -m ops.bench.faults                               # all of them, two pipelines at a time: about half an hour
    python -m ops.bench.faults stall evict-oldest --out faults.md

Each row starts `marketswarm up` with a scenario of its own in a data folder of its own, watches it as a user can
(status, health, counters, gap and alert events, logs), audits it all the while, and is compared with what
`ops/bench/fault_cases.py` says must come of the fault. Exits 1 if a row is of another kind.
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
from functools import partial
from pathlib import Path
from typing import Any

import redis

from consumers.embedded import find_url, free_port
from contracts.clock import decode_clock
from contracts.keys import Keys, Stat
from contracts.settings import Settings, load_settings
from ops.audit import Audit
from ops.bench.fault_cases import CALM_S, CASES, Case, Look, Row, Seen, judge, table
from ops.status import read_status
from ops.supervision import SupervisorFiles
from ops.wiring import keys_of

LOOK_S = 0.5
AUDIT_EVERY_S = 15.0
FLOWING_S = 3.0  # option events and diffs no older than this
START_S = 90.0
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
ALERTS = "[[rule]]\nname='stale'\nwhen='stale'\nseconds=5\n[[rule]]\nname='storm'\nwhen='promotion_storm'\n"


# --- watching a pipeline


class Watch:
    """Looks at a pipeline that is up in a data folder."""

    def __init__(self, files: SupervisorFiles, settings: Settings, begun_ts: float) -> None:
        self.seen = Seen(begun_ts)
        self._files = files
        self._settings = settings
        self._keys: Keys = keys_of(settings)
        self._url = find_url(None, files.data)
        self._client: Any = redis.Redis.from_url(self._url)

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
        self.seen.looks.append(Look(now, words, is_well, chain_ts, self._counts(epochs)))

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
        return {name: count for name, count in counts.items() if count}

    def read_events(self) -> None:
        """Everything the streams and the logs tell since the fault began."""
        seen, symbol = self.seen, self._settings.massive_symbols[0]
        gaps = [fields for _, fields in self._client.xrange(self._keys.gaps_stream(symbol))]
        told = [(float(gap[b"ts"]), gap[b"feed"].decode(), gap[b"reason"].decode()) for gap in gaps]
        seen.events = [(ts, f"gap {feed}") for ts, feed, _ in told]
        seen.reasons = Counter(f"{feed} ({reason})" for ts, feed, reason in told if ts >= seen.begun_ts)
        for one in self._settings.massive_symbols:
            for entry_id, fields in self._client.xrange(self._keys.alert_stream(one)):
                seen.events.append(
                    (int(entry_id.split(b"-")[0]) / 1000, f"alert {json.loads(fields[b'data'])['when']}")
                )
        for log in self._files.logs.glob("*.stderr.log"):
            seen.events += warnings_of(log.read_text(errors="replace"))

    def audit_until(self, over: threading.Event) -> None:
        """Audit all symbols again and again, and once more at the end."""
        while True:
            is_last = over.wait(AUDIT_EVERY_S)
            for symbol in self._settings.massive_symbols:
                findings = Audit(self._client, self._keys, symbol, self._settings, AUDITED_S).run()
                self.seen.audits += 1
                self.seen.problems += [f"audit {symbol}: {one}" for one in findings.problems + findings.unsettled]
            if is_last:
                return


def warnings_of(text: str) -> list[tuple[float, str]]:
    """The warnings and worse among the lines of a log, as (moment, sign)."""
    found = []
    for line in text.splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict) and event.get("level") in ("warning", "error", "critical"):
            found.append((datetime.fromisoformat(event["timestamp"]).timestamp(), f"log {event['event']}"))
    return found


# --- running a pipeline


def run_case(case: Case, begins_s: float, rate: float, contracts: int) -> Row:
    """Start the pipeline, watch it through the fault until all is well again, stop it; data stays if it went wrong."""
    folder = Path(tempfile.mkdtemp(prefix=f"marketswarm-{case.name}-"))
    files, said = SupervisorFiles(folder / "data"), folder / "up.log"
    scenario, rules = folder / "scenario.json", folder / "alerts.toml"
    scenario.write_text(json.dumps(case.scenario(begins_s)))
    rules.write_text(ALERTS)
    given = {name: value for name, value in os.environ.items() if not name.startswith(("MASSIVE_", "MARKETSWARM_"))}
    environment = {
        **{name: value for name, value in given.items() if name != "REDIS_URL"},
        "MARKETSWARM_DATA": str(files.data),
        "MARKETSWARM_PORT": str(free_port()),
        "MARKETSWARM_ALERTS": str(rules),
    }
    options = ["--scenario", str(scenario), "--rate", f"{rate:g}", "--contracts", str(contracts)]
    with _up(options, environment, said):
        begun_ts = _mock_ready_ts(files.log("mock", "stdout"), said) + begins_s
        watch = Watch(files, load_settings(environment), begun_ts)
        _watch_through(case, watch)
    row = judge(case, watch.seen, said.read_text().count("ended and was started again"))
    if row.problems:
        print(f"{case.name}: what it left behind is in {folder}", flush=True)
    else:
        shutil.rmtree(folder)
    return row


def _watch_through(case: Case, watch: Watch) -> None:
    seen, over = watch.seen, threading.Event()
    auditor = threading.Thread(target=partial(watch.audit_until, over))
    ended_ts = seen.begun_ts + case.lasts_s
    while time.time() < ended_ts + case.within_s + CALM_S:
        watch.look()
        if auditor.ident is None and seen.looks[-1].is_well:
            auditor.start()
        watch.read_events()
        restored_ts = seen.restored_ts(case)
        if restored_ts is not None and time.time() > restored_ts + CALM_S:
            break
        time.sleep(LOOK_S)
    over.set()
    if auditor.ident is not None:
        auditor.join()


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
    """When the mock provider said its one line; returns once the stages start. TimeoutError tells what `up` said."""
    deadline = time.monotonic() + START_S
    while "\nstages " not in (said := up_log.read_text()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {START_S:g} s for the stages: {said}")
        time.sleep(0.1)
    return mock_log.stat().st_mtime


def main() -> None:
    """Run the cases, print the table, exit 1 if one is not as it must be."""
    parser = argparse.ArgumentParser(description="What the pipeline does about every fault of the mock provider.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"faults, all by default: {', '.join(CASES)}")
    parser.add_argument("--out", type=Path, help="also write the table to this file")
    parser.add_argument("--at-once", type=int, default=2, help="pipelines at the same time")
    parser.add_argument("--begins", type=float, default=60, help="seconds until the fault: by then all is live")
    parser.add_argument("--rate", type=float, default=250, help="quote events a second")
    parser.add_argument("--contracts", type=int, default=400, help="per symbol, about")
    given = parser.parse_args()
    if unknown := set(given.names) - CASES.keys():
        parser.error(f"no fault {', '.join(sorted(unknown))}; there are {', '.join(CASES)}")

    def run(name: str) -> Row:
        case = CASES[name]
        row = run_case(case, 0 if case.from_start else given.begins, given.rate, given.contracts)
        print(" | ".join(row.cells), flush=True)
        return row

    with ThreadPoolExecutor(given.at_once) as pool:
        rows = list(pool.map(run, given.names or CASES))
    print("\n" + table(rows))
    if given.out is not None:
        given.out.write_text(table(rows))
    sys.exit(any(row.problems for row in rows))


if __name__ == "__main__":
    main()
