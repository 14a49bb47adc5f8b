"""The other machines of the bus: their address, certificate and files."""

import ssl
from collections.abc import Iterable
from typing import NamedTuple

from twd.bus.base import LeaseEntry
from twd.net.addresses import bracketed
from twd.ring.trust import LinkIdentity, client_context, server_context
from twd.wire.base import NodeId
from twd.wire.failures import TwdError
from twd.wire.leases.machine import SwarmFacts
from twd.wire.service import read_lease, told_by
from twd.wire.swarm import HubFacts, SharedFile, SwarmDoor

SERVICE = "swarm."


class Machine(NamedTuple):
    """The swarm service of another machine."""

    node: NodeId
    door: SwarmDoor
    files: list[SharedFile]
    hub: HubFacts = HubFacts()

    @property
    def url(self) -> str:
        """The URL of its seeder."""
        scheme = "https" if self.door.certificate else "http"
        return f"{scheme}://{bracketed(self.door.host)}:{self.door.port}"

    def has(self, root: str) -> bool:
        """Return whether it has the file with this root, or a part of it."""
        return any(one.root == root for one in self.files)


def machines_of(entries: Iterable[LeaseEntry], own_instance: str) -> list[Machine]:
    """Return the machines from the leases of the registry; invalid leases are ignored."""
    others = (entry for entry in entries if entry.key.startswith(SERVICE) and entry.key != own_instance)
    leases = (read_lease(entry.value, entry.key) for entry in others)
    return [
        Machine(lease.node, facts.door, facts.files, facts.hub)
        for lease, facts in told_by(leases, SwarmFacts)
        if facts.door is not None
    ]


def find_file(machines: Iterable[Machine], root: str, name: str, quick: str) -> list[tuple[Machine, SharedFile]]:
    """Return who has the file: by root, else by quick hash, else by name."""
    listed = [(machine, one) for machine in machines for one in machine.files]
    if root:
        return [pair for pair in listed if pair[1].root == root]
    if quick:
        return [pair for pair in listed if pair[1].hash == quick]
    return [pair for pair in listed if name in _names(pair[1])]


def _names(one: SharedFile) -> tuple[str, ...]:
    """Return the names by which a file is asked for; the first file of a split model stands for all of it."""
    stem = one.file.removesuffix(".gguf")
    return one.file, stem, one.root, stem.split("-00001-of-")[0]


class Certificates:
    """The certificates that our port admits, and the TLS contexts for other machines."""

    def __init__(self, identity: LinkIdentity) -> None:
        self.identity = identity
        self.server = server_context(identity, [identity.certificate])
        self._admitted: set[str] = set()
        self._clients: dict[str, ssl.SSLContext] = {}

    def admit(self, machines: Iterable[Machine]) -> None:
        """Admit these machines. None is ever removed: a key ends with its process."""
        for machine in machines:
            certificate = machine.door.certificate
            if certificate and certificate not in self._admitted:
                self._admitted.add(certificate)
                try:
                    self.server.load_verify_locations(cadata=certificate)
                except (ssl.SSLError, ValueError):
                    continue

    def client(self, certificate: str) -> ssl.SSLContext | None:
        """Return the TLS context for the holder of a certificate; None without TLS, or if it cannot be read."""
        if not certificate:
            return None
        if certificate not in self._clients:
            try:
                self._clients[certificate] = client_context(self.identity, certificate)
            except TwdError:
                return None
        return self._clients[certificate]
