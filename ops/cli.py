"""The command `marketswarm`. Every command imports what it needs when it runs, so that `--help` is quick."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from time import sleep
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from contracts.errors import FatalError, MarketSwarmError
from contracts.settings import WIDTHS_PREFIX, Settings, load_settings
from contracts.topology import StageName
from ops.joining import joined_environment
from ops.mock.scenario import SCENARIOS, parse_scenario
from ops.provider_key import load_settings_with_key

EXIT_ERROR = 1
EXIT_FATAL = 2  # a person must fix something first; a supervisor does not start us again

app = typer.Typer(
    name="marketswarm",
    help="Live convexity surfaces from an options market. Settings are environment variables: `marketswarm settings`.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
parked_app = typer.Typer(
    help="Entries nobody could use: list them, show them, put them back.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(parked_app, name="parked")
alerts_app = typer.Typer(help="Rules of alerts.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(alerts_app, name="alerts")


class Strategy(StrEnum):
    """The strategies of the heatmap."""

    BUTTERFLY = "butterfly"
    VERTICAL = "vertical"
    SINGLE = "single"


class Side(StrEnum):
    """Calls or puts."""

    CALL = "call"
    PUT = "put"


class EpochsGroup(TyperGroup):
    """`epochs` and `epochs SPX` are short for `epochs show` and `epochs show SPX`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put `show` before what names no other command and asks for no help."""
        if not args or args[0] not in (*self.commands, "--help"):
            args = ["show", *args]
        return super().parse_args(ctx, args)


epochs_app = typer.Typer(
    cls=EpochsGroup,
    help="Epochs: show them (also without a command, or by symbol alone), compare two, force a new one.",
    subcommand_metavar="[U] | COMMAND [ARGS]...",
    rich_markup_mode=None,
)
app.add_typer(epochs_app, name="epochs")

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
AllStrikes = Annotated[bool, typer.Option("--all-strikes", help="No window around spot.")]
ChainFileArgument = Annotated[Path, typer.Argument(help="A recorded chain file, also compressed (.gz).")]
PngOption = Annotated[Path | None, typer.Option("--png", help="Also draw it into this file.")]
Attached = Annotated[bool, typer.Option(help="End when the process that started this one ends.", hidden=True)]
ChainOption = Annotated[
    Path | None, typer.Option("--chain", help="Serve this recorded chain file instead of the synthetic market.")
]
RateOption = Annotated[
    float | None, typer.Option("--rate", help="Option quote events per second; 0 stands still. [default: 500]")
]
SeedOption = Annotated[int | None, typer.Option("--seed", help="Seed of the synthetic market. [default: 1]")]
ContractsOption = Annotated[
    int | None, typer.Option("--contracts", help="About how many contracts per symbol. [default: 2000]")
]
ScenarioOption = Annotated[
    str | None,
    typer.Option(
        "--scenario",
        help=f"What happens at the provider: {', '.join(SCENARIOS)}, or a file that says it (.toml, .json). "
        "A duration may follow what lasts: silence:12s. [default: normal]",
    ),
]


def main() -> None:
    """Run a command. What a person must fix becomes one line on standard error, never a traceback."""
    try:
        app()
    except FatalError as error:
        _fail(error, EXIT_FATAL)
    except MarketSwarmError as error:
        _fail(error, EXIT_ERROR)
    except BrokenPipeError:
        # whoever read our output has left; nothing may be flushed into the closed pipe at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_ERROR)


def _fail(error: MarketSwarmError, code: int) -> None:
    for line in str(error).splitlines():
        print(f"marketswarm: {line}", file=sys.stderr)
    sys.exit(code)


def _joined_settings() -> Settings:
    """The settings of the pipeline that is up in the data folder, the caller's own environment before them."""
    return load_settings(joined_environment(os.environ))


def _redis_url(settings: Settings) -> str:
    from consumers.embedded import find_url

    return find_url(settings.redis_url, settings.marketswarm_data)


# --- running


