"""The provider key: from the environment, or from a file named there. It is never printed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from contracts.errors import FatalError
from contracts.settings import Settings, load_settings


def load_settings_with_key(environment: Mapping[str, str]) -> Settings:
    """The settings; without MASSIVE_API_KEY the key is what the file MASSIVE_API_KEY_FILE holds."""
    settings = load_settings(environment)
    if settings.massive_api_key or settings.massive_api_key_file is None:
        return settings
    return load_settings(environment, massive_api_key=read_key(settings.massive_api_key_file))


def read_key(file: Path) -> str:
    """The key in a file, without surrounding white space; FatalError names the file."""
    try:
        key = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text file"
        raise FatalError(f"MASSIVE_API_KEY_FILE={str(file)!r} cannot be read: {reason}") from None
    if not key:
        raise FatalError(f"MASSIVE_API_KEY_FILE={str(file)!r} is empty: put the provider key into it")
    return key
