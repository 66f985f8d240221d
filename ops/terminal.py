"""How a status looks on a terminal, and in one line of a log."""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

Json = dict[str, Any]

_COLOURS = {"ok": "green", "degraded": "yellow", "down": "red"}


def status_view(status: Json, updates_per_s: float | None = None) -> RenderableType:
    """Tables of symbols and groups, and the health."""
    return Group(_symbols(status["symbols"]), _groups(status["groups"]), _footer(status, updates_per_s))


def status_line(status: Json, updates_per_s: float | None = None) -> str:
    """The same in one line."""
    symbols = "; ".join(
        f"{name} {row['epoch'] or 'no epoch'} age {_age(row['epoch_age_s'])}, {_number(row['contracts'])} contracts, "
        f"{'dirty' if row['dirty'] else 'clean'}, last diff {_age(row['last_diff_age_s'])}"
        for name, row in status["symbols"].items()
    )
    lags = " ".join(f"{name} {_number(_lag(row))}" for name, row in status["groups"].items())
    return f"{symbols}; {_number(updates_per_s)} updates/s; lag {lags}; health {_health(status)}"


def _symbols(symbols: Json) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("symbol", "epoch"):
        table.add_column(name, no_wrap=True)
    for name in ("age", "contracts", "tiles", "chain", "feed", "diff"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("state", no_wrap=True)
    for symbol, row in symbols.items():
        table.add_row(
            symbol,
            row["epoch"] or "-",
            _age(row["epoch_age_s"]),
            _number(row["contracts"]),
            _number(row["tiles"]),
            _age(row["snapshot_age_s"]),
            _age(row["ws_age_s"]),
            _age(row["last_diff_age_s"]),
            "-" if row["dirty"] is None else "dirty" if row["dirty"] else "clean",
        )
    return table


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
    text.append(_health(status), style=_COLOURS.get(health["status"] if health else "", "dim"))
    if updates_per_s is not None:
        text.append(f"   {_number(updates_per_s)} updates/s")
    return text.append(f"   {status['redis_url']}", style="dim")


def _health(status: Json) -> str:
    health = status["health"]
    if health is None:
        return "unknown"
    reasons = ", ".join(health["reasons"])
    return f"{health['status']} ({reasons})" if reasons else str(health["status"])


def _lag(group: Json) -> int | None:
    return None if group["lag"] is None else group["lag"] + group["pending"]


def _age(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{seconds:.1f} s" if seconds < 100 else f"{seconds:,.0f} s"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"
