"""The access middleware: checks every request with the access policy, logs browsers in and answers
preflight requests.
"""

from collections.abc import Callable

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler

from twd.edge.auth.access_policy import COOKIE, AccessPolicy, Principal, RequestCredentials
from twd.edge.auth.sessions import LIFETIME_S, BrowserSessions
from twd.edge.http.body import read_body
from twd.edge.http.replies import json_reply
from twd.edge.http.validation import read_request
from twd.wire.failures import FailureCode, TwdError

LOGIN_BODY_MAX = 4096
LOGIN_TIMEOUT_S = 10.0
CORS_MAX_AGE_S = 600
_VISITOR = web.RequestKey("visitor", Principal)


class Login(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """POST /login."""

    key: str


class LoginState(msgspec.Struct, frozen=True):
    """Whether a key is needed here, and whether this browser has shown one."""

    needed: bool
    name: str


class AuthMiddleware:
    """The access policy of one edge and its logged-in browsers."""

    def __init__(self, door: AccessPolicy, now: Callable[[], float], fresh: Callable[[], str], secure: bool) -> None:
        self.door = door
        self._now = now
        self._fresh = fresh
        self._secure = secure
        self._sessions = BrowserSessions()

    def routes(self) -> list[web.RouteDef]:
        """The routes of these handlers."""
        return [web.get("/login", self.state), web.post("/login", self.login), web.post("/logout", self.logout)]

    async def pass_through(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Run the handler if the request has access; raises TwdError if not."""
        if request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers:
            return self._preflight(request)
        request[_VISITOR] = self.door.open_for(self._credentials(request))
        return await handler(request)

    def is_known(self, request: web.Request) -> bool:
        """Whether a request on an open path has a valid key, or no key is needed."""
        return not self.door.closed or principal_of(request).key is not None

    def _credentials(self, request: web.Request) -> RequestCredentials:
        cookie = request.cookies.get(COOKIE, "")
        return RequestCredentials(
            method=request.method,
            path=request.path,
            headers=request.headers,
            scheme="https" if self._secure else "http",
            session=self._sessions.key_name(cookie, self._now()) if cookie else "",
        )

    # -- browsers ------------------------------------------------------------------------------

    async def state(self, request: web.Request) -> web.Response:
        """GET /login: what a page needs to know before it asks for a key."""
        name = self.door.ring.named(self._credentials(request).session)
        return json_reply(LoginState(needed=self.door.closed, name=name.name if name else ""))

    async def login(self, request: web.Request) -> web.Response:
        """POST /login: check a key and set a cookie."""
        asked = read_request(Login, await read_body(request, LOGIN_BODY_MAX, LOGIN_TIMEOUT_S))
        key = self.door.ring.find(asked.key)
        if key is None:
            raise TwdError(FailureCode.UNAUTHENTICATED, "this key is wrong or was revoked", "key")
        cookie = self._fresh()
        self._sessions.begin(cookie, key.name, self._now())
        response = json_reply(LoginState(needed=True, name=key.name))
        response.set_cookie(
            COOKIE, cookie, max_age=int(LIFETIME_S), httponly=True, samesite="Strict", secure=self._secure, path="/"
        )
        return response

    async def logout(self, request: web.Request) -> web.Response:
        """POST /logout: delete the cookie."""
        self._sessions.end(request.cookies.get(COOKIE, ""))
        response = json_reply(LoginState(needed=self.door.closed, name=""))
        response.del_cookie(COOKIE, path="/", httponly=True, samesite="Strict", secure=self._secure)
        return response

    # -- pages of other origins ------------------------------------------------------------------

    def _preflight(self, request: web.Request) -> web.Response:
        origin = request.headers.get("Origin", "")
        if not self.door.allows_origin(origin):
            text = f"pages of {origin[:100]!r} may not call this server; add the origin to edge.cors_origins"
            raise TwdError(FailureCode.FORBIDDEN, text)
        return web.Response(
            status=204,
            headers={
                "Access-Control-Allow-Methods": "GET, POST, OPTIONS",
                "Access-Control-Allow-Headers": request.headers.get("Access-Control-Request-Headers", "*")[:1024],
                "Access-Control-Max-Age": str(CORS_MAX_AGE_S),
            },
        )

    async def add_headers(self, request: web.Request, response: web.StreamResponse) -> None:
        """Add the headers of every response."""
        headers = response.headers
        headers["Server"] = "twd"
        headers["X-Content-Type-Options"] = "nosniff"
        headers["X-Frame-Options"] = "DENY"
        headers["Referrer-Policy"] = "no-referrer"
        headers.setdefault("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
        headers.setdefault("Cache-Control", "no-store")
        origin = request.headers.get("Origin", "")
        if self.door.origins:
            headers["Vary"] = "Origin"
            if self.door.allows_origin(origin):
                headers["Access-Control-Allow-Origin"] = origin
                headers["Access-Control-Expose-Headers"] = "x-twd-job, x-twd-mode, x-twd-seed, x-twd-acceptance"
        else:
            headers["Cross-Origin-Resource-Policy"] = "same-origin"


def principal_of(request: web.Request) -> Principal:
    """The principal of a request that passed the middleware."""
    return request.get(_VISITOR) or Principal()
