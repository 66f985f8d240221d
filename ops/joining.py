"""How another program on this machine joins the pipeline that `marketswarm up` runs.

`up` leaves the settings it runs with in the data folder (never the provider's key). Commands that join it read
them from there; the caller's own environment wins.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from consumers.clients import hide_password
from contracts.settings import Settings

ENVIRONMENT_FILE = "environment.json"
MOCK_KEY = "mock"  # what children are given when there is no real key; no secret

DEFAULT_DATA = str(Settings.model_fields["marketswarm_data"].default)
_OURS = ("MASSIVE_", "MARKETSWARM_")


def remember_environment(data: Path, environment: Mapping[str, str], server: str) -> None:
    """Leave the settings of the pipeline that is about to run; `server` is its Redis, the password hidden."""
    settings = {name: value for name, value in environment.items() if name.startswith(_OURS) and value}
    if settings.get("MASSIVE_API_KEY") != MOCK_KEY:
        settings.pop("MASSIVE_API_KEY", None)
    data.mkdir(parents=True, exist_ok=True)
    document = msgspec.json.encode(_Remembered(hide_password(server), settings))
    (data / ENVIRONMENT_FILE).write_bytes(msgspec.json.format(document))


def forget_environment(data: Path) -> None:
    """The pipeline is down: nobody joins it any more."""
    (data / ENVIRONMENT_FILE).unlink(missing_ok=True)


def joined_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment, completed by the settings of the pipeline that is up in the same data folder, if any.

    A caller with a REDIS_URL of its own joins only a pipeline on that same server.
    """
    own = {name: value for name, value in environment.items() if value.strip()}
    found = _remembered(Path(own.get("MARKETSWARM_DATA", DEFAULT_DATA)))
    if found is None or hide_password(own.get("REDIS_URL", found.server)) != found.server:
        return own
    return found.environment | own


class _Remembered(msgspec.Struct, frozen=True):
    server: str
    environment: dict[str, str]


def _remembered(data: Path) -> _Remembered | None:
    try:
        return msgspec.json.decode((data / ENVIRONMENT_FILE).read_bytes(), type=_Remembered)
    except (OSError, msgspec.DecodeError):
        return None  # nothing is up, or not in a way we can join
