"""Where the broker is and how to sign in there."""

import hashlib
import os
import ssl
from dataclasses import dataclass, field
from pathlib import Path

from twd.bus.base import BusError
from twd.bus.urls import is_usable, shown_url, split_urls
from twd.net.tls import unverified_context
from twd.wire.failures import FailureCode


@dataclass(frozen=True, slots=True)
class Tls:
    """TLS settings for the broker: which certificates to trust, and which one to show."""

    ca: str = ""
    cert: str = ""
    key: str = ""
    hostname: str = ""
    """The name in the broker's certificate, if the URL has another."""
    fingerprint: str = ""
    """The SHA-256 of the broker's certificate, in hex; if set, no certificate authority is used."""


@dataclass(frozen=True, slots=True)
class BusAddress:
    """One or more URLs of one broker (commas between them), and at most one way to sign in."""

    url: str
    token: str = field(default="", repr=False)
    user: str = ""
    password: str = field(default="", repr=False)
    nkey_file: str = ""
    creds_file: str = ""
    tls: Tls = Tls()

    def __post_init__(self) -> None:
        for url in self.urls:
            if not is_usable(url):
                text = f"{shown_url(url)} is no broker URL; write it as nats://HOST:PORT or tls://HOST:PORT"
                raise BusError(text, _BAD)

    @property
    def urls(self) -> list[str]:
        """Every URL, with its scheme."""
        return split_urls(self.url)

    @property
    def shown(self) -> str:
        """The URLs for display, without user names, passwords or tokens."""
        return ", ".join(shown_url(url) for url in self.urls)

    @property
    def wants_tls(self) -> bool:
        """Whether TLS is required."""
        named = self.tls.ca or self.tls.cert or self.tls.fingerprint
        return bool(named) or any(url.startswith("tls://") for url in self.urls)

    def check_files(self) -> None:
        """Raise BusError for a missing or unreadable file, before any connection is tried."""
        for key, path in (
            (_NKEY, self.nkey_file),
            ("bus.creds_file", self.creds_file),
            ("bus.tls.ca", self.tls.ca),
            ("bus.tls.cert", self.tls.cert),
            ("bus.tls.key", self.tls.key),
        ):
            if path and not os.access(path, os.R_OK):
                raise BusError(f"{key}: {path} cannot be read; correct the path or its permissions", _BAD)
        if self.nkey_file:
            _check_seed(_NKEY, self.nkey_file, Path(self.nkey_file).read_bytes())
        if self.creds_file:
            parts = Path(self.creds_file).read_bytes().partition(b"-----BEGIN USER NKEY SEED-----")
            _check_seed("bus.creds_file", self.creds_file, parts[2].lstrip().partition(b"\n")[0])

    def tls_context(self) -> ssl.SSLContext:
        """Return a TLS context that verifies the broker's certificate, with the configured CA if there is one.

        With a fingerprint the check is made after the handshake: see `is_trusted`.
        """
        try:
            ca = self.tls.ca or None
            context = unverified_context() if self.tls.fingerprint else ssl.create_default_context(cafile=ca)
            if self.tls.cert:
                context.load_cert_chain(self.tls.cert, self.tls.key or None)
        except (ssl.SSLError, OSError) as error:
            raise BusError(f"the files of bus.tls cannot be used: {error}", _BAD) from error
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        return context

    def is_trusted(self, connection: ssl.SSLObject | None) -> bool:
        """Return whether the peer's certificate has the configured fingerprint; True if none is configured."""
        if not self.tls.fingerprint:
            return True
        shown = connection.getpeercert(binary_form=True) if connection else None
        return shown is not None and hashlib.sha256(shown).hexdigest() == self.tls.fingerprint


_BAD = FailureCode.BAD_REQUEST
_NKEY = "bus.nkey_file or bus.nkey_dir"


def _check_seed(key: str, path: str, seed: bytes) -> None:
    import nkeys

    try:
        nkeys.from_seed(bytearray(seed.strip())).wipe()
    except (nkeys.NkeysError, ValueError, IndexError, TypeError) as error:
        raise BusError(f"{key}: {path} holds no nkey seed ({error or 'it is empty'})", _BAD) from None
