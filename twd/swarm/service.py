"""The swarm service: gives this machine's model files to other machines, and pulls files that are wanted here."""

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from twd.bus.base import BusError
from twd.gguf_tools.model_file import read_model
from twd.kit.effects import Do
from twd.kit.service import LEASE_BUCKET, LEASE_TTL_S, Effects, Reply, Service, ServiceContext
from twd.kit.tasks import every
from twd.models.environment import read_hub_environment
from twd.models.stores import stores_here
from twd.net.addresses import is_loopback, told_host
from twd.pieces.making import files_of, known_manifests, manifests_for
from twd.pieces.manifest import Manifest, check_piece_size, load_manifest
from twd.pieces.names import manifest_of
from twd.pieces.parts import PartFolder
from twd.process.home import StateFolder
from twd.ring.trust import make_identity
from twd.settings.model import Settings
from twd.settings.paths import path_of
from twd.swarm.door import Door, check_bind, host_for
from twd.swarm.header_pulls import HeaderPulls
from twd.swarm.hub.claim import TURN_S, HubClaim
from twd.swarm.hub.pulls import HubPulls
from twd.swarm.layer_pulls import LayerPulls, Wish
from twd.swarm.library import Library
from twd.swarm.local_key import make_key, proves
from twd.swarm.machines import Certificates, Machine, machines_of
from twd.swarm.pace import Pace
from twd.swarm.peer import Peers
from twd.swarm.pulls import Pulls
from twd.swarm.seeder import Seeder
from twd.swarm.shared import Shared
from twd.wire.base import Event, NodeId
from twd.wire.failures import Failure, FailureCode, TwdError
from twd.wire.leases.machine import SwarmFacts
from twd.wire.node import ModelFile, NodeChanged, read_node
from twd.wire.routes import ROUTE_OF
from twd.wire.swarm import (
    PeerBanned,
    PullAnswered,
    PullFailed,
    PullFinished,
    PullProgressed,
    PullUnwanted,
    PullWanted,
    SeedChanged,
    SharedFile,
    Store,
    SwarmDoor,
)

LOOK_S: Final = 1.0
TELL_S: Final = 0.5
SLICES_MAX: Final = 512


