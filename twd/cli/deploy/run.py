"""Puts twd on one machine: looks, installs, joins, starts and waits for its lease; a failure takes back what it did."""

import asyncio
import contextlib
import shlex
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Protocol

from twd.bus.join import JoinToken
from twd.cli.deploy.cksum import cksum
from twd.cli.deploy.interpreter import SentPython
from twd.cli.deploy.looking import RemoteFacts, look_script, problems_of, read_facts, remarks_of
from twd.cli.deploy.pruning import prune_there, too_many
from twd.cli.deploy.report import HostReport
from twd.cli.deploy.scripts import (
    forget_python_script,
    forget_script,
    install_script,
    python_script,
    python_there,
    service_script,
    settings_script,
    start_script,
    switch_script,
    take_back_script,
    there_script,
    twd_script,
)
from twd.cli.deploy.ssh import RemoteResult, RemoteShell
from twd.cli.deploy.wheels import WheelBundle
from twd.kit.exit_codes import ExitCode
from twd.kit.ids import node_id
from twd.setup.versions.folder import KEEP
from twd.wire.failures import FailureCode, TwdError

LOOK_S: Final = 60.0
SEND_S: Final = 1800.0
TWD_S: Final = 120.0
UNDO_S: Final = 60.0
LEASE_S: Final = 30.0
NO_SERVICE: Final = "no service could be made"


class DeployHome(Protocol):
    """The installation that machines are added to."""

    async def token(self) -> JoinToken:
        """Make a token for one machine and a few minutes."""
        ...

    async def revoke(self, token: JoinToken) -> None:
        """End a token that was not used."""
        ...

    async def remove(self, node: str, token: JoinToken) -> None:
        """Remove a machine, if it joined with this token."""
        ...

    @property
    def fingerprint(self) -> str:
        """The fingerprint of its certificate."""
        ...

    def taken(self, node: str) -> bool:
        """Whether a machine has this name."""
        ...

    def reserve(self, node: str) -> bool:
        """Take a name for a machine that will join; False if another one has it, or will."""
        ...

    async def lease(self, node: str, wait_s: float) -> str:
        """Wait for the machine's lease, and return what it lends; empty if none came."""
        ...


class DeployFailed(TwdError):
    """A step did not succeed; the message says why and what to do."""

    def __init__(self, text: str) -> None:
        super().__init__(FailureCode.BACKEND_DOWN, text)


@dataclass
class DeployPlan:
    """What every machine gets."""

    bundle: WheelBundle
    settings: Callable[[str], bytes]
    """The settings for a machine, by its folder with models."""
    given_settings: bool
    """They were named on the command line: a machine with others of its own is refused."""
    system_wide: bool = False
    dry_run: bool = False
    python: Callable[[], SentPython | None] = lambda: None
    """A Python for machines that have none; it is asked for only then."""
    keep: int = KEEP
    """How many versions stay there."""


