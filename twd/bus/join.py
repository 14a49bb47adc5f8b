"""Join tokens: where a broker is, which certificate it shows, and a secret that lets one machine ask to join."""

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final
from urllib.parse import urlsplit

from twd.bus.seeds import RAW_BYTES, public_key_of, seed_of

PREFIX: Final = "twd1_"
"""The 1 is the version of the format."""
ADDRESSES_MAX: Final = 8
_CHECK_BYTES: Final = 4
_PIN_BYTES: Final = 32
_TEXT_MAX: Final = 4096
_VERSION: Final = re.compile(r"twd\d+_")
_CUT: Final = "it is cut or changed; copy the whole line that `twd token add` printed"


@dataclass(frozen=True)
class JoinToken:
    """The content of a token. The secret is the seed of an nkey, so it is proved at the broker and never sent."""

    addresses: tuple[str, ...]
    """HOST:PORT, the likeliest first."""
    fingerprint: str
    """The SHA-256 of the certificate of the installation."""
    raw: bytes = field(repr=False)
    """What the seed is made of."""

    @property
    def seed(self) -> bytes:
        """The seed of the nkey."""
        return seed_of(self.raw)

    @cached_property
    def public_key(self) -> str:
        """The half that the installation keeps."""
        return public_key_of(self.seed)

    @property
    def id(self) -> str:
        """The token's short name, which is no secret."""
        return token_id(self.public_key)

    def as_text(self) -> str:
        """Return the token as one line."""
        content = self.raw + bytes.fromhex(self.fingerprint) + ",".join(self.addresses).encode()
        return PREFIX + base64.urlsafe_b64encode(content + _check(content)).decode().rstrip("=")


def token_id(public_key: str) -> str:
    """Return the short name of the token with this public key."""
    return public_key[1:9].lower()


def read_token(text: str) -> JoinToken:
    """Parse a token. Raises ValueError, whose message contains no secret."""
    text = text.strip()
    if not text:
        raise ValueError("it is empty")
    if not text.startswith(PREFIX):
        other = "it is of another version of twd" if _VERSION.match(text) else f"it does not begin with {PREFIX}"
        raise ValueError(f"{other}; `twd token add` on the machine of the broker prints one")
    content = _content(text.removeprefix(PREFIX))
    raw, pin, rest = content[:RAW_BYTES], content[RAW_BYTES:][:_PIN_BYTES], content[RAW_BYTES + _PIN_BYTES :]
    addresses = tuple(rest.decode("utf-8", "replace").split(","))
    if len(pin) < _PIN_BYTES or len(addresses) > ADDRESSES_MAX or not all(map(_is_address, addresses)):
        raise ValueError(_CUT)
    return JoinToken(addresses, pin.hex(), raw)


def _content(text: str) -> bytes:
    try:
        data = base64.b64decode(text[:_TEXT_MAX] + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(_CUT) from None
    content, check = data[:-_CHECK_BYTES], data[-_CHECK_BYTES:]
    if _check(content) != check:
        raise ValueError(_CUT)
    return content


def _check(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()[:_CHECK_BYTES]


def _is_address(text: str) -> bool:
    try:
        parts = urlsplit(f"tls://{text}")
        return bool(parts.hostname and parts.port) and parts.netloc == text and not parts.username
    except ValueError:
        return False
