"""The gateway's own user of Redis: it may read what is published, and write its heartbeat and the alerts, nothing else.

Whoever breaks into the gateway cannot change the board. `marketswarm up` gives its embedded server this user; for a
Redis of your own `marketswarm acl` prints the line.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from urllib.parse import quote, urlsplit

from contracts.keys import Keys
from ops.alerts.vigil import LEASE

USER = "marketswarm-gateway"
GROUP = "gateway"  # no consumer group: the name under which leases are held

# Reading commands go to whatever is ours; the writing ones reach only the keys of `_written`.
_COMMANDS = [
    "-@all",
    "+@read",
    "+@connection",
    "+@transaction",
    "-@dangerous",
    "+time",
    "+evalsha",
    "+evalsha_ro",
    "+eval_ro",
    "+script|load",
    "+hset",
    "+hdel",
    "+xadd",
    "+set",
    "+del",
    "+pexpire",
]


def acl_rules(keys: Keys, password: str) -> list[str]:
    """The arguments of `ACL SETUSER marketswarm-gateway`; of the password only its SHA-256 is told."""
    digest = hashlib.sha256(password.encode()).hexdigest()
    reads = [f"%R~{prefix}*" for prefix in keys.prefixes()]
    return ["reset", "on", f"#{digest}", *reads, *(f"~{key}" for key in _written(keys)), *_COMMANDS]


def acl_line(keys: Keys, password: str) -> str:
    """The command for a Redis of your own."""
    return f"ACL SETUSER {USER} {' '.join(acl_rules(keys, password))}"


def url_of(redis_url: str, password: str) -> str:
    """The address of a server with this user's login in place of any other."""
    parts = urlsplit(redis_url)
    where = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=f"{USER}:{quote(password, safe='')}@{where}").geturl()


def _written(keys: Keys) -> Iterator[str]:
    yield keys.heartbeat()
    yield keys.alert_stream("*")
    yield keys.alert_state("*")
    yield keys.lease(LEASE, "*")
    yield keys.cursor(GROUP, "*")