@app.command()
def up(
    chain: ChainOption = None,
    rate: RateOption = None,
    seed: SeedOption = None,
    contracts: ContractsOption = None,
    scenario: ScenarioOption = None,
) -> None:
    """Run the whole pipeline until Ctrl-C: server, provider, four stages, gateway.

    Without REDIS_URL an embedded Valkey is started, its data kept in MARKETSWARM_DATA. Without MASSIVE_API_KEY the
    mock provider is started; the options are for it. --chain sets MASSIVE_SYMBOLS to the file's underlying unless
    MASSIVE_SYMBOLS is given.
    """
    from ops.programs import MockChoice
    from ops.up import run_up

    if scenario is not None:
        parse_scenario(scenario)  # refused before anything is started
    raise typer.Exit(run_up(MockChoice(chain, rate, seed, contracts, scenario), os.environ))


@app.command()
def down() -> None:
    """Stop the pipeline of this data folder, also one whose `marketswarm up` was killed."""
    from ops.up import run_down

    run_down(load_settings(os.environ).marketswarm_data)


@app.command()
def mock(
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.")] = 8799,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    seed: SeedOption = None,
    rate: RateOption = None,
    contracts: ContractsOption = None,
    scenario: ScenarioOption = None,
    chain: ChainOption = None,
    recording: Annotated[
        Path | None, typer.Option("--from", help="Play this capture (`marketswarm capture`) instead of a market.")
    ] = None,
    speed: Annotated[str | None, typer.Option(help="Of playing: so many times as fast, or max. [default: 1]")] = None,
    max_connections: Annotated[
        int | None,
        typer.Option(
            min=1, help="Sockets of one key and cluster at a time. [default: MASSIVE_WS_CONNECTIONS, at least 1]"
        ),
    ] = None,
    tls_certificate: Annotated[Path | None, typer.Option(help="PEM file: speak TLS only.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="PEM file of the certificate's private key.")] = None,
    attached: Attached = False,
) -> None:
    """Serve a stand-in for the provider: REST and the WebSockets /options and /indices on one port.

    Symbols are MASSIVE_SYMBOLS, or the underlying of --chain. The market goes on where the one of the same data
    folder stopped. With --from it plays a capture: every client gets the frames as they were, REST answers and the
    market clock are those of then; it starts with its first client.
    """
    from ops.attachment import end_with_parent
    from ops.mock.player import PlayOptions, parse_speed, run_player
    from ops.mock.provider import MockOptions
    from ops.mock.server import run_mock

    settings = load_settings(os.environ)
    market = {"seed": seed, "rate": rate, "contracts": contracts, "scenario": scenario, "chain": chain}
    tls = {"tls_certificate": tls_certificate, "tls_key": tls_key}
    connections = max_connections or max(1, settings.massive_ws_connections)
    if attached:
        end_with_parent()
    if recording is not None:
        if any(value is not None for value in (market | tls).values()):
            raise FatalError("--from plays what was recorded: leave out the options of a market, and TLS")
        run_player(PlayOptions(recording, parse_speed(speed or "1"), host, port, max_connections=connections))
        return
    if speed is not None:
        raise FatalError("--speed is for --from")
    chosen = market | tls | {"max_connections": connections}
    given: dict[str, Any] = {name: value for name, value in chosen.items() if value is not None}
    data, symbols = settings.marketswarm_data, settings.massive_symbols
    run_mock(MockOptions(host=host, port=port, symbols=symbols, data=data, **given))


@app.command()
def stage(
    name: Annotated[StageName, typer.Argument(help="Which stage.")],
    consumer: Annotated[str | None, typer.Option(help="Name in the consumer group. [default: a unique one]")] = None,
    attached: Attached = False,
) -> None:
    """Run one more process of a stage until Ctrl-C; it joins the pipeline that is up."""
    from ops.attachment import end_with_parent
    from ops.stage_process import run_stage

    environment = joined_environment(os.environ)
    settings = load_settings_with_key(environment) if name is StageName.MASSIVE else load_settings(environment)
    if attached:
        end_with_parent()
    run_stage(name, settings, consumer)


@app.command()
def gateway(attached: Attached = False) -> None:
    """Serve status, models and live diffs over HTTP on MARKETSWARM_HOST:MARKETSWARM_PORT until Ctrl-C."""
    from ops.attachment import end_with_parent
    from ops.gateway.server import run_gateway

    settings = _joined_settings()
    if attached:
        end_with_parent()
    run_gateway(settings)


@app.command()
def acl() -> None:
    """Print a Redis user for the gateway, who can only read, with a new password: a command and a setting."""
    from secrets import token_urlsafe

    from ops.gateway.acl import acl_line, url_of
    from ops.wiring import keys_of

    settings, password = load_settings(os.environ), token_urlsafe()
    print(acl_line(keys_of(settings), password))
    print(f"MARKETSWARM_GATEWAY_REDIS_URL={url_of(settings.redis_url or 'redis://localhost:6379/0', password)}")


# --- looking


@app.command()
def status(as_json: AsJson = False) -> None:
    """Print epochs, ages and lags of the pipeline as they are now."""
    from ops.status import read_status

    settings = _joined_settings()
    found = read_status(_redis_url(settings), settings)
    if as_json:
        print(json.dumps(found))
        return
    from ops.terminal import print_status

    print_status(found)


@app.command()
def audit(
    symbol: Annotated[str, typer.Argument(metavar="U", help="The underlying to audit.")],
    timeout: Annotated[float, typer.Option(help="Seconds within which everything must be comparable once.")] = 10.0,
) -> None:
    """Recompute everything of the active epoch from its substrate and compare bit for bit; exit 1 if not equal."""
    from ops.audit import run_audit

    settings = _joined_settings()
    raise typer.Exit(run_audit(_known(symbol, settings), settings, timeout))


@app.command("settings")
def list_settings() -> None:
    """Print every setting: the environment variable, its default, and what it means."""
    print(settings_table())


# --- files and measurements


@app.command()
def gex(
    file: ChainFileArgument,
    as_json: AsJson = False,
    png: PngOption = None,
    gamma: Annotated[str | None, typer.Option(help="auto, provider or own. [default: MASSIVE_GAMMA]")] = None,
    all_strikes: AllStrikes = False,
    include_expired: Annotated[
        bool, typer.Option("--include-expired", help="Also expirations already settled.")
    ] = False,
) -> None:
    """Print the gamma exposure of a chain file, through the steps of the pipeline.

    US dollars per 1 % move, levels, exposures and expected moves; --json adds the whole published model.
    """
    from ops.gex_file import run_gex

    settings = load_settings(os.environ, **({} if gamma is None else {"massive_gamma": gamma}))
    run_gex(
        file,
        settings,
        settings.massive_gamma,
        as_json=as_json,
        png=png,
        all_strikes=all_strikes,
        include_expired=include_expired,
    )


@app.command()
def heatmap(
    file: ChainFileArgument,
    strategy: Annotated[Strategy, typer.Option(help="Which strategy.")],
    expiration: Annotated[str, typer.Option(help="YYYY-MM-DD.")],
    side: Annotated[Side, typer.Option(help="Calls or puts.")] = Side.CALL,
    root: Annotated[
        str, typer.Option(help="Where two roots share a date. [default: the one that settles PM]", show_default=False)
    ] = "",
    as_json: AsJson = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV: a row per cell, all prices and flags.")] = False,
    png: PngOption = None,
    all_strikes: AllStrikes = False,
) -> None:
    """Print a strategy of one expiration of a chain file by strike and width, through the steps of the pipeline."""
    from ops.heatmap_file import Choice, run_heatmap

    choice = Choice(strategy.value, expiration, side.value, root)
    settings = load_settings(os.environ)
    run_heatmap(file, choice, settings, as_json=as_json, as_csv=as_csv, png=png, all_strikes=all_strikes)


@app.command()
def validate(
    what: Annotated[
        str | None, typer.Argument(metavar="[U|FILE]", help="An underlying or a file. [default: every symbol]")
    ] = None,
) -> None:
    """Validate published models and stream entries against the shipped JSON Schemas; exit 1 if any does not fit.

    Of a symbol what is in Redis now; of a file one message, or one a line.
    """
    from ops.validate import report, validate_file, validate_symbol
    from ops.wiring import keys_of

    if what is not None and Path(what).is_file():
        raise typer.Exit(report(what, validate_file(Path(what))))
    settings = _joined_settings()
    if what is not None and what.upper().removeprefix("I:") not in settings.massive_symbols:
        raise FatalError(
            f"no file and no symbol {what!r} here; MASSIVE_SYMBOLS is {','.join(settings.massive_symbols)}"
        )
    symbols = settings.massive_symbols if what is None else (_known(what, settings),)
    url, keys = _redis_url(settings), keys_of(settings)
    raise typer.Exit(max(report(symbol, validate_symbol(url, keys, symbol)) for symbol in symbols))


@app.command()
def capture(
    out: Annotated[Path, typer.Option("--out", help="File to write; later parts are FILE.1, FILE.2 ...")],
    part_mb: Annotated[int, typer.Option(min=1, help="Begin a new part after so many MB; one an hour anyhow.")] = 256,
) -> None:
    """Record what the provider tells, frames and pages as they came, until Ctrl-C; `mock --from FILE` plays it."""
    from ops.capture import run_capture

    settings = _joined_settings()
    run_capture(settings, _redis_url(settings), out, part_mb * 2**20)


@app.command()
def chaos(
    kills: Annotated[int, typer.Option(min=1, help="How many processes to kill.")] = 40,
    seconds: Annotated[float, typer.Option(min=0, help="Soak for so long instead of counting kills.")] = 0.0,
    every: Annotated[float, typer.Option(min=0, help="Soak: seconds between kills; 0 kills nothing.")] = 10.0,
    force_every: Annotated[
        float, typer.Option(min=0, help="Soak: seconds between forced epochs; 0 forces none.")
    ] = 5.0,
    rate: Annotated[int, typer.Option(min=1, help="Own pipeline: quote events per second.")] = 5000,
    contracts: Annotated[int, typer.Option(min=10, help="Own pipeline: contracts per symbol.")] = 1000,
    staging: Annotated[int, typer.Option(min=1, help="Own pipeline: staging processes.")] = 2,
    seed: Annotated[int, typer.Option(help="Seed of the market and of the kills.")] = 1,
) -> None:
    """Kill -9 stage processes under load, then audit; exit 1 if anything was lost.

    Kills in the pipeline that is up. Without one it brings its own, and compares it with the fold of its inputs.
    With --seconds it always brings its own, and kills and forces epochs at fixed intervals for that long.
    """
    from ops.chaos import PROCESSES, Load, Soak, run_chaos, run_soak

    load = Load(rate, contracts, {**PROCESSES, StageName.STAGING: staging})
    if seconds:
        raise typer.Exit(run_soak(Soak(seconds, every, force_every), load, seed))
    raise typer.Exit(run_chaos(kills, _joined_settings(), load, seed))


@app.command()
def bench() -> None:
    """Measure throughput and latency; prints a table and, last, one line of JSON. At most eight minutes."""
    from ops.bench import run_bench

    run_bench()


# --- epochs


@epochs_app.command("show")
def epochs_show(
    symbol: Annotated[str | None, typer.Argument(metavar="[U]", help="One underlying. [default: all]")] = None,
    everything: Annotated[bool, typer.Option("--all", help="The whole timeline, newest first.")] = False,
    as_json: AsJson = False,
    watch: Annotated[bool, typer.Option("--watch", help="Print again every two seconds until Ctrl-C.")] = False,
) -> None:
    """Print the active epoch of every symbol: age, dirty, dormant, forced, and what entered the models.

    HEATMAP and GEX count the contracts that entered the latest published models; "-" where the models are of
    another epoch.
    """
    from ops.epochs import epochs_table, read_epochs

    settings = _joined_settings()
    symbols = settings.massive_symbols if symbol is None else (_known(symbol, settings),)

    def show() -> None:
        rows = read_epochs(_redis_url(settings), settings, symbols, everything=everything)
        print(json.dumps(rows) if as_json else epochs_table(rows), flush=True)

    _repeat(show, 2.0 if watch else 0.0)


@epochs_app.command("diff")
def epochs_diff(
    before: Annotated[str, typer.Argument(metavar="A", help="An epoch id.")],
    after: Annotated[str, typer.Argument(metavar="B", help="Another of the same symbol.")],
    as_json: AsJson = False,
) -> None:
    """Print what changed from epoch A to epoch B: contracts added, dropped, and with other values, by plane.

    Both must still have their contracts: those of a superseded epoch live for MASSIVE_EPOCH_TTL seconds.
    """
    from ops.epoch_diff import read_diff

    settings = _joined_settings()
    found = read_diff(_redis_url(settings), settings, before, after)
    print(json.dumps(found.as_json()) if as_json else found.as_text())


@epochs_app.command("force")
def epochs_force(
    symbol: Annotated[str, typer.Argument(metavar="U", help="The underlying.")],
    timeout: Annotated[float, typer.Option(min=0, help="Seconds to wait for the new epoch; 0: do not.")] = 10.0,
) -> None:
    """Promote a new epoch over the same contracts, everything recomputed; prints its id."""
    from ops.epoch_force import force_epoch

    settings = _joined_settings()
    epoch = force_epoch(_redis_url(settings), settings, _known(symbol, settings), timeout)
    print(epoch or "ordered")


# --- parked entries

StreamArgument = Annotated[str, typer.Argument(help="Name of the stream: jobs, chain, ws, epoch or strategy.")]


@parked_app.command("list")
def parked_list(as_json: AsJson = False) -> None:
    """Print how many entries of each stream are parked."""
    from ops.parked import list_parked
    from ops.tables import format_table

    settings = _joined_settings()
    rows = list_parked(_redis_url(settings), settings)
    if as_json:
        print(json.dumps([{"stream": row.stream, "key": row.key, "parked": row.parked} for row in rows]))
    else:
        print(format_table(("STREAM", "PARKED", "KEY"), [(row.stream, str(row.parked), row.key) for row in rows]))


@parked_app.command("show")
def parked_show(
    stream: StreamArgument,
    limit: Annotated[int, typer.Option(min=1, help="The newest so many.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Print parked entries of a stream with the reason and the beginning of the payload."""
    from ops.parked import show_parked

    settings = _joined_settings()
    for entry in show_parked(_redis_url(settings), settings, stream, limit):
        print(json.dumps(entry.as_json()) if as_json else entry.as_text())


@parked_app.command("redrive")
def parked_redrive(
    stream: StreamArgument,
    entry: Annotated[list[str] | None, typer.Option("--id", help="Parked entry id; may be given many times.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every parked entry of the stream.")] = False,
) -> None:
    """Append parked entries to their stream again, each exactly once."""
    from ops.parked import redrive

    if bool(entry) == everything:
        raise FatalError("give either --id (one or more) or --all")
    settings = _joined_settings()
    done = redrive(_redis_url(settings), settings, stream, None if everything else tuple(entry or ()))
    print(f"{done} put back")


# --- alerts


@alerts_app.command("check")
def alerts_check(file: Annotated[Path, typer.Argument(help="A TOML file of rules.")]) -> None:
    """Say whether a file of rules is good, and what is wrong; exit 1 if it is not."""
    from ops.alerts.rule_file import check_file

    rules = check_file(file)
    print(f"{file}: {len(rules)} rule{'' if len(rules) == 1 else 's'}")


# --- shared


def settings_table() -> str:
    """Every setting with its default and meaning."""
    from ops.tables import format_table

    rows = [
        (name.upper(), _shown(field.default), field.description or "")
        for name, field in Settings.model_fields.items()
        if name != "massive_widths"
    ]
    rows.append((f"{WIDTHS_PREFIX}<U>", "by symbol", "strategy widths in points for one underlying, comma separated"))
    return format_table(("NAME", "DEFAULT", "MEANING"), rows)


def _shown(default: object) -> str:
    if default is None:
        return "-"
    if isinstance(default, tuple):
        return ",".join(default)
    return str(default).lower() if isinstance(default, bool) else str(default)


def _known(symbol: str, settings: Settings) -> str:
    name = symbol.upper().removeprefix("I:")
    if name not in settings.massive_symbols:
        raise FatalError(f"no symbol {symbol!r} here; MASSIVE_SYMBOLS is {','.join(settings.massive_symbols)}")
    return name


def _repeat(show: Callable[[], None], every_s: float) -> None:
    show()
    while every_s:
        sleep(every_s)
        show()


if __name__ == "__main__":
    main()
