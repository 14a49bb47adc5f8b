"""The file with all tokens and machines of an installation, and the list of users that the broker reads."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from twd.bus.broker import BrokerUsers
from twd.bus.key_permissions import Credential, render_user
from twd.bus.permissions import ROLE_NAMES
from twd.bus.seeds import draw_raw, public_key_of, read_or_draw, seed_of
from twd.membership.core import VERSION, Members, users_of
from twd.membership.roles import JOINER, MEMBER
from twd.private_file import write_private
from twd.process import platform
from twd.wire.failures import FailureCode, TwdError
from twd.wire.names import subject_token
from twd.wire.reading import NONSENSE

FILE_NAME: Final = "members.json"
OWN_ROLES: Final = tuple(role for role in ROLE_NAMES if role not in (JOINER, MEMBER))
LOCK_PATIENCE_S: Final = 5.0


class _Version(msgspec.Struct):
    version: int = 0


class MemberStore:
    """Tokens and machines of the installation in `home`."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.path = home / FILE_NAME
        self.keys = home / "broker" / "keys"
        """Seeds of the broker's own machine, and of those that it plays: a folder for each."""
        self.users_file = home / "broker" / "users.conf"
        self.probe_file = home / "broker" / "probe.nk"
        """The seed of a user without any rights, drawn anew for each list: who gets in with it sees that list."""

    def load(self) -> Members:
        """Read the file; without one there are no members. A file that cannot be used stays as it is."""
        try:
            data = self.path.read_bytes()
            newer = msgspec.json.decode(data, type=_Version).version > VERSION
            members = Members() if newer else msgspec.json.decode(data, type=Members)
        except FileNotFoundError:
            return Members()
        except (OSError, *NONSENSE) as error:
            text = f"{self.path} cannot be read: {error}. Repair it, or move it away: then all machines must join again"
            raise TwdError(FailureCode.FORBIDDEN, text) from None
        if newer:
            text = f"{self.path} was written by a newer version of twd; it is left as it is. Install that version again"
            raise TwdError(FailureCode.FORBIDDEN, text)
        return members

    def change(self, decide: Callable[[Members], Members]) -> Members:
        """Change the file and the broker's list in one go, while nobody else does; returns the members then."""
        with self._alone():
            members = decide(self.load())
            encoded = msgspec.json.format(msgspec.json.encode(members), indent=2)
            write_private(self.path, encoded + b"\n")
            self._write_users(members)
        return members

    def write_users(self) -> None:
        """Write the broker's list of users anew."""
        self.keys.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._alone():
            self._write_users(self.load())

    def for_broker(self, node: str, played: tuple[str, ...] = ()) -> BrokerUsers:
        """Return what the broker here needs; this machine, and those that it plays, get a key of each role."""

        def prepare() -> None:
            for name in (node, *played):
                for role in OWN_ROLES:
                    read_or_draw(self.keys_of(name) / f"{role}.nk")
            self.write_users()

        return BrokerUsers(self.keys_of(node), self.users_file, prepare)

    def keys_of(self, node: str) -> Path:
        """Return the folder with the seeds of a machine of our own."""
        return self.keys / subject_token(node)

    def own_nodes(self) -> list[str]:
        """Return the names of the broker's machine, those that it had and those that it plays."""
        return sorted(folder.name for folder in self.keys.glob("*") if folder.is_dir())

    def _write_users(self, members: Members) -> None:
        probe = seed_of(draw_raw())
        write_private(self.probe_file, probe + b"\n")
        lines = [f'{{ nkey: {public_key_of(probe)}, permissions: {{ publish: {{ deny: [">"] }} }} }}\n']
        for node in self.own_nodes():
            for role in OWN_ROLES:
                key = read_or_draw(self.keys_of(node) / f"{role}.nk")
                lines.append(render_user(key, Credential(role, node)))
        lines += [render_user(key, credential) for key, credential in users_of(members, time.time_ns() // 1_000_000)]
        write_private(self.users_file, f"users: [\n{''.join(lines)}]\n".encode())

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Lock the file, so that two changes at the same time are both kept."""
        self.home.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(self.home / f".{FILE_NAME}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            if not platform.lock_within(descriptor, LOCK_PATIENCE_S):
                raise TwdError(FailureCode.BUSY, f"another process changes {self.path}; try again")
            yield
        finally:
            os.close(descriptor)