@dataclass
class HostDeployment:
    """One machine, one run."""

    shell: RemoteShell
    plan: DeployPlan
    home: DeployHome
    report: HostReport
    facts: RemoteFacts = field(default_factory=RemoteFacts)
    _python: SentPython | None = None
    _undo: list[tuple[str, Callable[[], Awaitable[None]]]] = field(default_factory=list)

    async def run(self) -> HostReport:
        """Do all steps; whatever goes wrong is in the report."""
        try:
            await self._steps()
        except TwdError as error:
            self.report.error = str(error)
            await self._take_back()
        except BaseException:
            self.report.error = "it was interrupted"
            await asyncio.shield(self._take_back())
            raise
        return self.report

    async def _steps(self) -> None:
        await self._look()
        if self.plan.dry_run:
            return
        await self._send_python()
        replaced = await self._install()
        await self._write_settings()
        await self._join()
        await self._start(replaced)
        await self._wait()
        self._undo.clear()
        if too_many(self.facts, self.plan.bundle.name, self.plan.keep):
            await prune_there(self.shell, self.facts, self.plan.keep, self.report)

    # -- steps -------------------------------------------------------------------------------------

    async def _look(self) -> None:
        with self.report.step("look") as step:
            bundle = self.plan.bundle
            script = look_script(self.plan.system_wide, bundle.needs.python, bundle.name)
            self.facts = read_facts((await self.shell.run(script, LOOK_S)).said)
            comes = await self._find_python()
            problems = list(problems_of(self.facts, bundle.needs, self.plan.system_wide, comes))
            problems += self._in_the_way()
            if problems:
                raise DeployFailed("; ".join(problems))
            self.report.node = self._name()
            cards = f", {len(self.facts.cards)} cards" if self.facts.cards else ""
            remarks = "".join(f"; {text}" for text in remarks_of(self.facts, int(time.time())))
            step.note = f"{self.facts.system} {self.facts.machine}{cards}, {self._intent()}{remarks}"

    async def _find_python(self) -> bool:
        """Return whether a Python can be sent there; it is packed only where one is wanted."""
        wanted = self.plan.bundle.needs.python
        if self.facts.python(wanted) or self.facts.machine != self.plan.bundle.needs.machine:
            return False
        self._python = await asyncio.to_thread(self.plan.python)
        return self._python is not None and self._python.version == wanted

    def _in_the_way(self) -> list[str]:
        """Return what is there already and is not to be touched."""
        found, identity = [], self.facts.identity
        if identity is not None and identity.fingerprint != self.home.fingerprint:
            found.append(f"it joined another installation, at {identity.url}: `twd leave` there first")
        if self.plan.given_settings and self.facts.config_sum and not self.facts.config_ours:
            found.append(f"{self.facts.state}/config.yaml is not of `twd deploy`: move it away, or leave --config out")
        return found

    def _name(self) -> str:
        """Return the machine's name: that which it has, its host's name, or the one by which ssh knows it."""
        if self.facts.identity is not None and self._is_member():
            return self.facts.identity.node
        names = [node_id(self.facts.host), node_id(self.shell.target.host.strip("[]").replace(":", "-"))]
        free = next((name for name in names if self.home.reserve(name)), None)
        if free is None:
            text = f"machines named {' and '.join(dict.fromkeys(names))} belong to this installation already"
            raise DeployFailed(f"{text}: `twd node remove` the old one, or give this one another name in ssh's config")
        return free

    def _is_member(self) -> bool:
        """Whether it joined and was not removed since."""
        identity = self.facts.identity
        return identity is not None and self.home.taken(identity.node)

    def _intent(self) -> str:
        version = self.plan.bundle.name
        install = "has this version" if self.facts.current == version else f"gets version {version}"
        member = "joined already" if self._is_member() else f"joins as {self.report.node}"
        return f"{install}, {member}"

    async def _send_python(self) -> None:
        python = self._python
        if python is None:
            return
        with self.report.step("python") as step:
            self._undo.append(("python", self._forget_python))
            script = python_script(self.facts, python)
            check_result(await self.shell.run(script, SEND_S, stream=python.stream()))
            step.note = f"{python.name}, {python.size >> 20} MiB sent"

    async def _forget_python(self) -> None:
        assert self._python is not None
        check_result(await self.shell.run(forget_python_script(self.facts, self._python), UNDO_S))

    async def _install(self) -> bool:
        """Send and install what is missing; returns whether another version was there before."""
        bundle, facts = self.plan.bundle, self.facts
        with self.report.step("install") as step:
            if facts.current == bundle.name:
                step.state = "unchanged"
                return False
            there = await self.shell.run(there_script(facts, bundle.name), LOOK_S)
            self._undo.append(("install", self._switch_back if there.code == 0 else self._uninstall))
            if there.code == 0:
                result = await self.shell.run(switch_script(facts, bundle.name), LOOK_S)
            else:
                python = python_there(facts, self._python) if self._python else facts.python(bundle.needs.python)
                script = install_script(facts, python, bundle.name)
                result = await self.shell.run(script, SEND_S, stream=bundle.stream())
            check_result(result)
            step.note = bundle.name if there.code == 0 else f"{bundle.name}, {bundle.needs.size >> 20} MiB sent"
            return bool(facts.current)

    async def _write_settings(self) -> None:
        with self.report.step("settings") as step:
            content = self.plan.settings(self.shell.target.model_dir)
            if self.facts.config_sum and (not self.facts.config_ours or self.facts.config_sum == _cksum(content)):
                step.state = "unchanged"
                return
            if not self.facts.config_sum:
                self._undo.append(("settings", self._forget))
            check_result(await self.shell.run(settings_script(self.facts), LOOK_S, given=content))

    async def _join(self) -> None:
        with self.report.step("join") as step:
            if self._is_member():
                step.state = "unchanged"
                return
            token = await self.home.token()
            self._undo.append(("join", partial(self._unjoin, token)))
            script = twd_script(self.facts, "join", "--token-file", "-", "--node", self.report.node)
            try:
                check_result(await self.shell.run(script, TWD_S, given=token.as_text().encode() + b"\n"))
            except BaseException:
                await asyncio.shield(self.home.revoke(token))
                raise
            step.note = f"as {self.report.node}"

    async def _start(self, replaced: bool) -> None:
        with self.report.step("start") as step:
            if not self.report.changed and await self.home.lease(self.report.node, 0.0):
                step.state = "unchanged"
                return
            if replaced:
                self._undo.insert(0, ("stop", self._start_again))  # when the old version is back
                await self.shell.run(twd_script(self.facts, "down"), TWD_S)
            if self.facts.systemd:
                step.note = await self._serve()
                if not step.note.startswith(NO_SERVICE):
                    return
            result = await self.shell.run(start_script(self.facts), TWD_S)
            if result.code == ExitCode.ALREADY_RUNNING:
                step.state = "unchanged"
                return
            self._undo.append(("start", self._stop))
            check_result(result)

    async def _serve(self) -> str:
        """Make the agent a service of systemd; returns in words what came of it."""
        result = await self.shell.run(service_script(self.facts, self.plan.system_wide), TWD_S)
        if result.code:
            return f"{NO_SERVICE}, so it runs until the machine restarts: {_last_words(result)}"
        self._undo.append(("service", self._unserve))
        return "as a service of the machine" if self.plan.system_wide else "as a service of the user"

    async def _start_again(self) -> None:
        if self.facts.systemd and not (await self._serve()).startswith(NO_SERVICE):
            return
        result = await self.shell.run(start_script(self.facts), TWD_S)
        if result.code != ExitCode.ALREADY_RUNNING:
            check_result(result)

    async def _unserve(self) -> None:
        await self.shell.run(service_script(self.facts, self.plan.system_wide, "uninstall"), UNDO_S)

    async def _wait(self) -> None:
        with self.report.step("lease") as step:
            self.report.lends = await self.home.lease(self.report.node, LEASE_S)
            if not self.report.lends:
                text = f"no lease of {self.report.node} came within {LEASE_S:g} s: `twd logs` there says why"
                raise DeployFailed(text)
            step.note = self.report.lends

    # -- and back ----------------------------------------------------------------------------------

    async def _take_back(self) -> None:
        """Undo what this run did, the last first. What cannot be undone is told; the same command goes on from it."""
        for name, undo in reversed(self._undo):
            with contextlib.suppress(TwdError), self.report.step(f"undo {name}") as step:
                await undo()
                step.state = "taken back"

    async def _switch_back(self) -> None:
        check_result(await self.shell.run(take_back_script(self.facts), UNDO_S))

    async def _uninstall(self) -> None:
        check_result(await self.shell.run(take_back_script(self.facts, self.plan.bundle.name), UNDO_S))

    async def _forget(self) -> None:
        check_result(await self.shell.run(forget_script(self.facts, not self.facts.state_there), UNDO_S))

    async def _unjoin(self, token: JoinToken) -> None:
        await self.home.remove(self.report.node, token)
        state = shlex.quote(self.facts.state)
        check_result(await self.shell.run(f"rm -rf {state}/joined.json {state}/keys", UNDO_S))

    async def _stop(self) -> None:
        await self.shell.run(twd_script(self.facts, "down"), UNDO_S)


def check_result(result: RemoteResult) -> None:
    """Raise DeployFailed with the last words of a script that did not succeed."""
    if result.code:
        raise DeployFailed(_last_words(result))


def _last_words(result: RemoteResult) -> str:
    said = (result.errors.strip() or result.said.strip() or f"exit code {result.code}").splitlines()
    return " ".join(said[-3:])[:600]


def _cksum(content: bytes) -> str:
    """Return what POSIX's cksum says of these bytes."""
    return f"{cksum(content)} {len(content)}"


async def deploy_all(deployments: list[HostDeployment], at_once: int) -> list[HostReport]:
    """Run all, some at a time."""
    gate = asyncio.Semaphore(at_once)

    async def one(deployment: HostDeployment) -> HostReport:
        async with gate:
            return await deployment.run()

    return list(await asyncio.gather(*map(one, deployments)))
