"""What `marketswarm up` runs: programs, the environment they share, and the server they use."""

from __future__ import annotations

import fcntl
import os
import secrets
import socket
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from consumers import embedded
from contracts.errors import FatalError
from contracts.settings import Settings
from contracts.topology import StageName
from ops.chain_file import read_chain_file
from ops.gateway.acl import USER, acl_rules, url_of
from ops.gateway.security import check_exposure
from ops.joining import MOCK_KEY
from ops.provider_key import load_settings_with_key
from ops.supervision import Program
from ops.wiring import keys_of

PIPELINE = "pipeline"  # the group of stages and gateway
SERVER = "server"
MOCK = "mock"
GATEWAY = "gateway"
MOCK_PORT = 8799
PROVIDER = "provider"  # the market of the real provider


@dataclass(frozen=True, slots=True)
class MockChoice:
    """What the mock provider shall serve; None: its own default."""

    chain: Path | None = None
    rate: float | None = None
    seed: int | None = None
    contracts: int | None = None
    scenario: str | None = None

    @property
    def market(self) -> str:
        """Which market this is: a recorded chain's, or the synthetic one of a seed."""
        return f"chain-{self.chain.stem}" if self.chain else f"synthetic-{1 if self.seed is None else self.seed}"

    def arguments(self) -> list[str]:
        """As options of `marketswarm mock`."""
        options = {
            "--chain": self.chain.resolve() if self.chain else None,
            "--rate": self.rate,
            "--seed": self.seed,
            "--contracts": self.contracts,
            "--scenario": self.scenario,
        }
        return [part for name, value in options.items() if value is not None for part in (name, str(value))]


@dataclass(frozen=True, slots=True)
class Plan:
    """What runs: programs, the environment they share, and the server they use."""

    programs: tuple[Program, ...]
    environment: Mapping[str, str]
    settings: Settings
    redis_url: str
    mock_url: str | None

    @property
    def has_own_server(self) -> bool:
        """Whether the embedded server is one of the programs."""
        return any(program.name == SERVER for program in self.programs)


def make_plan(
    choice: MockChoice, settings: Settings, environment: Mapping[str, str], mock_port: int = MOCK_PORT
) -> Plan:
    """Which programs run, with which environment; `mock_port` is for the mock provider if there is one.

    FatalError where the gateway would refuse to listen: nothing is started then.
    """
    check_exposure(settings.marketswarm_host, settings.marketswarm_token)
    data = settings.marketswarm_data.resolve()
    shared = {name: value for name, value in environment.items() if value.strip()}
    shared["MARKETSWARM_DATA"] = str(data)
    if settings.marketswarm_port == 0:
        shared["MARKETSWARM_PORT"] = str(embedded.free_port())  # so that its address can be told
    programs: list[Program] = []
    if settings.redis_url is None:
        password = secrets.token_urlsafe()  # of the gateway's user; the server is told it with each start
        user = (USER, *acl_rules(keys_of(settings), password))
        market = choice.market if settings.massive_api_key is None else PROVIDER
        server, shared["REDIS_URL"] = _server(data, market, user)
        shared.setdefault("MARKETSWARM_GATEWAY_REDIS_URL", url_of(shared["REDIS_URL"], password))
        programs.append(server)
    mock_url = None
    if settings.massive_api_key is None:
        mock_url = f"http://127.0.0.1:{mock_port}"
        shared |= _mock_environment(choice, shared, mock_url)
        programs.append(_mock(choice, mock_url))
    elif choice != MockChoice():
        raise FatalError("the options of `up` are for the mock provider; with MASSIVE_API_KEY set there is none")
    programs += [_member(str(name), ("stage", str(name), "--attached")) for name in StageName]
    programs.append(_member(GATEWAY, (GATEWAY, "--attached")))
    return Plan(tuple(programs), shared, load_settings_with_key(shared), shared["REDIS_URL"], mock_url)


def _server(data: Path, market: str, user: Sequence[str]) -> tuple[Program, str]:
    """The embedded server with the data of a market and one more user, on the port it had before if that is free."""
    remembered = embedded.remembered_url(data)
    port = int(remembered.rpartition(":")[2]) if remembered else 0
    if not port or not _is_free(port):
        port = embedded.free_port()
    url = f"redis://127.0.0.1:{port}"
    return Program(SERVER, [*embedded.command(data, port, market), "--user", *user], 10, settle_s=1, stop_s=30), url


def _mock(choice: MockChoice, url: str) -> Program:
    port = url.rpartition(":")[2]
    return Program(MOCK, _ours(MOCK, "--port", port, "--attached", *choice.arguments()), 20)


@contextmanager
def reserved_mock_port() -> Iterator[int]:
    """The port of our mock provider, MOCK_PORT if we can have it.

    A lock keeps it ours until the mock listens, and as long as the context lasts: two pipelines that start at the
    same time take different ports.
    """
    path = Path(tempfile.gettempdir()) / f"marketswarm-{os.getuid()}-port-{MOCK_PORT}.lock"
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_ours = _is_free(MOCK_PORT)
        except OSError:
            is_ours = False
        yield MOCK_PORT if is_ours else embedded.free_port()


def _mock_environment(choice: MockChoice, given: Mapping[str, str], url: str) -> dict[str, str]:
    defaults = {
        "MASSIVE_REST_URL": url,
        "MASSIVE_WS_URL": url.replace("http://", "ws://"),
        "MASSIVE_API_KEY": MOCK_KEY,
    }
    if choice.chain is not None:
        defaults["MASSIVE_SYMBOLS"] = read_chain_file(choice.chain).symbol
    return {name: value for name, value in defaults.items() if name not in given}


def _member(name: str, arguments: tuple[str, ...]) -> Program:
    return Program(name, _ours(*arguments), 30, group=PIPELINE)


def _ours(*arguments: str) -> list[str]:
    # -P: a folder named like one of our packages in the working directory must not hide ours
    return [sys.executable, "-P", "-m", "ops.cli", *arguments]


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
