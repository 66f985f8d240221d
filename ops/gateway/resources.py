"""What the REST endpoints answer: reads of published state, their input validated. Nothing is computed here."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import date
from html import escape
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any

import msgspec
import orjson
from aiohttp import web

from consumers.broker import Broker
from consumers.clients import Commands
from contracts.compiled import CompiledEpochs
from contracts.errors import DataError
from contracts.keys import Keys
from contracts.plan import STRATEGIES
from contracts.ports import GetItems, GetValue
from contracts.settings import Settings
from ops.alerts.rule_file import RuleFile
from ops.gateway.endpoints import endpoint_rows, openapi
from ops.gateway.news import NO_HEALTH, read_news, read_timeline
from ops.gateway.reset import history_keys, model_keys
from ops.gateway.security import Handler
from ops.gateway.stream import told_entry
from ops.gateway.tiles import TileName, read_tile
from ops.status import read_status

Json = dict[str, Any]

NO_STORE = {"Cache-Control": "no-store"}
MOST = 1000  # of anything that is asked for by `count`
GEX_SIDES = ("calls", "puts")


class Moment(msgspec.Struct):
    """Of which moment a model is; the rest of it is passed over unread."""

    epoch: str
    tick: int
    ts: float


class Resources:
    """The handlers of the REST endpoints."""

    def __init__(self, settings: Settings, commands: Commands, broker: Broker, keys: Keys, rules: RuleFile) -> None:
        self._settings = settings
        self._commands = commands
        self._broker = broker
        self._keys = keys
        self._rules = rules
        self._compiled = CompiledEpochs(keys, keep=4)

    def handlers(self) -> dict[str, Handler]:
        """By the names of the table of endpoints."""
        return {
            "symbols": self.symbols,
            "status": self.status,
            "health": self.health,
            "epoch": self.epoch,
            "timeline": self.timeline,
            "models": self.models,
            "model": self.model,
            "history": self.history,
            "tile": self.tile,
            "chain": self.chain,
            "alerts": self.alerts,
            "rules": self.rules,
            "schemas": self.schemas,
            "schema": self.schema,
            "openapi": self.openapi,
            "index": self.index,
        }

    # --- the pipeline

    async def symbols(self, _: web.Request) -> web.Response:
        """The symbols served."""
        return told({"symbols": self._settings.massive_symbols})

    async def status(self, _: web.Request) -> web.Response:
        """What `marketswarm status --json` prints."""
        return told(await asyncio.to_thread(read_status, self._commands.url, self._settings))

    async def health(self, request: web.Request) -> web.Response:
        """Status and reasons."""
        (body,) = await self._broker.values(self._keys.health(self.symbol(request)))
        return passed_on(body or NO_HEALTH)

    async def epoch(self, request: web.Request) -> web.Response:
        """The active epoch and its latest predecessors."""
        symbol = self.symbol(request)
        news = await read_news(self._broker, self._keys, symbol)
        return passed_on(_found(news.get("epoch"), f"{symbol} has no epoch yet"))

    async def timeline(self, request: web.Request) -> web.Response:
        """Every epoch remembered."""
        symbol, count = self.symbol(request), _count(request)
        (names,) = await self._broker.read(GetItems(self._keys.timeline(symbol), 0, count - 1))
        assert isinstance(names, list)
        return told({"symbol": symbol, "timeline": await read_timeline(self._broker, self._keys, names)})

    # --- models

    async def models(self, request: web.Request) -> web.Response:
        """Which models there are, and of when."""
        symbol = self.symbol(request)
        keys = self._model_keys(symbol)
        bodies = await self._broker.values(*keys.values())
        found = {name: body for name, body in zip(keys, bodies, strict=True) if body is not None}
        heads = {name: msgspec.json.decode(body, type=Moment) for name, body in found.items()}
        return passed_on(msgspec.json.encode({"symbol": symbol, "models": heads}))

    async def model(self, request: web.Request) -> web.Response:
        """A model as it was published last, whole or a part of it."""
        symbol, name = self.symbol(request), request.match_info["model"]
        keys = self._model_keys(symbol)
        if name not in keys:
            raise web.HTTPNotFound(text=f"no model {name!r}; there are {', '.join(keys)}")
        key = keys[name]
        if name == "heatmap":
            key = self._keys.heatmap_model(symbol, _offered(request, "strategy", STRATEGIES))
        if name == "gex":
            key = self._keys.gex_model(symbol, _offered(request, "side", GEX_SIDES))
        (body,) = await self._broker.values(key)
        return passed_on(_found(body, f"no {name} model of {symbol} is published yet"))

    async def history(self, request: web.Request) -> web.Response:
        """Earlier values of a model that keeps them."""
        symbol, name, count = self.symbol(request), request.match_info["model"], _count(request)
        keys = history_keys(self._keys, symbol)
        if name not in keys:
            there = f"; there are {', '.join(keys)}" if keys else ""
            raise web.HTTPNotFound(text=f"no history of a model {name!r}{there}")
        return told({"symbol": symbol, "history": await self._newest(keys[name], count)})

    def _model_keys(self, symbol: str) -> dict[str, str]:
        return {"heatmap": self._keys.heatmap_model(symbol), **model_keys(self._keys, symbol)}

    async def tile(self, request: web.Request) -> web.Response:
        """One tile with its legs, prices, flags and order line."""
        symbol, query = self.symbol(request), request.query
        try:
            plane, strategy, side = query["plane"], query["strategy"], query["side"]
            name = TileName(strategy, side, float(query["strike"]), float(query.get("width") or "0"))
        except KeyError as error:
            raise web.HTTPBadRequest(text=f"{error.args[0]} is missing: plane, strategy, side, strike, width") from None
        except ValueError:
            raise web.HTTPBadRequest(text="strike and width are numbers of points") from None
        except DataError as error:
            raise web.HTTPBadRequest(text=str(error)) from None
        found = await read_tile(self._broker, self._keys, self._compiled, symbol, plane, name)
        return told(_found(found, "no such tile on the active epoch"))

    # --- chain

    async def chain(self, request: web.Request) -> web.Response:
        """The newest snapshot of an expiration, found through its pointer; nobody scans snapshots."""
        symbol, expiration = self.symbol(request), request.match_info["expiration"]
        if not _is_date(expiration):
            raise web.HTTPBadRequest(text=f"expiration: {expiration!r} is no date such as 2026-01-16")
        (pointer,) = await self._broker.read(GetValue(self._keys.chain_latest(symbol, expiration)))
        known = _found(pointer, f"no recent snapshot of {symbol} {expiration}: not listed, not wanted, or expired")
        (body,) = await self._broker.values(known.decode())
        return passed_on(_found(body, f"the snapshot of {symbol} {expiration} has just expired; ask again"))

    # --- alerts

    async def alerts(self, request: web.Request) -> web.Response:
        """Alerts, newest first."""
        symbol, count = self.symbol(request), _count(request)
        return told({"symbol": symbol, "alerts": await self._newest(self._keys.alert_stream(symbol), count)})

    async def rules(self, _: web.Request) -> web.Response:
        """The rules in force; what they call is not told."""
        await asyncio.to_thread(self._rules.refresh)
        return told(self._rules.summary())

    async def _newest(self, stream: str, count: int) -> list[Json]:
        """The JSON of the newest entries of a stream with the field `data`, newest first, with their ids."""
        entries = await self._commands.ask(self._commands.client.xrevrange(stream, "+", "-", count=count))
        found = (told_entry(entry, fields) for entry, fields in entries)
        return [one for one in found if one is not None]

    # --- about itself

    async def schemas(self, _: web.Request) -> web.Response:
        """Names of the JSON Schemas."""
        return told({"schemas": sorted(_schemas())})

    async def schema(self, request: web.Request) -> web.Response:
        """One JSON Schema."""
        name, there = request.match_info["name"], _schemas()
        if name not in there:
            raise web.HTTPNotFound(text=f"no schema {name!r}; there are {', '.join(sorted(there)) or 'none'}")
        return web.Response(body=there[name].read_bytes(), content_type="application/schema+json")

    async def openapi(self, request: web.Request) -> web.Response:
        """The table of endpoints for programs."""
        return told(openapi(request.app[VERSION]))

    async def index(self, _: web.Request) -> web.Response:
        """The table of endpoints for people."""
        rows = "".join(
            f"<tr><td>{method}</td><td><code>{escape(path)}</code></td><td>{escape(answers)}</td></tr>"
            for method, path, answers in endpoint_rows()
        )
        return web.Response(text=_INDEX.format(rows=rows), content_type="text/html")

    # --- shared

    def symbol(self, request: web.Request) -> str:
        """The symbol of the path; 404 says which there are."""
        symbol, there = request.match_info["symbol"], self._settings.massive_symbols
        if symbol not in there:
            raise web.HTTPNotFound(text=f"no symbol {symbol!r} here; there are {', '.join(there)}")
        return symbol


VERSION = web.AppKey("version", str)

_INDEX = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>MarketSwarm: API</title></head>
<body><h1>MarketSwarm gateway</h1><p>For programs: <a href="/api/openapi.json">/api/openapi.json</a></p>
<table>{rows}</table></body></html>
"""


