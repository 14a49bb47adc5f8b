"""Named API keys, stored as hashes in a file, and the search for the key of a secret."""

import hashlib
import hmac
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from twd.private_file import write_private
from twd.process import platform
from twd.wire.failures import FailureCode, TwdError
from twd.wire.reading import NONSENSE

KEY_PREFIX = "twd_"
TOKEN_NAME = "TWD_TOKEN"
"""The name of the token from the settings. A key with this name would pass for the token after a browser login."""
FILE_NAME = "keys.json"
LOCK_PATIENCE_S: Final = 5.0


class ApiKey(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One key. Its secret is 256 random bits, so a plain hash cannot be reversed."""

    name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    sha256: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]
    created_ms: int = 0
    revoked: bool = False
    models: list[str] = []
    """Models that it may use; empty: all models."""
    requests_per_minute: Annotated[int, Meta(ge=0)] = 0
    concurrent: Annotated[int, Meta(ge=0)] = 0
    tokens_per_day: Annotated[int, Meta(ge=0)] = 0
    """Limits; 0: no limit."""


class KeyFile(msgspec.Struct, frozen=True, kw_only=True):
    """The content of the key file."""

    keys: list[ApiKey] = []


def digest(secret: str) -> str:
    """The hash of a secret; works for any text, also for invalid Unicode."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def new_key(name: str, entropy: str, now_ms: int, **limits: object) -> tuple[str, ApiKey]:
    """A new secret, to be shown once, and the key to store."""
    if name == TOKEN_NAME:
        raise TwdError(FailureCode.BAD_REQUEST, f"{name} is what edge.token is called: name the key otherwise", "name")
    secret = KEY_PREFIX + entropy
    fields = {"name": name, "sha256": digest(secret), "created_ms": now_ms, **limits}
    try:
        return secret, msgspec.convert(fields, ApiKey)
    except msgspec.ValidationError as error:
        raise TwdError(FailureCode.BAD_REQUEST, f"no key can be made of this: {_wrong(error)}", "name") from None


def _wrong(error: msgspec.ValidationError) -> str:
    text = str(error)
    if not text.endswith("at `$.name`"):
        return text
    return "a name has 1 to 64 letters, digits and . _ -, and begins with a letter or digit"


class KeyRing:
    """The keys that are valid now."""

    def __init__(self, keys: list[ApiKey] | None = None, token: str = "") -> None:
        self.keys = keys or []
        self._token = ApiKey(name=TOKEN_NAME, sha256=digest(token)) if token else None

    @property
    def wanted(self) -> bool:
        """Whether a key or token was ever set up. If so, no client has access without one, even if all keys are
        revoked.
        """
        return bool(self.keys) or self._token is not None

    def find(self, secret: str) -> ApiKey | None:
        """The valid key of this secret, or None; all keys are compared in constant time."""
        presented, found = digest(secret), None
        for key in [*self.keys, *([self._token] if self._token else [])]:
            if hmac.compare_digest(presented, key.sha256):
                found = key
        return None if found is None or found.revoked else found

    def named(self, name: str) -> ApiKey | None:
        """The valid key with this name, or None."""
        if self._token is not None and name == self._token.name:
            return self._token
        return next((key for key in self.keys if key.name == name and not key.revoked), None)


class KeyStore:
    """The key file of one installation."""

    def __init__(self, home: Path) -> None:
        self.path = home / FILE_NAME
        self._seen: tuple[int, int, int] | None = None

    def load(self) -> list[ApiKey]:
        """All keys; empty if there is no file."""
        try:
            self._seen = self._stamp()
            return msgspec.json.decode(self.path.read_bytes(), type=KeyFile).keys
        except FileNotFoundError:
            return []
        except (OSError, *NONSENSE) as error:
            text = f"{self.path} cannot be read: {error}. Repair it, or move it away and make new keys."
            raise TwdError(FailureCode.FORBIDDEN, text) from None

    def changed(self) -> bool:
        """Whether the file has changed since the last load."""
        return self._stamp() != self._seen

    def save(self, keys: list[ApiKey]) -> None:
        """Write all keys to a file that only this user can read."""
        write_private(self.path, msgspec.json.format(msgspec.json.encode(KeyFile(keys=keys)), indent=2))

    def add(self, key: ApiKey) -> None:
        """Add a key; its name must be new."""
        with self._alone():
            keys = self.load()
            if any(other.name == key.name for other in keys):
                raise TwdError(FailureCode.BAD_REQUEST, f"there is a key named {key.name!r} already", "name")
            self.save([*keys, key])

    def revoke(self, name: str) -> None:
        """Revoke a key; its record stays in the file."""
        with self._alone():
            keys = self.load()
            if not any(key.name == name and not key.revoked for key in keys):
                known = ", ".join(key.name for key in keys if not key.revoked) or "none"
                raise TwdError(FailureCode.BAD_REQUEST, f"there is no key named {name!r}; known: {known}", "name")
            self.save([msgspec.structs.replace(key, revoked=key.revoked or key.name == name) for key in keys])

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Lock the file, so that two changes at the same time are both kept."""
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(self.path.with_name(f".{FILE_NAME}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            if not platform.lock_within(descriptor, LOCK_PATIENCE_S):
                raise TwdError(FailureCode.BUSY, f"another process changes {self.path}; try again")
            yield
        finally:
            os.close(descriptor)

    def _stamp(self) -> tuple[int, int, int] | None:
        try:
            stat = self.path.stat()
        except OSError:  # it is missing, or cannot be read: then the next `load` raises
            return None
        return stat.st_mtime_ns, stat.st_size, stat.st_ino
