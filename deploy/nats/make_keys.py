#!/usr/bin/env python3
"""Make an nkey for every role on every machine: make_keys.py [MACHINES.yaml [FOLDER]]

`MACHINE/ROLE.nk` are the seeds, which only their owner can read: give each machine its own folder, as `bus.nkey_dir`.
`users.conf` has the public keys and what each may do, for the broker. Keys that are there stay. To take a key away,
delete it from MACHINES.yaml, run this again and reload the broker. `edge.token` is the bearer token of the API.
"""

import os
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path

import nkeys
import yaml

from twd.bus.key_permissions import ANY_MODEL, Credential, render_user
from twd.bus.permissions import ROLE_NAMES

HERE = Path(__file__).parent


def credentials(machines: object) -> Iterator[Credential]:
    """What the file says, or an error that names what is wrong in it."""
    if not isinstance(machines, dict):
        sys.exit("write machines, and below each its roles: see machines.yaml")
    for machine, roles in machines.items():
        for role, models in (roles or {}).items():
            if role not in ROLE_NAMES:
                sys.exit(f"{machine}: there is no role {role!r}; there are {', '.join(ROLE_NAMES)}")
            if not isinstance(models, list | None) or not all(isinstance(model, str) for model in models or ()):
                sys.exit(f"{machine}: {role}: write models as a list, for example [smollm2]")
            yield Credential(role, str(machine), tuple(models or (ANY_MODEL,)))


def public_key(seed_file: Path) -> str:
    """The public half of a key, which is drawn first where it is missing."""
    if not seed_file.exists():
        seed_file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(seed_file, nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER) + b"\n")
    pair = nkeys.from_seed(bytearray(seed_file.read_bytes().strip()))
    return str(pair.public_key.decode())


def write_private(path: Path, content: bytes) -> None:
    """Create a file that only its owner can read."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(content)


def main(machines: Path, folder: Path) -> None:
    """Make what is missing."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    given = list(credentials(yaml.safe_load(machines.read_text())))
    users = [render_user(public_key(folder / one.machine / f"{one.role}.nk"), one) for one in given]
    (folder / "users.conf").write_text(f"users: [\n{''.join(users)}]\n")
    token = folder / "edge.token"
    if not token.exists():
        write_private(token, secrets.token_urlsafe(32).encode() + b"\n")
    named = ", ".join(f"{one.machine}/{one.role}" for one in given)
    sys.stdout.write(f"{folder}: {named}\n")


if __name__ == "__main__":
    main(
        Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "machines.yaml",
        Path(sys.argv[2]) if len(sys.argv) > 2 else HERE / "keys",
    )
