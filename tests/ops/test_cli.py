"""The command line: help that is true, and one line on standard error for whatever a person must fix."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from contracts.errors import FatalError
from contracts.settings import Settings
from ops.cli import ContractsOption, RateOption, ScenarioOption, SeedOption, settings_table
from ops.joining import joined_environment, remember_environment
from ops.mock.provider import MockOptions
from ops.mock.scenario import SCENARIOS
from ops.programs import MOCK, SERVER, MockChoice, Plan, make_plan, reserved_mock_port
from ops.provider_key import load_settings_with_key
from ops.sample_chain import FILE
from ops.supervision import SupervisorFiles
from ops.tables import format_table

SAMPLE = str(FILE)
COMMANDS = (
    "up", "down", "mock", "stage", "gateway", "status", "epochs", "parked", "audit", "settings",
    "gex", "heatmap", "validate", "chaos", "bench",
)  # fmt: skip


def run(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command in a folder of its own, with these settings and no others."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("MASSIVE_", "MARKETSWARM_"))}
    plain.pop("REDIS_URL", None)
    return subprocess.run(
        [sys.executable, "-P", "-m", "ops.cli", *arguments],
        cwd=folder,
        env=plain | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "environment", "says"),
    [
        (("status",), {}, "REDIS_URL is not set and no embedded server has been started"),
        (("status",), {"REDIS_URL": "redis://:pw-s3cret@127.0.0.1:1"}, "redis://***@127.0.0.1:1 is not available"),
        (("epochs", "--json"), {"REDIS_URL": "redis://127.0.0.1:1"}, "is not available"),
        (("parked", "list"), {"REDIS_URL": "redis://127.0.0.1:1"}, "is not available"),
        (("status",), {"REDIS_URL": "http://x"}, "REDIS_URL='http://x'"),
        (("up",), {"MASSIVE_TICK_MS": "soon"}, "MASSIVE_TICK_MS='soon'"),
        (("up",), {"MASSIVE_SYMBOL": "SPX"}, "did you mean MASSIVE_SYMBOLS?"),
        (("up",), {"MASSIVE_API_KEY_FILE": "/nowhere/key"}, "MASSIVE_API_KEY_FILE='/nowhere/key' cannot be read"),
        (("up", "--chain", "none.json"), {}, "none.json: cannot be read"),
        (("up", "--rate", "5"), {"MASSIVE_API_KEY": "pw-s3cret"}, "with MASSIVE_API_KEY set there is none"),
        (("mock", "--scenario", "nope"), {}, "no scenario 'nope'"),
        (("up", "--scenario", "nope"), {}, "no scenario 'nope'"),
        (("gex", "none.json"), {}, "none.json: cannot be read"),
        (("gex", "none.json", "--gamma", "mine"), {}, "MASSIVE_GAMMA='mine'"),
        (
            ("heatmap", "none.json", "--strategy", "single", "--expiration", "2026-01-12"),
            {},
            "none.json: cannot be read",
        ),
        (("heatmap", SAMPLE, "--strategy", "single", "--expiration", "soon"), {}, "no expiration 'soon' in this file"),
        (("gex", SAMPLE, "--png", "nowhere/gex.png"), {}, "nowhere/gex.png: cannot be written"),
        (("validate", "none.json"), {"REDIS_URL": "redis://127.0.0.1:1"}, "no file and no symbol 'none.json' here"),
        (("validate", SAMPLE), {}, "not JSON"),
        (("validate",), {"REDIS_URL": "redis://127.0.0.1:1"}, "is not available"),
        (("audit", "QQQ"), {"REDIS_URL": "redis://127.0.0.1:1"}, "no symbol 'QQQ' here"),
        (("parked", "redrive", "ws"), {"REDIS_URL": "redis://127.0.0.1:1"}, "give either --id"),
    ],
)
def test_errors_are_one_line_without_traceback(
    tmp_path: Path, arguments: tuple[str, ...], environment: dict[str, str], says: str
) -> None:
    done = run(tmp_path, *arguments, **environment)
    assert done.returncode in (1, 2), done
    (line,) = done.stderr.splitlines()
    assert line.startswith("marketswarm: ") and says in line
    assert "s3cret" not in done.stderr + done.stdout


def test_every_wrong_setting_is_a_line(tmp_path: Path) -> None:
    done = run(tmp_path, "up", MASSIVE_TICK_MS="3", MARKETSWARM_PORT="none", MASSIVE_NOTHING="1")
    lines = done.stderr.splitlines()
    assert done.returncode == 2 and len(lines) == 3 and not done.stdout
    assert all(name in done.stderr for name in ("MASSIVE_TICK_MS", "MARKETSWARM_PORT", "MASSIVE_NOTHING"))


def test_settings_table_lists_every_setting(tmp_path: Path) -> None:
    table = settings_table()
    for name, field in Settings.model_fields.items():
        if name != "massive_widths":
            (line,) = [line for line in table.splitlines() if line.startswith(name.upper() + " ")]
            assert field.description and line.endswith(field.description)
    assert "MASSIVE_WIDTHS_<U>" in table
    assert run(tmp_path, "settings", MASSIVE_API_KEY="pw-s3cret").stdout.strip() == table


def test_help_names_every_command(tmp_path: Path) -> None:
    page = run(tmp_path, "--help").stdout
    assert all(f"  {name} " in page for name in COMMANDS)
    for name in COMMANDS:
        done = run(tmp_path, name, "--help")
        assert done.returncode == 0 and "--attached" not in done.stdout, name


@pytest.mark.parametrize("name", ["up", "mock"])
def test_help_lists_the_scenarios(tmp_path: Path, name: str) -> None:
    page = "".join(run(tmp_path, name, "--help").stdout.split()).replace("-", "")
    assert all(scenario.replace("-", "") in page for scenario in SCENARIOS)


def test_a_scenario_nobody_knows_starts_nothing(tmp_path: Path) -> None:
    assert run(tmp_path, "up", "--scenario", "nope").returncode == 2
    assert not list(tmp_path.iterdir())


def test_defaults_told_are_those_of_the_mock() -> None:
    default = MockOptions()
    told = {"rate": RateOption, "seed": SeedOption, "contracts": ContractsOption, "scenario": ScenarioOption}
    for name, option in told.items():
        value = getattr(default, name)
        shown = f"{value:g}" if isinstance(value, float) else str(value)
        assert f"[default: {shown}]" in get_args(option)[1].help, name


# --- the provider key


def test_the_key_comes_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("  from-the-file\n")
    environment = {"MASSIVE_API_KEY_FILE": str(file)}
    assert load_settings_with_key(environment).massive_api_key == "from-the-file"
    assert load_settings_with_key(environment | {"MASSIVE_API_KEY": "given"}).massive_api_key == "given"


@pytest.mark.parametrize("content", [b"", b" \n", b"\xff\xfe\x00"])
def test_a_key_file_without_a_key_is_named(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "key"
    file.write_bytes(content)
    with pytest.raises(FatalError, match="MASSIVE_API_KEY_FILE="):
        load_settings_with_key({"MASSIVE_API_KEY_FILE": str(file)})


# --- joining


def test_joining_takes_over_the_settings_of_what_is_up(tmp_path: Path) -> None:
    own = {"MARKETSWARM_DATA": str(tmp_path)}
    assert joined_environment(own) == own
    remember_environment(tmp_path, {"MASSIVE_SYMBOLS": "RUT", "MASSIVE_API_KEY": "secret", "PATH": "/"}, "redis://h:1")
    assert joined_environment(own) == own | {"MASSIVE_SYMBOLS": "RUT"}
    assert joined_environment(own | {"MASSIVE_SYMBOLS": "SPY"})["MASSIVE_SYMBOLS"] == "SPY"
    assert "secret" not in (tmp_path / "environment.json").read_text()


def test_joining_is_for_the_same_server_only(tmp_path: Path) -> None:
    own = {"MARKETSWARM_DATA": str(tmp_path)}
    remember_environment(tmp_path, {"MASSIVE_SYMBOLS": "RUT"}, "redis://:password@h:1")
    assert "password" not in (tmp_path / "environment.json").read_text()
    same, other = own | {"REDIS_URL": "redis://:password@h:1"}, own | {"REDIS_URL": "redis://h:2"}
    assert joined_environment(same)["MASSIVE_SYMBOLS"] == "RUT"
    assert joined_environment(other) == other


# --- what `up` runs


def plan_of(environment: dict[str, str], choice: MockChoice | None = None) -> Plan:
    return make_plan(choice or MockChoice(), load_settings_with_key(environment), environment)


def test_up_runs_server_and_mock_only_when_needed(tmp_path: Path) -> None:
    data = {"MARKETSWARM_DATA": str(tmp_path)}
    names = [program.name for program in plan_of(data).programs]
    assert names == [SERVER, MOCK, "massive", "staging", "calculate", "models", "gateway"]
    given = data | {"REDIS_URL": "redis://h:1", "MASSIVE_API_KEY": "real"}
    plan = plan_of(given)
    assert [program.name for program in plan.programs] == names[2:]
    assert plan.redis_url == "redis://h:1" and plan.environment["MASSIVE_API_KEY"] == "real"
    assert "MASSIVE_REST_URL" not in plan.environment


def test_any_port_is_one_that_up_can_tell(tmp_path: Path) -> None:
    plan = plan_of({"MARKETSWARM_DATA": str(tmp_path), "MARKETSWARM_PORT": "0"})
    assert plan.settings.marketswarm_port == int(plan.environment["MARKETSWARM_PORT"]) > 0


def test_two_pipelines_that_start_together_take_different_ports() -> None:
    with reserved_mock_port() as one, reserved_mock_port() as other:
        assert one != other


def test_a_chain_file_names_the_symbol_unless_symbols_are_given(tmp_path: Path) -> None:
    quote = {"symbol": "RUT260715C02000000", "side": "call", "strike": 2000, "expiration": "2026-07-15"}
    chain = {"symbol": "RUT", "underlyingPrice": 2000.0, "updated": "2026-07-12T10:00:00", "quotes": [quote]}
    file = tmp_path / "chain.json"
    file.write_text(json.dumps(chain))
    data = {"MARKETSWARM_DATA": str(tmp_path)}
    plan = plan_of(data, MockChoice(chain=file, rate=0.0))
    assert plan.environment["MASSIVE_SYMBOLS"] == "RUT" and plan.settings.massive_symbols == ("RUT",)
    (mock,) = [program for program in plan.programs if program.name == MOCK]
    assert list(mock.command)[-4:] == ["--chain", str(file), "--rate", "0.0"]
    assert plan_of(data | {"MASSIVE_SYMBOLS": "SPX"}, MockChoice(chain=file)).settings.massive_symbols == ("SPX",)


def test_the_socket_path_is_never_too_long(tmp_path: Path) -> None:
    assert SupervisorFiles(Path("/tmp/x")).socket == Path("/tmp/x/supervisord.sock")
    deep = tmp_path / ("long" * 30)
    assert len(str(SupervisorFiles(deep).socket)) < 90
    assert SupervisorFiles(deep).socket != SupervisorFiles(deep / "other").socket


def test_tables_align_and_widen() -> None:
    assert format_table(("A", "LONGER"), []) == "A  LONGER"
    assert format_table(("A", "B"), [("xx", "y"), ("x", "yy")]) == "A   B\nxx  y\nx   yy"
