"""Finds the manifests of a wanted model: in the own library, or at the machines of this bus that have its files."""

import asyncio
import time
from collections.abc import Sequence
from typing import Final

from twd.pieces.layers import check_together
from twd.pieces.manifest import Manifest, Shard
from twd.pieces.signing import check_signer
from twd.swarm.first_answer import LATE_S, AskedMachine, first_answer
from twd.swarm.library import Library
from twd.swarm.machines import Certificates, Machine, find_file
from twd.swarm.peer import Peers
from twd.swarm.shared import Shared
from twd.wire.failures import FailureCode, TwdError
from twd.wire.swarm import PullWanted, SharedFile

ADMITTED_S: Final = 4.0
"""Seconds until the other machines have seen a new machine in the registry and admit it."""
AGAIN_S: Final = 0.3
READ_LATE_S: Final = 20.0
"""After so many seconds without the manifest of a file that must be read for it, another machine reads it, too."""


class ManifestFinder:
    """Asks the machines of this bus for manifests, and checks who signed them."""

    def __init__(self, library: Library, peers: Peers, certificates: Certificates, signers: Sequence[str]) -> None:
        self._library, self._peers, self._certificates = library, peers, certificates
        self._signers = signers

    async def find(self, event: PullWanted, machines: Sequence[Machine]) -> list[Manifest]:
        """Return the manifests of the wanted model's files; raises TwdError where nobody has one, or its signer is none
        of ours. A wish by root is for that file alone, unless it is for layers or headers."""
        first, giver = await self._first(event, machines)
        several = first.model_hash and (event.layers is not None or event.headers or not event.root)
        others = [await self._other(shard, giver, machines) for shard in (first.shards[1:] if several else ())]
        found = [first, *others]
        if others:
            check_together(found)
        for manifest in found:
            check_signer(manifest, self._signers)
        return found

    async def _other(self, shard: Shard, giver: Sequence[Machine], machines: Sequence[Machine]) -> Manifest:
        """Return the manifest of one more file of a split model; who gave the first one has made them all."""
        own = self._library.find(shard.root)
        if own is not None:
            return own.manifest
        wanted = SharedFile(file=shard.filename, size=shard.size, root=shard.root)
        holders = (*giver, *(one for one in machines if one.has(shard.root) and one not in giver))
        try:
            found, _ = await first_answer(self._asked(machine, wanted) for machine in holders)
        except TwdError as error:
            why = str(error) or "no machine of this bus shares it"
            text = f"the manifest of {shard.filename} does not come: {why}"
            raise TwdError(FailureCode.NO_SOURCE, text) from None
        return found

    async def _first(self, event: PullWanted, machines: Sequence[Machine]) -> tuple[Manifest, Sequence[Machine]]:
        """Return the manifest of the wanted file, and which machine gave it."""
        own = self._own(event)
        if own is not None:
            return own.manifest, ()
        found = find_file(machines, event.root, event.file, event.hash)
        _check_one(event, found, machines)
        give_up = time.monotonic() + ADMITTED_S
        while True:
            try:
                order = sorted(found, key=lambda pair: not pair[1].root)  # the others must read it first
                manifest, giver = await first_answer(self._asked(machine, one) for machine, one in order)
                return manifest, [giver]
            except TwdError:
                if time.monotonic() > give_up:
                    raise
            await asyncio.sleep(AGAIN_S)

    def _own(self, event: PullWanted) -> Shared | None:
        if event.root:
            return self._library.find(event.root)
        named = (shared for shared in self._library if event.hash and shared.manifest.hash == event.hash)
        return next(named, None)

    def _asked(self, machine: Machine, one: SharedFile) -> AskedMachine[tuple[Manifest, Machine]]:
        """One machine to ask for a manifest; who must read the file first may take long."""

        async def ask() -> tuple[Manifest, Machine]:
            return await self._manifest_from(machine, one), machine

        return AskedMachine(ask, LATE_S if one.root else READ_LATE_S)

    async def _manifest_from(self, machine: Machine, one: SharedFile) -> Manifest:
        where = f"{one.root}/manifest" if one.root else f"by-hash/{one.hash}"
        context = self._certificates.client(machine.door.certificate)
        found = await self._peers.manifest(f"{machine.url}/v1/swarm/{where}", context, patient=not one.root)
        if (one.root and found.name != one.root) or (not one.root and found.hash != one.hash):
            text = f"{machine.node} gave the manifest of another file than {one.file}"
            raise TwdError(FailureCode.WRONG_BYTES, text)
        return found


def _check_one(event: PullWanted, found: Sequence[tuple[Machine, SharedFile]], machines: Sequence[Machine]) -> None:
    """Raise TwdError if no machine has the file, or if its name is ambiguous."""
    name = event.file or event.root[:12] or event.hash[:12]
    if not found:
        there = sorted({one.file for machine in machines for one in machine.files})
        listed = f"; there is: {', '.join(there[:8])}" if there else "; no machine of this bus shares any"
        raise TwdError(FailureCode.NO_SOURCE, f"no machine of this bus has {name!r}{listed}")
    roots, hashes = {one.root for _, one in found if one.root}, {one.hash for _, one in found if one.hash}
    if len(roots) > 1 or len(hashes) > 1:
        listed = ", ".join(sorted(f"{one.root[:12] or one.hash[:12]} at {machine.node}" for machine, one in found))
        text = f"several files are called {name!r}: {listed}; name the one that is meant by its root"
        raise TwdError(FailureCode.BAD_REQUEST, text, "file")
