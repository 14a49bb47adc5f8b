"""What the environment says of hubs: the variables that huggingface_hub and Ollama read, too."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from twd.models.spec import HUB_HOSTS
from twd.wire.failures import FailureCode, TwdError

ENDPOINT: Final = "https://huggingface.co"
TOKEN_BYTES_MAX: Final = 4096
_YES: Final = ("1", "on", "yes", "true")


@dataclass(frozen=True)
class HubEnvironment:
    """Where the hub is, who we are there, and where its cache lies on this machine."""

    endpoint: str = ENDPOINT
    token: str = field(default="", repr=False)
    cache: Path = Path("~/.cache/huggingface/hub")
    offline: bool = False

    @property
    def hosts(self) -> tuple[str, ...]:
        """Hosts whose addresses are those of this hub: `host` or `host:port`."""
        return (*HUB_HOSTS, urlsplit(self.endpoint).netloc.lower())


def read_hub_environment(variables: Mapping[str, str], home: Path) -> HubEnvironment:
    """Read HF_ENDPOINT, HF_TOKEN, HF_HOME, HF_HUB_CACHE and HF_HUB_OFFLINE; raises TwdError for what makes no sense."""
    cache_home = Path(variables.get("XDG_CACHE_HOME") or home / ".cache")
    hf_home = _path(variables.get("HF_HOME", ""), home) or cache_home / "huggingface"
    token_file = _path(variables.get("HF_TOKEN_PATH", ""), home) or hf_home / "token"
    return HubEnvironment(
        endpoint=_endpoint(variables.get("HF_ENDPOINT", "")),
        token=_token(variables, token_file),
        cache=_path(variables.get("HF_HUB_CACHE", ""), home) or hf_home / "hub",
        offline=variables.get("HF_HUB_OFFLINE", "").strip().lower() in _YES,
    )


def _path(text: str, home: Path) -> Path | None:
    if not text.strip():
        return None
    return home / text[2:] if text.startswith("~/") else Path(text)


def _endpoint(text: str) -> str:
    url = text.strip().rstrip("/") or ENDPOINT
    try:
        parts = urlsplit(url)
        fine = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.username is None
        _ = parts.port
    except ValueError:
        fine = False
    if not fine or parts.query or parts.fragment:
        text = f"HF_ENDPOINT is {text[:100]!r}; write it like {ENDPOINT}, or unset it"
        raise TwdError(FailureCode.BAD_REQUEST, text, "HF_ENDPOINT")
    return url


def _token(variables: Mapping[str, str], token_file: Path) -> str:
    where, token = "HF_TOKEN", variables.get("HF_TOKEN", "").strip()
    if not token:
        where = str(token_file)
        try:
            token = token_file.read_bytes()[:TOKEN_BYTES_MAX].decode("utf-8", "replace").strip()
        except OSError:
            return ""
    if not (token.isascii() and token.isprintable()) or " " in token:
        text = f"{where} holds no token: a token is one word of plain letters and digits, like hf_…"
        raise TwdError(FailureCode.BAD_REQUEST, text, "HF_TOKEN")
    return token
