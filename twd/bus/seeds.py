"""Nkeys: a secret seed, and the public key that follows from it. Who signs in proves the seed and does not send it."""

import os
import re
from pathlib import Path
from typing import Final

from twd.private_file import create_private

PUBLIC_KEY: Final = re.compile(r"U[A-Z2-7]{55}")
RAW_BYTES: Final = 32


def seed_of(raw: bytes) -> bytes:
    """Return the seed of a user, in nkeys' text form, from 32 random bytes."""
    import nkeys

    return bytes(nkeys.encode_seed(raw, nkeys.PREFIX_BYTE_USER))


def draw_raw() -> bytes:
    """Draw what a seed is made of."""
    return os.urandom(RAW_BYTES)


def public_key_of(seed: bytes) -> str:
    """Return the public key of a seed."""
    import nkeys

    return str(nkeys.from_seed(bytearray(seed.strip())).public_key.decode())


def signature(seed: bytes, nonce: bytes) -> bytes:
    """Sign what the broker asks to have signed."""
    import nkeys

    return bytes(nkeys.from_seed(bytearray(seed.strip())).sign(nonce))


def read_or_draw(file: Path) -> str:
    """Return the public key of the seed in a file of its owner; a missing seed is drawn."""
    if not file.exists():
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        create_private(file, seed_of(draw_raw()) + b"\n")
    return public_key_of(file.read_bytes())
