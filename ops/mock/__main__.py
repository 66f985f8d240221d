"""`python -m ops.mock`: the mock provider by itself."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from contracts.errors import DataError, FatalError
from ops.mock.provider import MockOptions
from ops.mock.scenario import SCENARIOS
from ops.mock.server import run_mock


def main() -> int:
    """Serve until stopped; 1 with one line on stderr when it cannot."""
    try:
        run_mock(_options())
    except (FatalError, DataError) as error:
        print(f"mock: {error}", file=sys.stderr)
        return 1
    return 0


def _options() -> MockOptions:
    default = MockOptions()
    parser = argparse.ArgumentParser(prog="python -m ops.mock", description="A stand-in provider.")
    parser.add_argument("--host", default=default.host)
    parser.add_argument("--port", type=int, default=default.port, help="0 takes a free one")
    parser.add_argument("--seed", type=int, default=default.seed)
    parser.add_argument("--rate", type=float, default=default.rate, help="option events/s, 0 stands still")
    parser.add_argument("--contracts", type=int, default=default.contracts, help="about, per symbol")
    parser.add_argument("--scenario", default=default.scenario, help=f"a file or one of {', '.join(SCENARIOS)}")
    parser.add_argument("--chain", type=Path, help="serve this recorded chain")
    parser.add_argument("--symbols", default=",".join(default.symbols))
    parser.add_argument("--data", type=Path, default=default.data, help="folder that keeps the clock")
    parser.add_argument("--key", help="accept this API key only")
    parser.add_argument("--max-connections", type=int, default=default.max_connections)
    parser.add_argument("--tls-certificate", type=Path, help="PEM file: speak TLS only")
    parser.add_argument("--tls-key", type=Path, help="PEM file of its private key")
    parser.add_argument("--frame-events", type=int, default=default.frame_events)
    arguments = vars(parser.parse_args())
    arguments["symbols"] = tuple(name.strip() for name in arguments["symbols"].split(",") if name.strip())
    return MockOptions(**arguments)


if __name__ == "__main__":
    sys.exit(main())
