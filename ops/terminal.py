"""How a status looks on a terminal, and in one line of a log."""

from __future__ import annotations

from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

Json = dict[str, Any]

_UNBOUNDED = 10_000
_COLOURS = {"ok": "green", "degraded": "yellow", "down": "red"}


def status_view(status: Json, updates_per_s: float | None = None) -> RenderableType:
    """Tables of symbols, feeds and groups, and the health."""
    tables = (_symbols(status["symbols"]), _feeds(status["feeds"]), _groups(status["groups"]))
    return Group(*tables, _footer(status, updates_per_s))


def print_status(status: Json) -> None:
    """Print the view as wide as it is: a longer line breaks on a narrow terminal, but nothing is cut off."""
    view = status_view(status)
    needed = Console(width=_UNBOUNDED).measure(view).maximum
    Console(width=max(Console().width, needed)).print(view)


def status_line(status: Json, updates_per_s: float | None = None) -> str:
    """The same in one line."""
    symbols = "; ".join(
        f"{name} {row['epoch'] or 'no epoch'} age {_age(row['epoch_age_s'])}, {_number(row['contracts'])} contracts, "
        f"{'dirty' if row['dirty'] else 'clean'}, last diff {_age(row['last_diff_age_s'])}"
        for name, row in status["symbols"].items()
    )
    live = sum(row["state"] == "live" for row in status["feeds"].values())
    feeds = f"{live} of {len(status['feeds'])} feeds live"
    lags = " ".join(f"{name} {_number(_lag(row))}" for name, row in status["groups"].items())
    return f"{symbols}; {feeds}; {_number(updates_per_s)} updates/s; lag {lags}; health {_health(status)}"


def _symbols(symbols: Json) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))  # a line of 80 characters must do
    for name in ("symbol", "epoch"):
        table.add_column(name, no_wrap=True)
    for name in ("age s", "contracts", "tiles", "chain s", "feed s", "diff s"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("state", no_wrap=True)
    for symbol, row in symbols.items():
        table.add_row(
            symbol,
            row["epoch"] or "-",
            _seconds(row["epoch_age_s"]),
            _number(row["contracts"]),
            _number(row["tiles"]),
            _seconds(row["snapshot_age_s"]),
            _seconds(row["ws_age_s"]),
            _seconds(row["last_diff_age_s"]),
            "-" if row["dirty"] is None else "dirty" if row["dirty"] else "clean",
        )
    return table


def _feeds(feeds: Json) -> Table:
    """`socket` and `chain`: contracts whose values come from each."""
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for name in ("feed", "state"):
        table.add_column(name, no_wrap=True)
    for name in ("socket", "chain", "lag s", "gaps"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("owner", no_wrap=True)
    for name, row in feeds.items():
        table.add_row(
            name,
            _feed_state(row),
            _number(row["contracts"]),
            _number(row["from_chain"]),
            _seconds(None if row["lag_s"] is None else max(0.0, row["lag_s"])),  # clocks differ by milliseconds
            _number(row["gaps"]),
            (row["owner"] or "-").removeprefix("massive-"),
        )
    return table


def _feed_state(row: Json) -> str:
    marks = [mark for mark in ("delayed", "late", "conflating") if row[mark]]
    return ", ".join(marks if marks and row["state"] == "live" else [row["state"] or "-", *marks])


def _groups(groups: Json) -> Table:
    table = Table("group", box=None, pad_edge=False)
    for name in ("lag", "pending", "consumers", "commits"):
        table.add_column(name, justify="right")
    for group, row in groups.items():
        consumers = row["consumers"]
        commits = None if consumers is None else sum(one["commits"] or 0 for one in consumers)
        count = None if consumers is None else len(consumers)
        table.add_row(group, *(_number(value) for value in (row["lag"], row["pending"], count, commits)))
    return table


def _footer(status: Json, updates_per_s: float | None) -> Text:
    health = status["health"]
    text = Text("health ")
    colour = _COLOURS.get(health["status"] if health else "", "dim")
    text.append(health["status"] if health else "unknown", style=colour)
    if updates_per_s is not None:
        text.append(f"   {_number(updates_per_s)} updates/s")
    text.append(f"   {status['redis_url']}", style="dim")
    for reason in health["reasons"] if health else ():
        text.append(f"\n  {reason}", style=colour)
    for one in status["foreign_groups"]:
        text.append(f"\n  group {one['group']} reads {one['stream']}, which is trimmed without regard to it")
    return text


def _health(status: Json) -> str:
    health = status["health"]
    if health is None:
        return "unknown"
    reasons = ", ".join(health["reasons"])
    return f"{health['status']} ({reasons})" if reasons else str(health["status"])


def _lag(group: Json) -> int | None:
    return None if group["lag"] is None else group["lag"] + group["pending"]


def _age(seconds: float | None) -> str:
    return "-" if seconds is None else f"{_seconds(seconds)} s"


def _seconds(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{seconds:.1f}" if seconds < 100 else f"{seconds:,.0f}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"
