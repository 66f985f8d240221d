"""Settings from the environment, decided once, with errors that name variable, value and what is allowed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from contracts.errors import FatalError

_SYMBOL = re.compile(r"[A-Z]{1,6}[0-9]?\Z")
_TOPICS = ("Q", "T", "A", "AM", "FMV")


def _listed(value: object) -> object:
    if not isinstance(value, str):
        return value
    return tuple(dict.fromkeys(part.strip().upper() for part in value.split(",") if part.strip()))


def _symbols(value: tuple[str, ...]) -> tuple[str, ...]:
    symbols = tuple(dict.fromkeys(symbol.removeprefix("I:") for symbol in value))
    if not symbols or not all(_SYMBOL.match(symbol) for symbol in symbols):
        raise ValueError("at least one symbol is expected, comma separated, such as SPX,NDX")
    return symbols


def _topics(value: tuple[str, ...]) -> tuple[str, ...]:
    if not value or not set(value) <= set(_TOPICS):
        raise ValueError(f"topics are {', '.join(_TOPICS)}, comma separated")
    return value


def _number_or_all(value: object) -> object:
    if isinstance(value, str) and value.strip().lower() in ("all", ""):
        return None
    return value


def _points(value: object) -> object:
    if value is None or value == "all":
        return value
    try:
        points = float(str(value))
    except ValueError:
        points = 0.0
    if not 0 < points < 1e6:
        raise ValueError("a positive number of points or `all` is expected")
    return points


Symbols = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_listed), AfterValidator(_symbols)]
Topics = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_listed), AfterValidator(_topics)]
Points = Annotated[float | Literal["all"] | None, Field(union_mode="left_to_right"), BeforeValidator(_points)]


class Settings(BaseSettings):
    """Every setting; the environment name is the upper-case field name."""

    model_config = SettingsConfigDict(extra="ignore", frozen=True, env_ignore_empty=True, allow_inf_nan=False)

    redis_url: str | None = Field(None, description="Redis or Valkey server; unset: an embedded Valkey is started")
    massive_api_key: str | None = Field(None, description="provider key; unset: the mock provider is used", repr=False)
    massive_api_key_file: Path | None = Field(None, description="file that holds the provider key")
    massive_rest_url: str = Field("https://api.massive.com", description="provider REST origin")
    massive_ws_url: str = Field("wss://socket.massive.com", description="stem; /options and /indices are appended")
    massive_symbols: Symbols = Field(("SPX", "NDX"), description="underlyings, comma separated")
    massive_chain_num_expirations: Annotated[int | None, BeforeValidator(_number_or_all)] = Field(
        5, ge=1, description="next N tradable expirations, or `all` the provider lists"
    )
    massive_chain_interval_sec: float = Field(10, gt=0, description="pause between fetches of one symbol")
    massive_chain_interval_closed_sec: float = Field(30, gt=0, description="the same while the market is closed")
    massive_chain_snapshot_ttl: int = Field(60, ge=1, description="lifetime of snapshots, seconds")
    massive_chain_sigma: float = Field(2, gt=0, description="half width of the wanted window, in sigma sqrt(T)")
    massive_chain_fallback_iv: float = Field(
        0.2, gt=0, le=5, description="sigma until an expiration tells its own, per square root of a year"
    )
    massive_chain_window_points: Points = Field(None, description="half width in points instead; `all`: no window")
    massive_epoch_ttl: int = Field(300, ge=5, description="lifetime of an epoch's keys, renewed while active, seconds")
    massive_epoch_dormant_threshold: float = Field(5, gt=0, description="silence that makes an epoch dormant, seconds")
    massive_epoch_dormant_count: int = Field(0, ge=0, description="dormant chains before a forced epoch")
    massive_failing_sec: float = Field(300, ge=0, description="an expiration may fail so long before health says so")
    massive_model_ttl: int = Field(86400, ge=5, description="lifetime of published models, seconds")
    massive_ws_connections: int = Field(1, ge=0, description="option sockets; 0: snapshots only")
    massive_ws_topics: Topics = Field(("Q",), description="option topics: Q, T, A, AM, FMV")
    massive_requests_per_minute: int | None = Field(
        None, ge=1, description="REST requests of all consumers together; unset: at most 90 a second"
    )
    massive_tick_ms: int = Field(1000, ge=50, description="period of the tick")
    massive_future_tolerance_sec: float = Field(30, ge=0, description="how far ahead an event time may be")
    massive_stale_sec: float = Field(60, gt=0, description="age that makes a quote stale")
    massive_rate: float = Field(0.04, ge=-0.05, le=0.5, description="interest rate for discounting, per year")
    massive_gamma: Literal["auto", "provider", "own"] = Field("auto", description="which greeks models use")
    massive_widths: dict[str, tuple[float, ...]] = Field(default_factory=dict, exclude=True, repr=False)
    marketswarm_namespace: str = Field(
        "", pattern=r"^[a-z0-9_-]{0,32}$", description="prefix of all keys (tests, replay)"
    )
    marketswarm_partitioned: bool = Field(False, description="hash tags for Redis Cluster")
    marketswarm_host: str = Field("127.0.0.1", description="gateway address")
    marketswarm_port: int = Field(8080, ge=0, le=65535, description="gateway port")
    marketswarm_token: str | None = Field(
        None, description="what clients of the gateway must know; required beyond this machine", repr=False
    )
    marketswarm_gateway_redis_url: str | None = Field(
        None, description="what the gateway connects with: a user that may only read; default: REDIS_URL", repr=False
    )
    marketswarm_alerts: Path | None = Field(None, description="TOML file with the rules of alerts; unset: none")
    marketswarm_data: Path = Field(Path(".marketswarm"), description="data folder")
    marketswarm_timeline_length: int = Field(1000, ge=1, description="epochs kept on a timeline")
    marketswarm_stream_high_water: int = Field(50_000, ge=100, description="entries before ingestion conflates")
    marketswarm_stream_high_water_bytes: int = Field(
        256 * 2**20, ge=2**20, description="bytes before ingestion conflates"
    )
    marketswarm_stream_high_water_sec: float = Field(
        5.0, gt=0, description="seconds of work for their readers before ingestion conflates"
    )
    marketswarm_resume_window_sec: int = Field(300, ge=10, description="how long published events can be resumed")
    marketswarm_claim_idle_ms: int = Field(5000, ge=200, description="idle time after which entries change owner")
    marketswarm_journal: bool = Field(False, description="record the order in which entries take effect")

    @model_validator(mode="after")
    def _consistent(self) -> Settings:
        longest = max(self.massive_chain_interval_sec, self.massive_chain_interval_closed_sec)
        if self.massive_chain_snapshot_ttl < 2 * longest:
            raise ValueError(
                f"MASSIVE_CHAIN_SNAPSHOT_TTL={self.massive_chain_snapshot_ttl} is too short: twice the longest "
                f"chain interval ({2 * longest:g} s) is needed"
            )
        return self


DEFAULT_WIDTHS: dict[str, tuple[float, ...]] = {
    "SPX": (20, 25, 30, 35, 40, 45, 50),
    "NDX": (50, 60, 70, 80, 100, 120, 130),
}
WIDTHS_PREFIX = "MASSIVE_WIDTHS_"
_OURS = ("MASSIVE_", "MARKETSWARM_")


def load_settings(environment: Mapping[str, str], **overrides: object) -> Settings:
    """Read settings from an environment mapping; keyword arguments win.

    Raises `FatalError` with one line per wrong variable: its name, its value, and what is allowed.
    """
    problems = _unknown_names(environment)
    widths: dict[str, tuple[float, ...]] = {}
    for name, text in environment.items():
        if name.startswith(WIDTHS_PREFIX) and text.strip():
            try:
                widths[name.removeprefix(WIDTHS_PREFIX)] = parse_widths(text)
            except ValueError as error:
                problems.append(f"{name}={text!r}: {error}")
    values: dict[str, object] = {
        field: environment[field.upper()]
        for field in Settings.model_fields
        if environment.get(field.upper(), "").strip() and field != "massive_widths"
    }
    values |= overrides
    values["massive_widths"] = widths
    try:
        settings = _FromValues(**values)  # type: ignore[arg-type]
    except ValidationError as error:
        problems += [_problem(detail) for detail in error.errors()]
        raise FatalError("\n".join(problems)) from None
    if problems:
        raise FatalError("\n".join(problems))
    return settings


def parse_widths(text: str) -> tuple[float, ...]:
    """A list of positive widths in points, ascending, without repeats."""
    try:
        widths = sorted({float(part) for part in text.split(",")})
    except ValueError:
        raise ValueError("a comma separated list of positive numbers is expected, such as 20,25,30") from None
    if not widths or not all(0 < width <= 1e6 for width in widths):
        raise ValueError("widths must be positive numbers")
    return tuple(widths)


class _FromValues(Settings):
    """Settings from the given values alone; the process environment is read by the caller."""

    @classmethod
    def settings_customise_sources(cls, settings_cls: object, init_settings: object, **_: object) -> tuple[object, ...]:  # type: ignore[override]
        return (init_settings,)


def _unknown_names(environment: Mapping[str, str]) -> list[str]:
    known = {field.upper() for field in Settings.model_fields} - {"MASSIVE_WIDTHS"}
    problems = []
    for name, value in environment.items():
        if name.startswith(_OURS) and name not in known and not name.startswith(WIDTHS_PREFIX):
            near = _nearest(name, known)
            problems.append(
                f"{name}={_shown(name, value)}: no such setting" + (f"; did you mean {near}?" if near else "")
            )
    return problems


def _shown(name: str, value: object) -> str:
    """A value for a message; what may be a secret is not told."""
    return "***" if any(word in name for word in ("KEY", "SECRET", "TOKEN")) else repr(value)


def _nearest(name: str, known: set[str]) -> str | None:
    import difflib

    found = difflib.get_close_matches(name, sorted(known), n=1)
    return found[0] if found else None


def _problem(detail: object) -> str:
    assert isinstance(detail, dict)
    where = ".".join(str(part) for part in detail["loc"])
    if not where:
        return str(detail["msg"]).removeprefix("Value error, ")
    name = where.split(".")[0].upper()
    shown = _shown(name, detail["input"])
    return f"{name}={shown}: {str(detail['msg']).removeprefix('Value error, ')}"
