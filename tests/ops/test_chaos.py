"""Killing processes of every stage under load loses nothing and doubles nothing: the state equals the fold."""

from __future__ import annotations

import pytest

from ops.chaos import run_own


@pytest.mark.processes
def test_the_state_after_kills_equals_the_fold_in_journal_order(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_own(kills=10, seed=7, rate=4000, contracts=600) == 0
    assert "the state equals the fold" in capsys.readouterr().out
