"""The vigil: one owner over all gateways judges the rules once a second and appends alerts to a bounded stream.

An alert and where its rule stands afterwards are written in one commit, guarded by the lease and by where the rule
stood before: neither a restart nor a second owner alerts twice, and none forgets an alert that was due.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from time import time
from typing import Any

import msgspec
import orjson
import structlog

from consumers.broker import Broker
from contracts.commit import Applied, Commit, DropFields, Emit, FieldIs, SetFields, ValueIs, Write
from contracts.compiled import CompiledEpochs
from contracts.keys import Keys
from ops.alerts.facts import read_facts
from ops.alerts.judgement import Facts, Judgement, Standing, judge
from ops.alerts.rule_file import RuleFile
from ops.alerts.rules import AnyRule
from ops.alerts.webhook import Webhooks

log = structlog.get_logger("alerts")

LEASE = "alerts"
PERIOD_S = 1.0
KEEP = 10_000  # alerts on the stream of a symbol

Json = dict[str, Any]


class Vigil:
    """Judges all rules for all symbols."""

    def __init__(self, broker: Broker, keys: Keys, symbols: Sequence[str], rules: RuleFile, webhooks: Webhooks) -> None:
        self._broker = broker
        self._keys = keys
        self._symbols = symbols
        self._rules = rules
        self._webhooks = webhooks
        self._compiled = CompiledEpochs(keys, keep=2)

    async def keep(self, lease: str, owner: str) -> None:
        """Judge every symbol once, by the rules as they are in the file now."""
        await asyncio.to_thread(self._rules.refresh)
        for symbol in self._symbols:
            await self._keep(symbol, lease, owner)

    async def _keep(self, symbol: str, lease: str, owner: str) -> None:
        rules = [rule for rule in self._rules.rules if rule.symbol in (None, symbol)]
        key = self._keys.alert_state(symbol)
        stored = await self._broker.fields(key)
        await self._forget(key, stored, lease, owner)
        if not rules:
            return
        facts = await read_facts(self._broker, self._keys, self._compiled, symbol, rules, time())
        for rule in rules:
            before = stored.get(rule.name.encode())
            judgement = judge(rule, facts, standing_of(rule, before))
            after = stored_as(rule, judgement.standing)
            if after == before and not judgement.is_alert:
                continue
            guards = (ValueIs(lease, owner), FieldIs(key, rule.name, before))
            writes: list[Write] = [SetFields(key, {rule.name: after})]
            alert = alert_of(rule, facts, judgement)
            if judgement.is_alert:
                writes.append(Emit(self._keys.alert_stream(symbol), {"data": orjson.dumps(alert)}, KEEP))
            outcome = await self._broker.commit(Commit(guards=guards, writes=tuple(writes)))
            if isinstance(outcome, Applied) and judgement.is_alert:
                log.info("alert", rule=rule.name, text=judgement.text)
                self._webhooks.post(rule.webhook, alert)

    async def _forget(self, key: str, stored: Mapping[bytes, bytes], lease: str, owner: str) -> None:
        """Drop what is remembered of rules that are gone. A broken file forgets nothing: its last good rules stay."""
        names = {rule.name for rule in self._rules.rules}
        gone = tuple(name for name in (one.decode() for one in stored) if name not in names)
        if gone and self._rules.is_loaded:
            await self._broker.commit(Commit(guards=(ValueIs(lease, owner),), writes=(DropFields(key, gone),)))


def stored_as(rule: AnyRule, standing: Standing) -> bytes:
    """Where a rule stands, with a digest of what it says: a rule that was rewritten begins anew."""
    return orjson.dumps({"rule": _digest(rule), "standing": dict(standing)}, option=orjson.OPT_SORT_KEYS)


def standing_of(rule: AnyRule, stored: bytes | None) -> Standing | None:
    """The standing stored for a rule; None if there is none, or it is of another rule of that name."""
    found = orjson.loads(stored) if stored is not None else {}
    return found["standing"] if found.get("rule") == _digest(rule) else None


def _digest(rule: AnyRule) -> str:
    said = {name: value for name, value in msgspec.to_builtins(rule).items() if name != "webhook"}
    return hashlib.sha256(orjson.dumps(said, option=orjson.OPT_SORT_KEYS)).hexdigest()[:16]


def alert_of(rule: AnyRule, facts: Facts, judgement: Judgement) -> Json:
    """The alert as it is published: which rule, when, of which epoch and tick, and the values it is about."""
    return {
        "rule": rule.name,
        "when": rule.__struct_config__.tag,
        "symbol": facts.symbol,
        "epoch": facts.epoch,
        "tick": facts.tick,
        "ts": facts.ts,
        "text": judgement.text,
        "values": dict(judgement.values),
    }
