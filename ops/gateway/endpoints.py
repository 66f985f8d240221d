"""THE table of endpoints: the routes, the OpenAPI document and the documentation are made from it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from contracts.plan import SIDES, STRATEGIES
from ops.gateway.event import KINDS

Json = dict[str, Any]

JSON = "application/json"


@dataclass(frozen=True, slots=True)
class Parameter:
    """A part of the path or of the query; `offered` are the only values there are."""

    name: str
    meaning: str
    offered: tuple[str, ...] = ()
    required: bool = False
    place: str = "query"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A path, what it answers, and the name of its handler."""

    name: str
    path: str
    answers: str
    parameters: tuple[Parameter, ...] = ()
    media: str = JSON
    method: str = "GET"


_SYMBOL = Parameter("symbol", "an underlying: SPX", required=True, place="path")
_MODEL = Parameter(
    "model", "heatmap, gex, liquidity, mode or gravity, as far as published", required=True, place="path"
)
_COUNT = Parameter("count", "how many, newest first")
_LISTENING = (
    _SYMBOL,
    Parameter("since", "an event id to go on after; the header Last-Event-ID wins"),
    Parameter("models", f"only these events, comma separated (reset and tick always): {', '.join(KINDS)}"),
    Parameter("strategy", f"only cells of these, comma separated: {', '.join(STRATEGIES)}"),
    Parameter("planes", "only these planes, comma separated: SPXW:2026-01-16"),
    Parameter("format", "patches of one document (RFC 6902) instead of our messages", ("json-patch",)),
)

ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint(
        "events",
        "/events/{symbol}",
        "server-sent events: a reset, then every diff, tick and model; resumes at Last-Event-ID",
        _LISTENING,
        "text/event-stream",
    ),
    Endpoint("websocket", "/ws/{symbol}", "the same messages over a WebSocket: {id, type, data}", _LISTENING),
    Endpoint("symbols", "/api/symbols", "the symbols served"),
    Endpoint("status", "/api/status", "epochs, ages, lags and health of the whole pipeline"),
    Endpoint("health", "/api/health/{symbol}", "ok, degraded or down, with reasons", (_SYMBOL,)),
    Endpoint("models", "/api/models/{symbol}", "which models are published", (_SYMBOL,)),
    Endpoint(
        "model",
        "/api/models/{symbol}/{model}",
        "a model as it was published last",
        (
            _SYMBOL,
            _MODEL,
            Parameter("strategy", "of the heatmap: one strategy", STRATEGIES),
            Parameter("side", "of gex: one side, by expiration and strike", ("calls", "puts")),
        ),
    ),
    Endpoint(
        "history",
        "/api/models/{symbol}/{model}/history",
        "a model as it was before, where it keeps a history (gravity: minute by minute)",
        (_SYMBOL, _MODEL, _COUNT),
    ),
    Endpoint("epoch", "/api/epochs/{symbol}", "the active epoch and its latest predecessors", (_SYMBOL,)),
    Endpoint("timeline", "/api/timeline/{symbol}", "every epoch remembered, newest first", (_SYMBOL, _COUNT)),
    Endpoint(
        "tile",
        "/api/tiles/{symbol}",
        "one tile with its legs, prices, flags and order line",
        (
            _SYMBOL,
            Parameter("plane", "SPXW:2026-01-16", required=True),
            Parameter("strategy", "of the tile", STRATEGIES, required=True),
            Parameter("side", "of the tile", SIDES, required=True),
            Parameter("strike", "points", required=True),
            Parameter("width", "points; none for a single"),
        ),
    ),
    Endpoint(
        "chain",
        "/api/chain/{symbol}/{expiration}",
        "the newest chain snapshot of an expiration, as its pointer says",
        (_SYMBOL, Parameter("expiration", "YYYY-MM-DD", required=True, place="path")),
    ),
    Endpoint("alerts", "/api/alerts/{symbol}", "alerts, newest first", (_SYMBOL, _COUNT)),
    Endpoint("rules", "/api/rules", "the rules that alerts come from, and what is wrong with their file"),
    Endpoint("schemas", "/api/schemas", "names of the JSON Schemas of our messages"),
    Endpoint(
        "schema",
        "/api/schemas/{name}",
        "a JSON Schema",
        (Parameter("name", "of the schema", required=True, place="path"),),
    ),
    Endpoint("openapi", "/api/openapi.json", "this list as an OpenAPI document"),
    Endpoint("index", "/api", "this list as a page", media="text/html"),
    Endpoint("healthz", "/healthz", "the process is alive"),
    Endpoint("readyz", "/readyz", "Redis answers and every stream is followed"),
    Endpoint("metrics", "/metrics", "Prometheus", media="text/plain"),
    Endpoint("page", "/", "the page", media="text/html"),
    Endpoint("login_page", "/login", "where the token is asked for", media="text/html"),
    Endpoint("login", "/login", "a cookie for who knows the token (form field `token`)", method="POST"),
)


FAILURES = {
    "400": "what was asked makes no sense",
    "401": "a token is needed",
    "403": "a page of another site may not ask",
    "404": "there is no such thing (yet)",
    "429": "asked too often",
    "503": "Redis is away, or too many clients are connected",
}


def openapi(version: str) -> Json:
    """The OpenAPI 3.1 document."""
    paths: dict[str, Json] = {}
    for endpoint in ENDPOINTS:
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = _operation(endpoint)
    schemes = {
        "bearer": {"type": "http", "scheme": "bearer"},
        "cookie": {"type": "apiKey", "in": "cookie", "name": "marketswarm_token"},
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "MarketSwarm gateway", "version": version},
        "paths": paths,
        "components": {"securitySchemes": schemes},
        "security": [{}, {"bearer": []}, {"cookie": []}],
    }


def _operation(endpoint: Endpoint) -> Json:
    answer = {"description": endpoint.answers, "content": {endpoint.media: {}}}
    return {
        "operationId": endpoint.name,
        "summary": endpoint.answers,
        "parameters": list(_parameters(endpoint)),
        "responses": {"200": answer, **{code: {"description": why} for code, why in FAILURES.items()}},
    }


def _parameters(endpoint: Endpoint) -> Iterator[Json]:
    for one in endpoint.parameters:
        schema: Json = {"type": "string"} | ({"enum": list(one.offered)} if one.offered else {})
        yield {
            "name": one.name,
            "in": one.place,
            "required": one.required,
            "description": one.meaning,
            "schema": schema,
        }


def endpoint_rows() -> Iterator[tuple[str, str, str]]:
    """(path with its query, what it answers) of every endpoint, for tables."""
    for endpoint in ENDPOINTS:
        asked = "&".join(f"{one.name}=" for one in endpoint.parameters if one.place == "query")
        yield endpoint.method, endpoint.path + (f"?{asked}" if asked else ""), endpoint.answers
