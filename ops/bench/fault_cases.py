"""What must come of each fault of the mock provider, and how what was seen is judged. Pure: seen values in, rows out.

`ops/bench/faults.py` runs the pipelines and watches them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta

from ops.mock.scenario import DEFAULTS, Day, Fault, Start

CALM_S = 15.0  # without trouble for so long: it is over

# --- what must come of each fault


@dataclass(frozen=True, slots=True)
class Case:
    """A fault and what must come of it.

    `signs`: all are seen, the first one is its detection; `may`: seen or not. Signs are `log EVENT`, `health WORD`,
    `count NAME`, `gap FEED`, `alert RULE`. `gaps`: how many interruptions are recorded; `epochs`: why epochs may be
    promoted meanwhile; `within_s`: it is over so long after its end. A fault of chains is over with the first chain
    begun after its end. `and_abort`: connections end as it begins, since only new ones suffer from it. `market`: when
    it begins on the mock's calendar. `from_start`: the pipeline starts into it.
    """

    name: str
    lasts_s: float = 0.0
    signs: tuple[str, ...] = ()
    gaps: int = 0
    epochs: tuple[str, ...] = ()
    within_s: float = 30.0
    may: tuple[str, ...] = ()
    of_chains: bool = False
    and_abort: bool = False
    market: Start | None = None
    from_start: bool = False

    def scenario(self, begins_s: float) -> dict[str, object]:
        """As a scenario file of the mock, the fault so long after its start."""
        if self.market is not None:
            clock = datetime.combine(date.min, self.market.clock) - timedelta(seconds=begins_s)
            return {"start": {"day": self.market.day, "clock": f"{clock:%H:%M:%S}"}, "delist_after": self.lasts_s}
        step: dict[str, object] = {"what": self.name, "at": begins_s}
        step |= {"for": self.lasts_s} if DEFAULTS[Fault(self.name)].for_s else {}
        abort = [{"what": "abort", "at": begins_s + 0.1}] if self.and_abort else []
        return {"steps": [step, *abort]}


LOST = ("log feed_lost", "gap options:0", "gap indices:0")
SILENT = ("dormancy",)  # no option event for 5 s: what a chain brings then is published as a new epoch
STALE = "health snapshot_age_s"
FOUND_LATE = ("health provider_silent_s", "health feed_without_chain")

CASES = {
    case.name: case
    for case in (
        Case("silence", 20, ("count promotions_dormancy",), epochs=SILENT),
        Case("reconnect", 15, LOST, 2, SILENT),
        Case("stall", 0, LOST, 2, SILENT, 45),
        Case("abort", 0, LOST, 2),
        Case("close-1000", 0, LOST, 2),
        Case("evict-oldest", 30, ("log feed_told", "health cooling", *LOST), 2, SILENT, 75),
        Case("slow-consumer", 20, ("log feed_told", "log feed_lost", "gap options:0"), 1, SILENT),
        Case("over-limit", 60, ("count refusals", "health unacknowledged", *LOST), 2, SILENT, 75, and_abort=True),
        Case("unknown-topic", 60, ("health unacknowledged", *LOST), 2, SILENT, 75, and_abort=True),
        Case("auth-timeout", 30, ("log feed_told", *LOST), 2, SILENT, 45, and_abort=True),
        Case("late-and-duplicate", 45),
        Case("429", 45, ("count fault_throttled", STALE), within_s=75, may=FOUND_LATE, of_chains=True),
        Case("html-502", 45, ("count fault_not_json", STALE), may=FOUND_LATE, of_chains=True),
        Case("403-mid-page", 45, ("count fault_not_entitled", STALE), may=FOUND_LATE, of_chains=True),
        Case("cursor-loop", 45, ("count fault_page_loop", STALE), may=FOUND_LATE, of_chains=True),
        Case("partial-chain", 45, ("count failed_unavailable", "health missing_expirations"), of_chains=True),
        Case("duplicate-rows", 45, ("count duplicate_rows",), of_chains=True),
        Case("missing-greeks", 45, ("count rows_without_greeks",), of_chains=True),
        Case("empty-underlying", 45, of_chains=True),
        Case("oi-flip", 45, of_chains=True),
        Case(
            "frozen-am",
            120,
            ("count excluded",),
            2,
            ("bootstrap",),
            may=("health no_epoch",),
            market=Start(Day.THIRD_FRIDAY, time(11)),
            from_start=True,
        ),
        Case(
            "expire-at-close",
            60,
            ("count promotions_geometry",),
            epochs=("geometry", *SILENT),
            within_s=60,
            market=Start(Day.ORDINARY, time(16)),
        ),
    )
}


# --- what was seen, judged


@dataclass(frozen=True, slots=True)
class Look:
    """The pipeline at a moment: health's words, counters, since when the oldest of the newest chains is."""

    ts: float
    words: frozenset[str]
    is_well: bool  # healthy, and option events and diffs flow while the market is open
    chain_ts: float
    counts: Mapping[str, int]


