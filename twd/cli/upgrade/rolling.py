"""`twd upgrade NODE...|--all`: looks at all machines, then renews one after another, this one last."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from twd.bus.base import Leases
from twd.cli.common.context import CliContext
from twd.cli.deploy.deployed import DeployedMachine, DeployedMachines
from twd.cli.deploy.report import HostReport
from twd.cli.deploy.ssh import RemoteShell
from twd.cli.deploy.targets import targets_of
from twd.cli.deploy.wheels import WheelBundle, bundle_here, bundle_of
from twd.cli.members.own_broker import needed_broker, own_store
from twd.cli.upgrade.here import as_errors, installation, prune_here, try_then_take, unpack_here
from twd.cli.upgrade.remote import RemoteUpgrade, Running
from twd.kit.errors import CommandError
from twd.kit.exit_codes import ExitCode
from twd.setup.versions.folder import VersionsFolder
from twd.setup.versions.lock import alone
from twd.setup.versions.rolling import RollingMachine, base_of_version, obstacle_between, rolling_order

if TYPE_CHECKING:
    from twd.process.home import RunningInstance

LOOK_S: Final = 0.2
LOOKS_AT_ONCE: Final = 16


@dataclass(frozen=True)
class RollingWish:
    """What the command line says."""

    nodes: tuple[str, ...]
    everywhere: bool
    wheels: Path | None
    check: bool
    ssh_user: str
    settle_s: float
    keep: int
    as_json: bool


@dataclass
class LeaseRegistry:
    """What the leases tell of machines."""

    fingerprint: str
    leases: Leases

    async def all_running(self) -> dict[str, Running]:
        """Return what runs on each machine."""
        from twd.wire.service import read_lease

        found: dict[str, Running] = {}
        for entry in await self.leases.entries():
            if lease := read_lease(entry.value, entry.key):
                found.setdefault(lease.node, {})[lease.service] = lease.version
        return found

    async def running(self, node: str) -> Running:
        """Return what runs on one machine."""
        return (await self.all_running()).get(node, {})

    async def until(self, node: str, fits: Callable[[Running], bool], wait_s: float) -> Running:
        """Wait until what runs on a machine fits."""
        loop = asyncio.get_running_loop()
        give_up = loop.time() + wait_s
        while True:
            now = await self.running(node)
            if fits(now) or loop.time() >= give_up:
                return now
            await asyncio.sleep(LOOK_S)


@dataclass
class Rolling:
    """One run of the command."""

    ctx: CliContext
    wish: RollingWish
    bundle: WheelBundle
    instance: "RunningInstance"
    members: tuple[str, ...]
    reports: list[HostReport] = field(default_factory=list)

    async def others(self) -> bool:
        """Look at the other machines, and renew them unless only a check was asked for; False if one failed."""
        from twd.kit.service import LEASE_BUCKET, LEASE_TTL_S

        async with self.ctx.bus("status") as bus:
            leases = await bus.leases(LEASE_BUCKET, LEASE_TTL_S)
            registry = LeaseRegistry(self.instance.bus_fingerprint, leases)
            running = await registry.all_running()
            machines = [RollingMachine(node, frozenset(running.get(node, {}))) for node in self._asked()]
            deployed = DeployedMachines(self.ctx.home.path).load()
            todo = [self._remote(one.node, deployed.get(one.node), registry) for one in rolling_order(machines)]
            await self._look(todo)
            if self.wish.check or any(one.report.error for one in todo):
                return not any(one.report.error for one in todo)
            return await self._one_after_another(todo)

    def _asked(self) -> list[str]:
        here = self.instance.node
        unknown = [node for node in self.wish.nodes if node not in (*self.members, here)]
        if unknown:
            text = f"{', '.join(unknown)}: no such machine; there are: {', '.join((*self.members, here))}"
            raise CommandError(ExitCode.NOT_FOUND, text)
        names = self.members if self.wish.everywhere else self.wish.nodes
        return [node for node in dict.fromkeys(names) if node != here]

    @property
    def wants_this_machine(self) -> bool:
        """Whether this machine is to be renewed, too."""
        return self.wish.everywhere or self.instance.node in self.wish.nodes

    def _remote(self, node: str, deployed: DeployedMachine | None, registry: LeaseRegistry) -> RemoteUpgrade:
        known = deployed or DeployedMachine(host=node)
        (target,) = targets_of(self.ctx.settings, [known.host], self.wish.ssh_user or known.user)
        shell, wish = RemoteShell(target), self.wish
        return RemoteUpgrade(
            node, shell, self.bundle, registry, self.report(node), known.system_wide, wish.settle_s, wish.keep
        )

    def report(self, node: str) -> HostReport:
        """Begin the report of a machine."""
        self.reports.append(HostReport(node, lambda line: click.echo(line, err=self.wish.as_json), node=node))
        return self.reports[-1]

    @staticmethod
    async def _look(todo: list[RemoteUpgrade]) -> None:
        gate = asyncio.Semaphore(LOOKS_AT_ONCE)

        async def look(one: RemoteUpgrade) -> None:
            async with gate:
                await one.look()

        await asyncio.gather(*map(look, todo))

    @staticmethod
    async def _one_after_another(todo: list[RemoteUpgrade]) -> bool:
        for one in todo:
            await one.carry_out()
            if one.report.error:
                return False
        return True

    # -- this machine ------------------------------------------------------------------------------

    def check_here(self) -> VersionsFolder | None:
        """Return the installation here if it is to be renewed; raises CommandError where that cannot be."""
        if not self.wants_this_machine or (self.wish.wheels is None and self.wish.everywhere):
            return None
        folder = installation()
        if folder.in_use() != self.bundle.name and (found := obstacle_between(folder.in_use(), self.bundle.name)):
            raise CommandError(ExitCode.CANNOT_START, f"{self.instance.node}: {found}")
        return folder

    def _install(self, report: HostReport, folder: VersionsFolder) -> None:
        with report.step("install") as step, as_errors(), alone(folder):
            if folder.in_use() == self.bundle.name:
                step.state = "unchanged"
            else:
                unpack_here(folder, self.bundle)

    def here(self, folder: VersionsFolder) -> bool:
        """Renew this machine; False if it has its old version again."""
        report = self.report(self.instance.node)
        try:
            self._install(report, folder)
            with report.step("take over") as step, as_errors(), alone(folder):
                if folder.in_use() == self.bundle.name:
                    step.state = "unchanged"
                else:
                    try_then_take(self.ctx, folder, self.bundle.name, self.wish.settle_s, report.tell)
            self._prune(folder, report)
        except CommandError as error:
            report.error = str(error)
            return False
        report.lends = base_of_version(self.bundle.name)
        return True

    def _prune(self, folder: VersionsFolder, report: HostReport) -> None:
        told: list[str] = []
        with report.step("old versions") as step:
            if not prune_here(folder, self.wish.keep, told.append):
                step.state = "unchanged"
            step.note = "; ".join(told)


def roll(ctx: CliContext, wish: RollingWish) -> ExitCode:
    """Renew the machines; the exit code tells whether all have the new version."""
    if wish.wheels is None and not wish.everywhere and ctx.here in wish.nodes:
        raise CommandError(ExitCode.USAGE, f"{ctx.here} is this machine: `twd upgrade` alone renews it, or give --from")
    instance = needed_broker(ctx)
    members = tuple(one.node for one in own_store(ctx).load().machines)
    cache = ctx.home.cache / "deploy"
    bundle = bundle_of(wish.wheels.expanduser(), cache) if wish.wheels else bundle_here(cache)
    rolling = Rolling(ctx, wish, bundle, instance, members)
    folder = rolling.check_here()
    well = asyncio.run(rolling.others())
    if well and folder is not None and not wish.check:
        well = rolling.here(folder)
    _tell(rolling)
    return ExitCode.OK if well else ExitCode.CANNOT_START


def _tell(rolling: Rolling) -> None:
    new = base_of_version(rolling.bundle.name)
    if rolling.wish.as_json:
        click.echo(json.dumps([report.as_json() | {"version": report.lends} for report in rolling.reports]))
        return
    for report in rolling.reports:
        if report.error:
            click.echo(f"{report.node}: failed: {report.error}", err=True)
        elif report.lends:
            click.echo(f"{report.node} has {new}, {'changed' if report.changed else 'nothing changed'}")
    if any(report.error for report in rolling.reports):
        kept = [one.node for one in rolling.reports if not one.lends and not one.error]
        click.echo(f"not changed: {', '.join(kept) or 'no other machine'}", err=True)
