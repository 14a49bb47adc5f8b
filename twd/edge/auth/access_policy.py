"""Decides who has access: keys, host names, origins. The middleware asks it for each request."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from twd.edge.auth.keys import ApiKey, KeyRing
from twd.net.addresses import host_name, is_address, is_loopback
from twd.wire.failures import FailureCode, TwdError

COOKIE = "twd_session"
OPEN_PATHS = frozenset({"/healthz", "/readyz", "/login", "/logout"})
PAGES = frozenset({"/", "/dashboard"})
STATIC = "/static/"
"""The pages and their files contain no secrets: they load without a key, and then ask for one."""
SAFE_METHODS = frozenset({"GET", "HEAD"})


@dataclass(frozen=True, slots=True)
class Principal:
    """The client of a request: its key, or no key where none is needed."""

    key: ApiKey | None = None

    @property
    def name(self) -> str:
        """The key's name, for logs."""
        return self.key.name if self.key else ""

    @property
    def limited(self) -> bool:
        """Whether this key may use some models only."""
        return self.key is not None and bool(self.key.models)

    def may_use(self, model: str) -> bool:
        """Whether this key may use a model, by its full name."""
        return self.key is None or not self.key.models or model in self.key.models

    def check_model(self, model: str) -> None:
        """Raise FORBIDDEN for a model that this key may not use."""
        if self.key is not None and not self.may_use(model):
            allowed = ", ".join(self.key.models)
            text = f"key {self.key.name!r} may not use model {model!r}; it may use {allowed}"
            raise TwdError(FailureCode.FORBIDDEN, text, "model")


@dataclass(frozen=True, slots=True)
class RequestCredentials:
    """The parts of a request that the access policy checks."""

    method: str
    path: str
    headers: Mapping[str, str]
    scheme: str = "http"
    session: str = ""
    """The name of the key with which this browser logged in."""


@dataclass
class AccessPolicy:
    """The access rules of one edge."""

    ring: KeyRing
    must_have_key: bool
    own_hosts: frozenset[str] = frozenset()
    origins: tuple[str, ...] = ()
    names: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        self.names = frozenset(name.lower().rstrip(".") for name in self.own_hosts) | {"localhost"}

    @property
    def closed(self) -> bool:
        """Whether a key is needed."""
        return self.must_have_key or self.ring.wanted

    def open_for(self, credentials: RequestCredentials) -> Principal:
        """The principal of a request; raises TwdError if access is refused."""
        secret = bearer(credentials.headers)
        key = None if secret is None else self.ring.find(secret)
        if key is None:
            self._check_host(credentials)
        self._check_origin(credentials)
        if secret is not None and self.closed:
            return Principal(self._known(key))
        if not self.closed:
            return Principal()
        return self._by_session(credentials)

    def _known(self, key: ApiKey | None) -> ApiKey:
        if key is None:
            raise TwdError(FailureCode.UNAUTHENTICATED, "this key is wrong or was revoked")
        return key

    def _by_session(self, credentials: RequestCredentials) -> Principal:
        key = self.ring.named(credentials.session) if credentials.session else None
        if key is not None:
            return Principal(key)
        if credentials.path in OPEN_PATHS or is_page(credentials):
            return Principal()
        raise TwdError(FailureCode.UNAUTHENTICATED, "a key is needed: send 'Authorization: Bearer KEY'")

    def _check_host(self, credentials: RequestCredentials) -> None:
        """Refuse foreign host names: a DNS rebinding attack sends the attacker's host name, never an IP address."""
        host = credentials.headers.get("Host", "")
        name = host_name(host)
        if not name or name in self.names or name.endswith(".localhost") or is_address(name):
            return
        text = f"host {host[:100]!r} is not this server's name; add it to edge.allowed_hosts"
        raise TwdError(FailureCode.FORBIDDEN, text)

    def _check_origin(self, credentials: RequestCredentials) -> None:
        origin = credentials.headers.get("Origin")
        if origin is None or self.allows_origin(origin):
            return
        if origin.lower() == f"{credentials.scheme}://{credentials.headers.get('Host', '')}".lower():
            return
        text = f"pages of {origin[:100]!r} may not call this server; add the origin to edge.cors_origins"
        raise TwdError(FailureCode.FORBIDDEN, text)

    def allows_origin(self, origin: str) -> bool:
        """Whether the settings allow pages of this origin."""
        return "*" in self.origins or origin.lower() in self.origins


def bearer(headers: Mapping[str, str]) -> str | None:
    """The secret of a request: the bearer token, or `x-api-key`, which Anthropic's clients send; None without one."""
    given = headers.get("Authorization")
    if given is None:
        return headers.get("x-api-key")
    scheme, _, secret = given.partition(" ")
    return secret.strip() if scheme.lower() == "bearer" else given


def is_page(credentials: RequestCredentials) -> bool:
    """Whether the request is for a page or one of its files."""
    return credentials.method in SAFE_METHODS and (credentials.path in PAGES or credentials.path.startswith(STATIC))


def check_bind(host: str, ring: KeyRing, allow_unauthenticated: bool) -> None:
    """Raise if other machines could use the server without a key, unless the settings allow it explicitly."""
    if is_loopback(host) or ring.wanted or allow_unauthenticated:
        return
    text = (
        f"edge.host is {host}, so other machines could use this server, and no key is set. Set TWD_TOKEN, make a key "
        "with `twd key add NAME`, listen on 127.0.0.1, or say edge.allow_unauthenticated: true"
    )
    raise TwdError(FailureCode.FORBIDDEN, text, "edge.host")
