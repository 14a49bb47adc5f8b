#!/usr/bin/env python3
"""Make an nkey for every role: make_keys.py [FOLDER]

The seeds (`ROLE.nk`, for the service's `bus.nkey_file`) can be read by their owner only; `public.conf` has the public
keys for the broker. Keys that are there stay. To take a key away, delete its seed, run this again and reload the
broker. `edge.token` is the bearer token of the API.
"""

import os
import secrets
import sys
from pathlib import Path

import nkeys

from twd.bus.permissions import ROLE_NAMES


def public_key(seed_file: Path) -> str:
    """The public half of a role's key, which is drawn first where it is missing."""
    if not seed_file.exists():
        write_private(seed_file, nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER) + b"\n")
    pair = nkeys.from_seed(bytearray(seed_file.read_bytes().strip()))
    return str(pair.public_key.decode())


def write_private(path: Path, content: bytes) -> None:
    """Create a file that only its owner can read."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(content)


def main(folder: Path) -> None:
    """Make what is missing."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    keys = {role: public_key(folder / f"{role}.nk") for role in ROLE_NAMES}
    lines = [f"{role}_key: {key}\n" for role, key in keys.items()]
    (folder / "public.conf").write_text("".join(lines))
    token = folder / "edge.token"
    if not token.exists():
        write_private(token, secrets.token_urlsafe(32).encode() + b"\n")
    sys.stdout.write(f"{folder}: keys for {', '.join(keys)}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "keys")
