"""Renews one other machine by ssh: looks, sends the new version beside the old one, and has the old one hand over."""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

from twd.cli.deploy.looking import RemoteFacts, look_script, problems_of, read_facts
from twd.cli.deploy.pruning import prune_there, too_many
from twd.cli.deploy.report import HostReport
from twd.cli.deploy.run import LOOK_S, SEND_S, DeployFailed, check_result
from twd.cli.deploy.scripts import drop_script, send_script, there_script, twd_script
from twd.cli.deploy.ssh import RemoteShell, SshFailed
from twd.cli.deploy.wheels import WheelBundle
from twd.setup.versions.folder import KEEP
from twd.setup.versions.rolling import base_of_version, obstacle_between
from twd.setup.versions.takeover import TakeoverPolicy
from twd.wire.failures import TwdError

TAKE_S: Final = 1800.0
"""The most that a takeover may last; the machine ends it by itself, whether we listen or not."""
LEASES_S: Final = 30.0
TRIES: Final = 5
AGAIN_S: Final = 2.0

Running = dict[str, str]
"""What runs on a machine: each service with its version."""


class UpgradeRegistry(Protocol):
    """What is known of machines without asking them."""

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the installation's certificate."""
        ...

    async def running(self, node: str) -> Running:
        """Return what runs on a machine now, by its leases."""
        ...

    async def until(self, node: str, fits: Callable[[Running], bool], wait_s: float) -> Running:
        """Wait until what runs on a machine fits, at most so long; returns what runs then."""
        ...


@dataclass
class RemoteUpgrade:
    """One machine, one run. `look` changes nothing; `carry_out` comes after all machines were looked at."""

    node: str
    shell: RemoteShell
    bundle: WheelBundle
    registry: UpgradeRegistry
    report: HostReport
    system_wide: bool = False
    settle_s: float = TakeoverPolicy.settled_s
    keep: int = KEEP
    facts: RemoteFacts = field(default_factory=RemoteFacts)
    before: Running = field(default_factory=dict)

    async def look(self) -> None:
        """Find out what is there; what keeps it from being renewed is in the report."""
        self.report.node = self.node
        try:
            with self.report.step("look") as step:
                self.before = await self.registry.running(self.node)
                script = look_script(self.system_wide, self.bundle.needs.python, self.bundle.name)
                self.facts = read_facts((await self.shell.run(script, LOOK_S)).said)
                if problem := "; ".join(self._problems()):
                    raise DeployFailed(problem)
                has = base_of_version(self.facts.current)
                step.note = f"has {has}" if self.is_new else f"has {has}, gets {self.bundle.name}"
        except TwdError as error:
            self.report.error = str(error)

    @property
    def is_new(self) -> bool:
        """Whether the version in use there is the new one."""
        return self.facts.current == self.bundle.name

    def _problems(self) -> list[str]:
        identity, facts = self.facts.identity, self.facts
        host = self.shell.target.host
        if identity is None or (identity.node, identity.fingerprint) != (self.node, self.registry.fingerprint):
            who = f"{identity.node} of {identity.url}" if identity else "no member of an installation"
            return [f"ssh's {host} is {who}, not {self.node}: name {self.node} in ssh's config, or `twd deploy` it"]
        if not facts.current:
            return [f"{facts.base} holds no versions: `twd deploy {host}` makes an installation that can be renewed"]
        found = obstacle_between(facts.current, self.bundle.name)
        return [*filter(None, [found]), *problems_of(facts, self.bundle.needs, self.system_wide)]

    async def carry_out(self) -> None:
        """Renew it. Whatever goes wrong is in the report, and the machine has its old version again."""
        try:
            await self._send()
            await self._take()
            await self._see()
            if too_many(self.facts, self.bundle.name, self.keep):
                await prune_there(self.shell, self.facts, self.keep, self.report)
        except SshFailed as error:
            text = "it ends what it began by itself; the same command looks again, and goes on"
            self.report.error = f"{error}; {text}"
        except TwdError as error:
            self.report.error = str(error)
            await self._drop()

    async def _send(self) -> None:
        with self.report.step("install") as step:
            if self.is_new:
                step.state = "unchanged"
                return
            name = self.bundle.name
            if (await self.shell.run(there_script(self.facts, name), LOOK_S)).code:
                script = send_script(self.facts, self.facts.python(self.bundle.needs.python), name)
                check_result(await self.shell.run(script, SEND_S, stream=self.bundle.stream()))
            step.note = name

    async def _take(self) -> None:
        with self.report.step("take over") as step:
            if self.is_new:
                step.state = "unchanged"
                return
            await self._hand_over(self.bundle.name)

    async def _hand_over(self, version: str) -> None:
        """Have the version in use hand over. It goes on when the connection breaks, and tells how it ended when asked
        again."""
        script = twd_script(self.facts, "upgrade", "--take", version, "--apart", f"--settle={self.settle_s:g}")
        for left in reversed(range(TRIES)):
            try:
                result = await self.shell.run(script, TAKE_S)
            except SshFailed:
                if not left:
                    raise
                await asyncio.sleep(AGAIN_S)
            else:
                check_result(result)
                return

    async def _see(self) -> None:
        """Wait until all that ran there runs again, as the new version; else the old one comes back."""
        with self.report.step("lease") as step:
            wanted = base_of_version(self.bundle.name)
            now = await self.registry.until(self.node, lambda found: self._is_well(found, wanted), LEASES_S)
            if not self._is_well(now, wanted):
                missing = ", ".join(name for name in sorted(self.before) if now.get(name) != wanted)
                if not self.is_new:
                    await self._hand_over(self.facts.current)
                raise DeployFailed(f"{missing} did not come back as {wanted} on the bus within {LEASES_S:g} s")
            step.note = ", ".join(sorted(now)) or "nothing ran there"
            self.report.lends = wanted

    def _is_well(self, now: Running, wanted: str) -> bool:
        return all(now.get(name) == wanted for name in self.before)

    async def _drop(self) -> None:
        """Remove what was sent; the same command sends it again."""
        if self.is_new:
            return
        with contextlib.suppress(TwdError), self.report.step("undo install") as step:
            check_result(await self.shell.run(drop_script(self.facts, self.bundle.name), LOOK_S))
            step.state = "taken back"
