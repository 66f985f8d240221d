"""Errors named by who must act.

`DataError`: one entry is bad; park it and go on.
`TransientError`: something outside is down; retry, for ever.
`FatalError`: a person must fix something; stop with a message that says what.
"""

from __future__ import annotations

import msgspec

# What the decoder raises for bytes nobody can use: broken JSON and wrong types, text that is none, endless nesting.
UNDECODABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class MarketSwarmError(Exception):
    """Root of our errors; never raised itself."""


class DataError(MarketSwarmError):
    """This one input cannot be used; nobody but its author can mend it."""


class TransientError(MarketSwarmError):
    """Not now: the provider, the server or the network is away. Retrying is right."""

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class FatalError(MarketSwarmError):
    """Retrying cannot help; the message names what to fix."""


class NewerSchemaError(FatalError):
    """A message was written by a newer version: the consumer is too old, the message is fine."""