def told(value: object) -> web.Response:
    """A value as JSON."""
    return passed_on(orjson.dumps(value))


def passed_on(body: bytes) -> web.Response:
    """JSON as it is stored."""
    return web.Response(body=body, content_type="application/json", headers=NO_STORE)


def _found(value: Any, otherwise: str) -> Any:
    if value is None:
        raise web.HTTPNotFound(text=otherwise)
    return value


def _offered(request: web.Request, name: str, offered: tuple[str, ...]) -> str:
    value = request.query.get(name, "")
    if value and value not in offered:
        raise web.HTTPBadRequest(text=f"no {name} {value!r}; there are {', '.join(offered)}")
    return value


def _count(request: web.Request) -> int:
    text = request.query.get("count", "") or "100"
    if not (text.isascii() and text.isdigit() and len(text) <= 4 and 1 <= int(text) <= MOST):
        raise web.HTTPBadRequest(text=f"count: a number from 1 to {MOST} is expected")
    return int(text)


def _is_date(text: str) -> bool:
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


def _schemas() -> Mapping[str, Traversable]:
    """Name -> file of the schemas that are shipped, if any."""
    folder = files("contracts") / "schemas"
    if not folder.is_dir():
        return {}
    found = {one.name.removesuffix(".json"): one for one in folder.iterdir() if one.name.endswith(".json")}
    found.pop("digests", None)
    return found
