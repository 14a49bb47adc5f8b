"""Proves to the service that a command runs as the owner of this machine: both read a key in the state folder."""

import hmac
import secrets
from pathlib import Path

from twd.private_file import write_private


def _file(home: Path) -> Path:
    return home / "run" / "swarm.key"


def make_key(home: Path) -> bytes:
    """Write and return a new key, readable for this user only."""
    key = secrets.token_hex(32).encode()
    _file(home).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_private(_file(home), key)
    return key


def proof_of(key: bytes, *parts: str) -> str:
    """Return a proof (HMAC) that the caller knows the key."""
    return hmac.digest(key, "\0".join(parts).encode(), "sha256").hex()


def proof_here(home: Path, *parts: str) -> str:
    """Return the proof for a command; empty if it cannot read the key."""
    try:
        return proof_of(_file(home).read_bytes(), *parts)
    except OSError:
        return ""


def proves(key: bytes, proof: str, *parts: str) -> bool:
    """Return whether a proof is valid."""
    return hmac.compare_digest(proof_of(key, *parts).encode(), proof.encode("utf-8", "replace"))