class Swarm(Service):
    """Gives and pulls model files; one runs on each machine."""

    name = "swarm"
    reads = (PullWanted, PullUnwanted, NodeChanged)
    writes = (PullAnswered, PullProgressed, PullFinished, PullFailed, SeedChanged, PeerBanned)

    def __init__(self, ctx: ServiceContext, settings: Settings) -> None:
        super().__init__(ctx)
        self._settings = settings
        self._library = Library()
        self._certificates = Certificates(make_identity(f"swarm.{ctx.node}"))
        self._door: SwarmDoor | None = None
        self._unread: dict[str, ModelFile] = {}
        """Models of this machine without a manifest, by quick hash."""
        self._machines: list[Machine] = []
        self._reading = asyncio.Lock()
        self._key = b""
        self.url = ""

    # -- life ----------------------------------------------------------------------------------

    async def setup(self) -> None:
        """Open both ports, find the files that are here, and continue earlier pulls."""
        home = self._settings.home_dir
        self._key = make_key(home)
        (home / "models").mkdir(parents=True, exist_ok=True, mode=0o700)
        swarm = self._settings.swarm
        self._seeder = Seeder(self._library, swarm.upload_mib_s, make=self._made)
        self._peers = Peers(swarm.token)
        pace = Pace(swarm.download_mib_s)
        self._pulls = Pulls(self._library, self._peers, self._certificates, swarm, pace, self)
        folder = StateFolder(home)
        parts = PartFolder.of(folder.cache, swarm.disk_gib)
        self._layers = LayerPulls(self._pulls, lambda: self._machines, parts, folder.slices, self)
        headers = folder.cache / "headers"
        self._headers = HeaderPulls(self._pulls, self._library, lambda: self._machines, parts, headers, self.ctx.node)
        self._pulls.parts = parts
        self._pulls.stores = stores_here(os.environ, Path.home(), self._folders())
        self._hub = self._hub_pulls(pace)
        await self._open_ports()
        await self._look()
        await self._read_models()
        await self._share(await asyncio.to_thread(self._drafters))
        await self._share_parts(parts)
        self.tasks.start("look", every(LOOK_S, self._look))
        self.tasks.start("turn", every(TURN_S, self._hub.turn))
        self.tasks.start("tell", every(TELL_S, self._tell))
        self._pulls.go_on(self._folders())
        self._hub.go_on(self._folders())

    def _hub_pulls(self, pace: Pace) -> HubPulls:
        hub = HubPulls(
            self._library,
            self._peers,
            self._certificates,
            self._settings.swarm,
            pace,
            self,
            lambda sha256: HubClaim(self.bus, self.instance, sha256),
        )
        hub.stores = self._pulls.stores
        try:
            hub.environment = read_hub_environment(os.environ, Path.home())
        except TwdError as error:
            self.log.warning("%s; files of hubs come without it", error)
        return hub

    async def _listen(self, host: str, port: int, door: Door) -> int:
        """Open this port; on the loopback another one if it is taken. Return the port."""
        try:
            return await self._seeder.listen(host, port, door)
        except TwdError:
            if not port or not is_loopback(host):
                raise
            self.log.warning("port %d is taken; the seeder takes a free one", port)
            return await self._seeder.listen(host, 0, door)

    async def _open_ports(self) -> None:
        """Open two ports: one for clients with the token, one for the machines of this bus."""
        swarm, pool = self._settings.swarm, self._settings.pool
        host = host_for(swarm.host, swarm.token)
        check_bind(host, swarm.token)
        door = Door(swarm.token, swarm.allowed_ips)
        port = await self._listen(host, swarm.port, door)
        self.url = f"http://{told_host(host)}:{port}"
        plain = pool.trusted_lan
        context = None if plain else self._certificates.server
        between = await self._seeder.listen(pool.host, 0, Door(open=True), context)
        certificate = "" if plain else self._certificates.identity.certificate
        self._door = SwarmDoor(host=told_host(pool.host), port=between, certificate=certificate)

    async def teardown(self) -> None:
        """Stop all pulls, and close the ports."""
        await self._layers.close()
        await self._hub.close()
        await self._pulls.close()
        await self._peers.close()
        await self._seeder.close()
        self._library.close()

    def facts(self) -> SwarmFacts:
        """Return where this machine gives files, and which."""
        return SwarmFacts(
            url=self.url,
            pulling=[one.manifest.filename for one in self._pulls.running],
            files=self._files(),
            store=self._store(),
            hub=self._hub.facts(),
            door=self._door,
        )

    def _store(self) -> Store:
        return Store(
            accepts=self._accepts,
            room_bytes=self._layers.parts.room() // 2,  # a slice is cut beside
            slices=self._layers.slices()[:SLICES_MAX],
            fetching=self._layers.fetching(),
        )

    @property
    def _accepts(self) -> bool:
        """Whether others may ask this machine to take models in."""
        return not is_loopback(self._settings.pool.host) or self._settings.swarm.accept

    def _files(self) -> list[SharedFile]:
        read = [
            SharedFile(
                file=shared.manifest.filename,
                size=shared.manifest.model_bytes,
                root=shared.name,
                have=have,
                units=units,
                hash=shared.manifest.hash,
            )
            for shared in self._library
            for have, units in [self._library.units(shared)]
            if shared.name != shared.manifest.sha256  # on its way from a hub
        ]
        unread = [
            SharedFile(file=Path(one.path).name, size=one.size_bytes, hash=one.hash) for one in self._unread.values()
        ]
        return read + unread

    # -- what is here ------------------------------------------------------------------------------

    def _folders(self) -> list[Path]:
        return [self._settings.home_dir / "models", *map(path_of, self._settings.agent.model_dirs)]

    async def _read_models(self) -> None:
        """Read the models of this machine from its agent's lease, if there is one already."""
        try:
            leases = await self.bus.leases(LEASE_BUCKET, LEASE_TTL_S)
            entries = await leases.entries()
        except BusError:
            return
        facts = [read_node(entry.value, entry.key) for entry in entries if entry.key.startswith("agent.")]
        own = [one for one in facts if one is not None and one.node == self.ctx.node]
        for one in own:
            await self._share(one.models)

    def on_node_changed(self, event: NodeChanged) -> Effects:
        """The agent of this machine found other models."""
        if event.node != self.ctx.node:
            return None
        return [Do("share", lambda: self._share(event.facts.models))]

    def _drafters(self) -> list[ModelFile]:
        """Return the draft models of the settings: agents list folders only."""
        paths = (path_of(one.path) for one in self._settings.drafters if one.path)
        return [read_model(path) for path in paths if path.is_file()]

    async def _share(self, models: Sequence[ModelFile]) -> None:
        """Share files with a manifest at once; the others when somebody asks for them."""
        known = {shared.path: shared.manifest.hash for shared in self._library}
        for model in models:
            path = Path(model.path)
            if model.problem or known.get(path) in (model.hash, ""):
                continue
            made = await asyncio.to_thread(known_manifests, path)
            if made is None:
                self._unread[model.hash] = model
            else:
                self._add_all(made, path)
        await self.renew_lease()

    async def _share_parts(self, parts: PartFolder) -> None:
        """Share the partial files that were fetched for their layers earlier."""
        for one in await asyncio.to_thread(parts.contents):
            try:
                manifest = await asyncio.to_thread(load_manifest, manifest_of(one.target))
                shared = await asyncio.to_thread(Shared.kept, manifest, one.target)
            except (TwdError, OSError) as error:
                self.log.warning("%s is not shared: %s", one.path, error)
                continue
            if shared is not None:
                self._library.add(shared)

    def _add_all(self, manifests: Sequence[Manifest], path: Path) -> None:
        for manifest, file in zip(manifests, files_of(path), strict=True):
            self._add(manifest, file)

    def _add(self, manifest: Manifest, path: Path) -> None:
        try:
            shared = Shared.whole(manifest, path)
        except TwdError as error:
            self.log.warning("%s is not shared: %s", path, error)
            return
        self._library.add(shared)
        self.tell_seed(shared)

    def tell_seed(self, shared: Shared) -> None:
        """Publish which units of a file are here."""
        self._unread.pop(shared.manifest.hash, None)
        self.emit(
            SeedChanged(
                node=self.ctx.node,
                root=shared.name,
                file=shared.manifest.filename,
                have=shared.have.count,
                units=len(shared.have),
            )
        )

    async def _made(self, quick: str) -> Manifest:
        """Return the manifest of a model that was not read yet; the first request waits until it is read."""
        async with self._reading:
            for shared in self._library:
                if shared.manifest.hash == quick:
                    return shared.manifest
            model = self._unread.get(quick)
            if model is None:
                raise TwdError(FailureCode.MODEL_NOT_FOUND, "there is no model with this hash here")
            piece = check_piece_size(self._settings.swarm.piece_size_mib)
            made = await asyncio.to_thread(manifests_for, Path(model.path), piece)
            self._add_all(made, Path(model.path))
            await self.renew_lease()
            return made[0]

    # -- the others --------------------------------------------------------------------------------

    async def _look(self) -> None:
        """Read which machines are there: admit their certificates, and use them as sources."""
        try:
            leases = await self.bus.leases(LEASE_BUCKET, LEASE_TTL_S)
            self._machines = machines_of(await leases.entries(), self.instance)
        except BusError as error:
            self.log.warning("the registry could not be read: %s", error)
            return
        self._certificates.admit(self._machines)
        self._pulls.meet(self._machines)
        self._library.drop_removed()
        self._hub.meet(self._machines)

    async def _tell(self) -> None:
        for progressed in (*self._pulls.progressed(), *self._layers.progressed(), *self._hub.progressed()):
            self.emit(progressed)

    def said(self, event: Event) -> None:
        """Publish an event of a pull."""
        self.emit(event)
        if isinstance(event, PullFinished | PullFailed):
            self.tasks.start("renew", self.renew_lease())

    @property
    def node(self) -> NodeId:
        """This machine."""
        return self.ctx.node

    # -- wishes ------------------------------------------------------------------------------------

    def pattern(self, event_type: type[Event]) -> str:
        """Return the subject pattern for requests to this machine."""
        if event_type is NodeChanged:
            return super().pattern(event_type)
        return ROUTE_OF[event_type].pattern_for(node=self.ctx.node)

    def on_pull_wanted(self, event: PullWanted, reply: Reply) -> Effects:
        """Start a pull, and answer when it has begun, or why it has not."""
        return [Do(f"pull {event.file or event.root[:12]}", lambda: self._answer(event, reply))]

    def on_pull_unwanted(self, event: PullUnwanted, reply: Reply) -> Effects:
        """Stop a pull."""

        async def stop() -> None:
            if event.layers is not None:
                await self._layers.stop(Wish(event.hash, event.layers))
            else:
                await self._pulls.stop(event.root)
                await self._hub.stop(event.root)
            reply(PullAnswered(node=self.ctx.node, root=event.root))

        return [Do(f"stop {event.root[:12]}", stop)]

    async def _answer(self, event: PullWanted, reply: Reply) -> None:
        try:
            folder = self._settings.home_dir if event.headers else self._check(event)
            await self._look()
            if event.headers:
                answer = await self._headers.fetch(event)
            elif event.layers is not None:
                answer = await self._layers.begin(event, folder if event.dest else None)
            elif event.spec:
                answer = await self._hub.begin(event, folder, self._machines)
            else:
                answer = await self._pulls.begin(event, folder, self._machines)
            await self.renew_lease()
        except TwdError as error:
            answer = PullAnswered(node=self.ctx.node, root=event.root, file=event.file, failure=error.failure)
        except OSError as error:
            failure = Failure(code=FailureCode.BAD_REQUEST, message=f"{event.dest or event.file}: {error}")
            answer = PullAnswered(node=self.ctx.node, root=event.root, file=event.file, failure=failure)
        reply(answer)

    def _check(self, event: PullWanted) -> Path:
        """Return the target path; raises TwdError if this machine takes no files, or none there."""
        told = path_of(event.dest) if event.dest else self._settings.home_dir / "models"
        if event.proof and proves(self._key, event.proof, event.root, event.file or event.spec, event.dest):
            return told
        if not self._accepts:
            text = f"{self.ctx.node} lends nothing (pool.host) and does not accept models (swarm.accept: true)"
            raise TwdError(FailureCode.FORBIDDEN, text)
        folder = told if told.is_dir() else told.parent
        if folder.resolve() not in [one.resolve() for one in self._folders()]:
            text = f"{told} is in no folder of models of {self.ctx.node} (agent.model_dirs)"
            raise TwdError(FailureCode.FORBIDDEN, text, "dest")
        return told
