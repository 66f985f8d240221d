"""What must come of each fault of the mock provider, and how what was seen is judged. Pure: seen values in, rows out.

`ops/bench/faults.py` runs the pipelines and watches them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from itertools import accumulate
from typing import TypeAlias

from ops.mock.scenario import DEFAULTS, Day, Fault, Start

CALM_S = 10.0  # between the latest end of one fault and the next

# --- what must come of each fault


@dataclass(frozen=True, slots=True)
class Case:
    """A fault and what must come of it.

    `signs`: all are seen, the first of them is its detection; `may`: seen or not. Signs are `log EVENT`, `health WORD`,
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
    within_s: float = 20.0
    may: tuple[str, ...] = ()
    of_chains: bool = False
    and_abort: bool = False
    market: Start | None = None
    from_start: bool = False

    @property
    def slot_s(self) -> float:
        """From its beginning to the next one's."""
        return self.lasts_s + self.within_s + CALM_S


Schedule: TypeAlias = "tuple[tuple[float, Case], ...]"  # faults of one pipeline, each so long after the mock's start


def schedules(cases: Sequence[Case], first_s: float) -> list[Schedule]:
    """What runs in which pipeline: faults of feeds, those of chains, each of a market; the first after `first_s`."""
    own = [case for case in cases if case.market is not None]
    shared = (
        [case for case in cases if case not in own and case.of_chains is of_chains] for of_chains in (False, True)
    )
    together = [
        tuple(zip(accumulate((case.slot_s for case in group), initial=first_s), group, strict=False))
        for group in shared
        if group
    ]
    return [*together, *(((0.0 if case.from_start else first_s, case),) for case in own)]


def scenario(schedule: Schedule) -> dict[str, object]:
    """The faults of a pipeline as a scenario file of the mock."""
    begins_s, first = schedule[0]
    if first.market is not None:
        clock = datetime.combine(date.min, first.market.clock) - timedelta(seconds=begins_s)
        return {"start": {"day": first.market.day, "clock": f"{clock:%H:%M:%S}"}, "delist_after": first.lasts_s}
    return {"steps": [step for at_s, case in schedule for step in _steps(at_s, case)]}


def _steps(at_s: float, case: Case) -> Iterator[dict[str, object]]:
    yield {"what": case.name, "at": at_s} | ({"for": case.lasts_s} if DEFAULTS[Fault(case.name)].for_s else {})
    if case.and_abort:
        yield {"what": str(Fault.ABORT), "at": at_s + 0.1}


LOST = ("log feed_lost", "gap options:0", "gap indices:0")
SILENT = ("dormancy",)  # no option event for 5 s: what a chain brings then is published as a new epoch
STALE = "health snapshot_age_s"
MISSING = "health missing_expirations"
FOUND_LATE = ("health provider_silent_s", "health feed_without_chain")

