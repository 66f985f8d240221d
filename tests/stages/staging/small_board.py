"""The board most tests of staging speak of: five strikes around 6900, one of its calls, and the instant."""

from __future__ import annotations

from tests.pipeline import NOW, cid_of

NOW_MS = round(NOW * 1000)
FEW = range(6890, 6915, 5)
CID = cid_of(6900)