@dataclass
class Seen:
    """All that was seen of a pipeline; times in epoch seconds."""

    begun_ts: float
    looks: list[Look] = field(default_factory=list)
    events: list[tuple[float, str]] = field(default_factory=list)  # gaps, alerts, warnings: when, and as a sign
    reasons: Counter[str] = field(default_factory=Counter)  # of gaps
    audits: int = 0
    problems: list[str] = field(default_factory=list)  # what audits found, or what ended a process

    def signs(self) -> Iterator[tuple[float, str]]:
        """Everything since the fault began, as (moment, sign)."""
        before = self.counts_before()
        for look in self.looks:
            if look.ts >= self.begun_ts:
                yield from ((look.ts, f"health {word}") for word in look.words)
                yield from ((look.ts, f"count {name}") for name in look.counts if look.counts[name] > before[name])
                before = Counter(look.counts)
        yield from ((ts, sign) for ts, sign in self.events if ts >= self.begun_ts)

    def counts_before(self) -> Counter[str]:
        """The counters as the fault began."""
        return next((Counter(look.counts) for look in reversed(self.looks) if look.ts < self.begun_ts), Counter())

    def counted(self) -> Counter[str]:
        """What was counted since."""
        return Counter(self.looks[-1].counts) - self.counts_before()

    def restored_ts(self, case: Case) -> float | None:
        """When all was well again for good; None: it is not."""
        ended_ts = self.begun_ts + case.lasts_s
        troubles = [look.ts for look in self.looks if not look.is_well]
        troubles += [ts for ts, sign in self.signs() if sign in case.signs]
        fresh = next((look.ts for look in self.looks if look.chain_ts > ended_ts), None) if case.of_chains else ended_ts
        if fresh is None or not self.looks or not self.looks[-1].is_well:
            return None
        return max([ended_ts, fresh, *troubles])


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table; `problems`: why it is of another kind than it must be."""

    cells: tuple[str, ...]
    problems: tuple[str, ...]


HEADERS = (
    "fault", "for s", "detected after", "recovered after", "gaps recorded", "epochs", "health", "alerts",
    "provider errors and repairs", "audits", "restarts", "as it must be",
)  # fmt: skip


def judge(case: Case, seen: Seen, restarts: int) -> Row:
    """The row of a fault."""
    found: dict[str, float] = {}
    for ts, sign in sorted(seen.signs()):
        found.setdefault(sign, ts - seen.begun_ts)
    counted, restored_ts = seen.counted(), seen.restored_ts(case)
    recovered_s = None if restored_ts is None else restored_ts - seen.begun_ts - case.lasts_s
    epochs = {name.removeprefix("promotions_"): by for name, by in counted.items() if name.startswith("promotions_")}
    errors = {name: by for name, by in counted.items() if not name.startswith("promotions_")}
    words, alerts = _named(found, "health "), _named(found, "alert ")
    problems = list(_problems(case, seen, found, recovered_s, epochs))
    problems += [f"{restarts} processes ended and were started again"] * bool(restarts)
    first = min((found[sign], sign) for sign in case.signs) if set(case.signs) <= found.keys() and case.signs else None
    cells = (
        case.name,
        f"{case.lasts_s:g}" if case.lasts_s else "-",
        "-" if first is None else f"{first[0]:.1f} s ({first[1]})",
        "never" if recovered_s is None else f"{recovered_s:.1f} s",
        _told(seen.reasons),
        _told(epochs),
        ", ".join(words) or "ok",
        ", ".join(alerts) or "-",
        _told(errors),
        f"{seen.audits} clean" if seen.audits and not seen.problems else "; ".join(seen.problems) or "none",
        str(restarts),
        "; ".join(problems) or "yes",
    )
    return Row(cells, tuple(problems))


def _problems(
    case: Case, seen: Seen, found: Mapping[str, float], recovered_s: float | None, epochs: Mapping[str, int]
) -> Iterator[str]:
    before = [look for look in seen.looks if look.ts < seen.begun_ts]
    if not case.from_start and not (before and before[-1].is_well):
        yield "not live before it"
    yield from (f"no {sign}" for sign in case.signs if sign not in found)
    if recovered_s is None or recovered_s > case.within_s:
        yield f"not over within {case.within_s:g} s"
    if sum(seen.reasons.values()) != case.gaps:
        yield f"{case.gaps} gaps are expected"
    yield from (f"epochs for {reason}" for reason in epochs if reason not in case.epochs)
    told = {f"{kind} {name}" for kind in ("health", "alert") for name in _named(found, f"{kind} ")}
    yield from (f"unexpected: {sign}" for sign in sorted(told - {*case.signs, *case.may}))
    yield from seen.problems
    if not seen.audits:
        yield "never audited"


def _named(found: Mapping[str, float], kind: str) -> list[str]:
    return [sign.removeprefix(kind) for sign in found if sign.startswith(kind)]


def _told(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items())) or "-"


def table(rows: Sequence[Row]) -> str:
    """The rows in Markdown."""
    lines = [HEADERS, ("---",) * len(HEADERS), *(row.cells for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