CASES = {
    case.name: case
    for case in (
        # a feed that was steady for 30 s begins its backoff anew: after what raised it nothing is closed for a while
        Case("reconnect", 15, LOST, 2, SILENT),
        Case("silence", 20, ("count promotions_dormancy",), epochs=SILENT),
        Case("stall", 0, LOST, 2, SILENT, 45),
        Case("abort", 0, LOST, 2),
        Case("close-1000", 0, LOST, 2),
        Case("evict-oldest", 30, ("log feed_told", "health cooling", *LOST), 2, SILENT, 60),
        Case("slow-consumer", 20, ("log feed_told", "log feed_lost", "gap options:0"), 1, SILENT),
        Case(
            "over-limit",
            30,
            ("log subscription_refused", "health unacknowledged", *LOST),
            2,
            SILENT,
            60,
            and_abort=True,
        ),
        Case(
            "unknown-topic",
            30,
            ("log subscription_incomplete", "health unacknowledged", *LOST),
            2,
            SILENT,
            60,
            and_abort=True,
        ),
        Case("auth-timeout", 30, ("log feed_told", *LOST), 2, SILENT, 40, and_abort=True),
        Case("late-and-duplicate", 30),
        Case("429", 45, ("count fault_throttled", STALE), within_s=75, may=FOUND_LATE, of_chains=True),
        Case("html-502", 45, ("count fault_not_json", STALE), may=FOUND_LATE, of_chains=True),
        Case("403-mid-page", 45, ("count fault_not_entitled", STALE), may=FOUND_LATE, of_chains=True),
        Case("cursor-loop", 45, ("count fault_page_loop",), may=(STALE, *FOUND_LATE, MISSING), of_chains=True),
        Case("partial-chain", 30, ("count failed_unavailable", MISSING), of_chains=True),
        Case("duplicate-rows", 30, ("count duplicate_rows",), of_chains=True),
        Case("missing-greeks", 30, ("count rows_without_greeks",), of_chains=True),
        Case("empty-underlying", 30, of_chains=True),
        Case("oi-flip", 30, of_chains=True),
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


@dataclass(frozen=True, slots=True)
class Event:
    """Something at a moment: `gap FEED` with its reason, `alert RULE`, `log EVENT`, `audit SYMBOL` with a finding."""

    ts: float
    sign: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Seen:
    """What was seen of a pipeline during a fault and just before it; times in epoch seconds."""

    begun_ts: float
    looks: Sequence[Look]
    events: Sequence[Event]  # since it began

    def signs(self) -> Iterator[tuple[float, str]]:
        """Everything since the fault began, as (moment, sign)."""
        before = self.counts_before()
        for look in self.looks:
            if look.ts >= self.begun_ts:
                yield from ((look.ts, f"health {word}") for word in look.words)
                yield from ((look.ts, f"count {name}") for name in look.counts if look.counts[name] > before[name])
                before = Counter(look.counts)
        yield from ((event.ts, event.sign) for event in self.events)

    def details(self, kind: str) -> list[str]:
        """What the events of a kind say."""
        return [event.detail for event in self.events if event.sign.startswith(f"{kind} ")]

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


def judge(case: Case, seen: Seen) -> Row:
    """The row of a fault."""
    found: dict[str, float] = {}
    for ts, sign in sorted(seen.signs()):
        found.setdefault(sign, ts - seen.begun_ts)
    counted, restored_ts = seen.counted(), seen.restored_ts(case)
    recovered_s = None if restored_ts is None else restored_ts - seen.begun_ts - case.lasts_s
    restarts = counted.pop("restarts", 0)
    epochs = {name.removeprefix("promotions_"): by for name, by in counted.items() if name.startswith("promotions_")}
    errors = {name: by for name, by in counted.items() if not name.startswith("promotions_")}
    problems = tuple(_problems(case, seen, found, recovered_s, epochs, restarts))
    detected = next(((found[sign], sign) for sign in case.signs[:1] if sign in found), None)
    audits = seen.details("audit")
    cells = (
        case.name,
        f"{case.lasts_s:g}" if case.lasts_s else "-",
        "-" if detected is None else f"{detected[0]:.1f} s ({detected[1]})",
        "never" if recovered_s is None else f"{recovered_s:.1f} s",
        _told(Counter(seen.details("gap"))),
        _told(epochs),
        ", ".join(_named(found, "health ")) or "ok",
        ", ".join(_named(found, "alert ")) or "-",
        _told(errors),
        f"{audits.count('')} of {len(audits)} clean",
        str(restarts),
        "; ".join(problems) or "yes",
    )
    return Row(cells, problems)


def _problems(
    case: Case,
    seen: Seen,
    found: Mapping[str, float],
    recovered_s: float | None,
    epochs: Mapping[str, int],
    restarts: int,
) -> Iterator[str]:
    before = [look for look in seen.looks if look.ts < seen.begun_ts]
    if not case.from_start and not (before and before[-1].is_well):
        yield "not well before it"
    yield from (f"no {sign}" for sign in case.signs if sign not in found)
    if recovered_s is None or recovered_s > case.within_s:
        yield f"not over within {case.within_s:g} s"
    if len(seen.details("gap")) != case.gaps:
        yield f"{case.gaps} gaps are expected"
    yield from (f"epochs for {reason}" for reason in epochs if reason not in case.epochs)
    told = {sign for sign in found if sign.startswith(("health ", "alert "))}
    yield from (f"unexpected: {sign}" for sign in sorted(told - {*case.signs, *case.may}))
    audits = seen.details("audit")
    yield from (finding for finding in audits if finding)
    if not audits:
        yield "never audited"
    if restarts:
        yield f"{restarts} processes ended and were started again"


def _named(found: Mapping[str, float], kind: str) -> list[str]:
    return [sign.removeprefix(kind) for sign in found if sign.startswith(kind)]


def _told(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items())) or "-"


def table(rows: Sequence[Row]) -> str:
    """The rows in Markdown."""
    lines = [HEADERS, ("---",) * len(HEADERS), *(row.cells for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
