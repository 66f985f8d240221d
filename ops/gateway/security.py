"""Who may ask, how often, and what a browser may do with the answer.

On loopback everybody on the machine may ask, but no page of another site through a browser on it: a request must name
this machine (`Host`), and one that tells its `Origin` must come from a page of ours. Anywhere else a token is required:
in the header `Authorization: Bearer ...`, or in the cookie that `POST /login` sets; never in the URL, where logs would
keep it.
"""

from __future__ import annotations

import hmac
import ipaddress
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from aiohttp import web

from contracts.errors import FatalError

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

COOKIE = "marketswarm_token"
LOGIN = Path(__file__).parent / "page" / "login.html"
OPEN = frozenset({("GET", "/healthz"), ("HEAD", "/healthz"), ("POST", "/login")})
SHORTEST_TOKEN = 16
MOST_CALLERS = 10_000

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",  # without a referrer a form comes from the origin "null", as if from another site
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


def check_exposure(host: str, token: str | None) -> None:
    """Raise `FatalError` for an address that others can reach without a token, or a token that is easily guessed."""
    if token is not None and len(token) < SHORTEST_TOKEN:
        raise FatalError(f"MARKETSWARM_TOKEN: at least {SHORTEST_TOKEN} characters are needed")
    if token is None and not is_loopback(host):
        raise FatalError(f"MARKETSWARM_HOST={host}: others can reach that address; set MARKETSWARM_TOKEN as well")


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def token_required(token: str | None) -> Callable[..., Awaitable[web.StreamResponse]]:
    """A middleware that answers 401 to whoever does not know the token; without a token it lets all pass."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        if token is None or (request.method, request.path) in OPEN or _knows(request, token):
            return await handler(request)
        if "text/html" in request.headers.get("Accept", ""):
            return login_form()
        raise web.HTTPUnauthorized(text="a token is needed: Authorization: Bearer <MARKETSWARM_TOKEN>, or /login")

    return middleware


def same_site_required(host: str, token: str | None) -> Callable[..., Awaitable[web.StreamResponse]]:
    """A middleware that answers 403 to what a page of another site asks through a browser.

    Such a page may open a WebSocket anywhere, and by a name of its own that leads to 127.0.0.1 it may read anything.
    """

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        name = _host_of(f"//{request.host}")
        if token is None and not (name == host or is_loopback(name)):
            raise web.HTTPForbidden(text="ask for this machine by its own name: 127.0.0.1 or localhost")
        origin = request.headers.get("Origin")
        if origin is not None and not _is_from(origin, request.host):
            raise web.HTTPForbidden(text="pages of other sites may not ask")
        return await handler(request)

    return middleware


def _is_from(origin: str, host: str) -> bool:
    try:
        return urlsplit(origin).netloc.lower() == host.lower()
    except ValueError:
        return False


def _host_of(url: str) -> str:
    """The name in an address without its port; empty if there is none."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _knows(request: web.Request, token: str) -> bool:
    scheme, _, told = request.headers.get("Authorization", "").partition(" ")
    given = told.strip() if scheme.lower() == "bearer" else request.cookies.get(COOKIE, "")
    return hmac.compare_digest(given.encode("utf-8", "replace"), token.encode())


def login_form() -> web.Response:
    """The answer to a browser that does not know the token."""
    return web.Response(status=401, body=LOGIN.read_bytes(), content_type="text/html")


def log_in(token: str, given: str) -> web.Response:
    """The answer to a login: the cookie for this browser alone, or the form again."""
    if not hmac.compare_digest(given.encode("utf-8", "replace"), token.encode()):
        return login_form()
    response = web.Response(status=303, headers={"Location": "/"})
    response.set_cookie(COOKIE, token, httponly=True, samesite="Strict", path="/")
    return response


@dataclass
class RateLimit:
    """A bucket of requests per caller, refilled with time. The least recently seen callers are forgotten."""

    per_second: float
    burst: float
    _buckets: OrderedDict[str, tuple[float, float]] = field(default_factory=OrderedDict)

    def allow(self, caller: str, now_s: float) -> bool:
        """Take one request of a caller at a monotonic time; False when its bucket is empty."""
        left, since = self._buckets.pop(caller, (self.burst, now_s))
        left = min(self.burst, left + (now_s - since) * self.per_second)
        allowed = left >= 1.0
        self._buckets[caller] = (left - 1.0 if allowed else left, now_s)
        while len(self._buckets) > MOST_CALLERS:
            self._buckets.popitem(last=False)
        return allowed


def rate_limited(limit: RateLimit, clock: Callable[[], float]) -> Callable[..., Awaitable[web.StreamResponse]]:
    """A middleware that answers 429 to a caller who asks too often."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        if not limit.allow(request.remote or "", clock()):
            raise web.HTTPTooManyRequests(text="too many requests; come again in a second")
        return await handler(request)

    return middleware


async def add_headers(_: web.Request, response: web.StreamResponse) -> None:
    """Signal `on_response_prepare`: what a browser may do with any answer of ours."""
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
