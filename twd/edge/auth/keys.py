"""Named keys, hashed at rest: the file, and finding the key that a secret belongs to."""

import hashlib
import hmac
import os
import time
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
"""What the one token of the settings goes by. A key of this name would pass for it once its browser has logged in."""
FILE_NAME = "keys.json"
LOCK_PATIENCE_S: Final = 5.0


class ApiKey(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One key. The secret is 256 random bits, so a plain hash of it cannot be turned round."""

    name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    sha256: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]
    created_ms: int = 0
    revoked: bool = False
    models: list[str] = []
    """Models that it may use; empty: all."""
    requests_per_minute: Annotated[int, Meta(ge=0)] = 0
    concurrent: Annotated[int, Meta(ge=0)] = 0
    tokens_per_day: Annotated[int, Meta(ge=0)] = 0
    """Limits; 0: none."""


class KeyFile(msgspec.Struct, frozen=True, kw_only=True):
    """What is written down."""

    keys: list[ApiKey] = []


def digest(secret: str) -> str:
    """The hash under which a secret is kept; any text has one, also what is no valid Unicode."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def new_key(name: str, entropy: str, now_ms: int, **limits: object) -> tuple[str, ApiKey]:
    """A secret to show once, and the key to keep."""
    if name == TOKEN_NAME:
        raise TwdError(FailureCode.BAD_REQUEST, f"{name} is what edge.token is called: name the key otherwise", "name")
    secret = KEY_PREFIX + entropy
    fields = {"name": name, "sha256": digest(secret), "created_ms": now_ms, **limits}
    try:
        return secret, msgspec.convert(fields, ApiKey)
    except msgspec.ValidationError as error:
        raise TwdError(FailureCode.BAD_REQUEST, f"no key can be made of this: {error}", "name") from None


class KeyRing:
    """The keys that count now."""

    def __init__(self, keys: list[ApiKey] | None = None, token: str = "") -> None:
        self.keys = keys or []
        self._token = ApiKey(name=TOKEN_NAME, sha256=digest(token)) if token else None

    @property
    def wanted(self) -> bool:
        """Whether somebody set up a key, even one that is revoked since: then nobody enters without one."""
        return bool(self.keys) or self._token is not None

    def find(self, secret: str) -> ApiKey | None:
        """The key that this secret belongs to, compared with all of them in constant time."""
        presented, found = digest(secret), None
        for key in [*self.keys, *([self._token] if self._token else [])]:
            if hmac.compare_digest(presented, key.sha256):
                found = key
        return None if found is None or found.revoked else found

    def named(self, name: str) -> ApiKey | None:
        """A key that still counts, by name."""
        if self._token is not None and name == self._token.name:
            return self._token
        return next((key for key in self.keys if key.name == name and not key.revoked), None)


class KeyStore:
    """The file with the keys of one installation."""

    def __init__(self, home: Path) -> None:
        self.path = home / FILE_NAME
        self._seen: tuple[int, int, int] | None = None

    def load(self) -> list[ApiKey]:
        """All keys; none where no file is."""
        try:
            self._seen = self._stamp()
            return msgspec.json.decode(self.path.read_bytes(), type=KeyFile).keys
        except FileNotFoundError:
            return []
        except (OSError, *NONSENSE) as error:
            text = f"{self.path} cannot be read: {error}. Repair it, or move it away and make new keys."
            raise TwdError(FailureCode.FORBIDDEN, text) from None

    def changed(self) -> bool:
        """Whether the file is another one than at the last load."""
        return self._stamp() != self._seen

    def save(self, keys: list[ApiKey]) -> None:
        """Write all keys, for this user only."""
        write_private(self.path, msgspec.json.format(msgspec.json.encode(KeyFile(keys=keys)), indent=2))

    def add(self, key: ApiKey) -> None:
        """Add a key with a name of its own."""
        with self._alone():
            keys = self.load()
            if any(other.name == key.name for other in keys):
                raise TwdError(FailureCode.BAD_REQUEST, f"there is a key named {key.name!r} already", "name")
            self.save([*keys, key])

    def revoke(self, name: str) -> None:
        """End a key; its record stays, so that the name tells what happened."""
        with self._alone():
            keys = self.load()
            if not any(key.name == name and not key.revoked for key in keys):
                known = ", ".join(key.name for key in keys if not key.revoked) or "none"
                raise TwdError(FailureCode.BAD_REQUEST, f"there is no key named {name!r}; known: {known}", "name")
            self.save([msgspec.structs.replace(key, revoked=key.revoked or key.name == name) for key in keys])

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Nobody else changes the file meanwhile: of two changes at once both are kept."""
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(self.path.with_name(f".{FILE_NAME}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            give_up = time.monotonic() + LOCK_PATIENCE_S
            while not platform.try_lock(descriptor):
                if time.monotonic() > give_up:
                    raise TwdError(FailureCode.BUSY, f"another process changes {self.path}; try again")
                time.sleep(0.01)
            yield
        finally:
            os.close(descriptor)

    def _stamp(self) -> tuple[int, int, int] | None:
        try:
            stat = self.path.stat()
        except OSError:  # not there; or not to be seen, which the next `load` tells
            return None
        return stat.st_mtime_ns, stat.st_size, stat.st_ino
