"""Killing processes of every stage under load loses nothing and doubles nothing: the state equals the fold."""

from __future__ import annotations

import pytest

from contracts.topology import StageName
from ops.chaos import PROCESSES, Load, Soak, run_own, run_soak


@pytest.mark.processes
def test_the_state_after_kills_equals_the_fold_in_journal_order(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_own(kills=10, seed=7, load=Load(rate=4000, contracts=600)) == 0
    assert "the state equals the fold" in capsys.readouterr().out


@pytest.mark.processes
def test_the_state_after_kills_and_orders_equals_the_fold(capsys: pytest.CaptureFixture[str]) -> None:
    load = Load(rate=2000, contracts=400, processes={**PROCESSES, StageName.STAGING: 3})
    assert run_soak(Soak(seconds=15, kill_every_s=5, force_every_s=2), load, seed=5) == 0
    told = capsys.readouterr().out
    assert "the state equals the fold" in told
    assert "promotions_operator" in told
