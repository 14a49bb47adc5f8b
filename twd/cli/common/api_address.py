"""The address and key of the HTTP API that a command uses."""

import ssl
from dataclasses import dataclass, field

import msgspec

from twd.cli.common.context import CliContext
from twd.kit.errors import CommandError
from twd.kit.exit_codes import ExitCode
from twd.settings.model import Settings
from twd.settings.paths import path_of
from twd.wire.failures import TwdError
from twd.wire.reading import NONSENSE


@dataclass(frozen=True, slots=True)
class ApiAddress:
    """A server with OpenAI's API; `url` ends before `/v1`."""

    url: str
    key: str = field(default="", repr=False)
    tls: ssl.SSLContext | None = None

    @property
    def headers(self) -> dict[str, str]:
        """The headers that authenticate a request."""
        return {"Authorization": f"Bearer {self.key}"} if self.key else {}


def find_api(ctx: CliContext, url: str = "", key: str = "") -> ApiAddress:
    """Return the server at `url`, else that of the instance that runs here, with its token."""
    key = key or ctx.environment.get("TWD_TOKEN", "")
    if any(not 32 < ord(letter) < 127 for letter in key):
        raise CommandError(ExitCode.USAGE, "the key holds a blank or a letter that no key has; copy it once more")
    if url:
        return ApiAddress(base_of(url), key)
    instance = ctx.instance()
    if instance is None:
        text = f"nothing runs in {ctx.home.path}; `twd up` starts it, --url names a server elsewhere"
        raise CommandError(ExitCode.NOTHING_RUNS, text)
    address = instance.addresses.get("api", "")
    if not address:
        text = "the instance that runs here has no API (yet); `twd status` tells how far it is"
        raise CommandError(ExitCode.NOTHING_RUNS, text)
    edge = running_settings(ctx).edge
    return ApiAddress(address, key or edge.token, _pinned(edge.tls.cert))


def base_of(url: str) -> str:
    """Return the address with a scheme and without `/v1`."""
    from twd.net.url_guard import parse_base

    try:
        base = parse_base(url if "://" in url else f"http://{url}")
    except TwdError as error:
        raise CommandError(ExitCode.USAGE, str(error)) from None
    return base.url("").removesuffix("/v1")


def running_settings(ctx: CliContext) -> Settings:
    """Return the settings of the instance that runs here; it may have been started with other variables."""
    if not ctx.home.held():  # a killed supervisor leaves its settings behind
        return ctx.settings
    try:
        return msgspec.json.decode(ctx.home.settings_file.read_bytes(), type=Settings)
    except (OSError, *NONSENSE):
        return ctx.settings


def _pinned(cert: str) -> ssl.SSLContext | None:
    """Trust our own server by the very certificate that it was given: its name is not that of the loopback."""
    if not cert:
        return None
    try:
        context = ssl.create_default_context(cafile=str(path_of(cert)))
    except (OSError, ssl.SSLError) as error:
        raise CommandError(ExitCode.CONFIG, f"edge.tls.cert: {cert} cannot be read: {error}") from None
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context
