"""Plain tables for terminals and pipes: columns aligned under their headers, widening for longer values."""

from __future__ import annotations

from collections.abc import Sequence


def format_table(
    headers: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    pitches: Sequence[int] = (),
    gap: int = 2,
    ruled: bool = False,
) -> str:
    """The table as text without trailing blanks.

    `pitches` are the least distances from one column to the next, `gap` the blanks that must follow a value;
    `ruled` draws a line below the headers.
    """
    wide = [max(len(header) + 2, *(len(row[n]) + gap for row in rows), 0) for n, header in enumerate(headers)]
    wide[: len(pitches)] = [max(pair) for pair in zip(pitches, wide, strict=False)]
    lines = [_line(headers, wide), *(["-" * sum(wide)] if ruled else []), *(_line(row, wide) for row in rows)]
    return "\n".join(lines)


def _line(values: Sequence[str], widths: Sequence[int]) -> str:
    return "".join(value.ljust(width) for value, width in zip(values, widths, strict=True)).rstrip()
