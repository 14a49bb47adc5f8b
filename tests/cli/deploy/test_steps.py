"""The steps of a deployment on a played machine: what is unchanged, what a failure takes back, who keeps whose name."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest

from twd.bus.join import JoinToken
from twd.bus.seeds import draw_raw
from twd.cli.deploy.looking import BundleNeeds
from twd.cli.deploy.report import HostReport
from twd.cli.deploy.run import DeployPlan, HostDeployment, deploy_all
from twd.cli.deploy.ssh import RemoteResult, RemoteShell, SshFailed
from twd.cli.deploy.targets import DeployTarget
from twd.cli.deploy.wheels import WheelBundle

NEEDS = BundleNeeds("Linux", "x86_64", (3, 11), (2, 28), frozenset(), 1)
BUNDLE = WheelBundle((), "1-abc", NEEDS)
FACTS = """system=Linux
machine=x86_64
host=box
uid=1000
libc=glibc 2.36
python=3 11 /usr/bin/python3.11
base=/home/me/base
state=/home/me/.twd
writable=yes
free_kb=99999999
"""
STEPS = ("look", "install", "settings", "join", "start", "lease")


class PlayedShell(RemoteShell):
    """A machine that answers as it is told; scripts are known by a word in them."""

    def __init__(self, host: str = "box", facts: str = FACTS, fails: str = "", breaks: str = "") -> None:
        super().__init__(DeployTarget(host))
        self.facts, self.fails, self.breaks = facts, fails, breaks
        self.ran: list[str] = []
        self.given = b""

    async def run(
        self, script: str, timeout_s: float, *, given: bytes = b"", stream: AsyncIterator[bytes] | None = None
    ) -> RemoteResult:
        await asyncio.sleep(0)
        self.ran.append(script)
        self.given += given
        if "uname" in script:
            return RemoteResult(0, self.facts, "")
        if self.breaks and self.breaks in script:
            raise SshFailed("the connection broke")
        return RemoteResult(1 if (self.fails and self.fails in script) or "test -d" in script else 0, "", "why not")

    def did(self, words: str) -> bool:
        return any(words in script for script in self.ran)


@dataclass
class PlayedInstallation:
    """An installation without a broker."""

    fingerprint: str = "ab" * 32
    names: set[str] = field(default_factory=lambda: {"first"})
    leases: bool = True
    removed: list[str] = field(default_factory=list)
    revoked: int = 0

    async def token(self) -> JoinToken:
        return JoinToken(("first:4222",), self.fingerprint, draw_raw())

    async def revoke(self, token: JoinToken) -> None:
        self.revoked += 1

    async def remove(self, node: str, token: JoinToken) -> None:
        self.removed.append(node)

    def taken(self, node: str) -> bool:
        return node in self.names

    def reserve(self, node: str) -> bool:
        free = node not in self.names
        self.names.add(node)
        return free

    async def lease(self, node: str, wait_s: float) -> str:
        return "2 cores" if self.leases else ""


def deployment(shell: PlayedShell, home: PlayedInstallation | None = None, dry_run: bool = False) -> HostDeployment:
    plan = DeployPlan(BUNDLE, lambda folder: b"# written by `twd deploy`\n", False, dry_run=dry_run)
    return HostDeployment(shell, plan, home or PlayedInstallation(), HostReport(shell.target.host, lambda line: None))


def states(report: HostReport) -> dict[str, str]:
    return {step.name: step.state for step in report.steps}


async def test_all_steps_in_their_order_and_the_token_over_standard_input_alone() -> None:
    shell = PlayedShell()
    report = await deployment(shell).run()
    assert (report.error, report.lends, report.changed) == ("", "2 cores", True)
    assert states(report) == dict.fromkeys(STEPS, "done")
    assert b"twd1_" in shell.given
    assert not shell.did("twd1_")


@pytest.mark.parametrize(
    ("there", "asks"),
    [
        ("", False),
        ("1-abc 0-old .new-77", False),
        ("1-abc 0-old 0-older", True),
        ("0-old 0-older", True),
        ("1-abc .old-0-older", True),
    ],
)
async def test_old_versions_go_where_more_lie_than_are_kept(there: str, asks: bool) -> None:
    shell = PlayedShell(facts=f"{FACTS}current=versions/1-abc\nprevious=versions/0-old\nversions={there} \n")
    report = await deployment(shell).run()
    assert report.error == ""
    assert shell.did("upgrade --prune --keep=2") == asks
    assert ("old versions" in states(report)) == asks


@pytest.mark.parametrize("fault", [{"fails": "--prune"}, {"breaks": "--prune"}])
async def test_what_was_done_stays_when_old_versions_cannot_be_removed(fault: dict[str, str]) -> None:
    shell = PlayedShell(facts=f"{FACTS}current=versions/0-old\nversions=0-old 0-older\n", **fault)
    report = await deployment(shell).run()
    assert (report.error, report.lends) == ("", "2 cores")
    assert states(report)["old versions"] == "left"
    assert not [name for name in states(report) if name.startswith("undo")]


async def test_a_dry_run_looks_and_changes_nothing() -> None:
    shell = PlayedShell()
    report = await deployment(shell, dry_run=True).run()
    assert len(shell.ran) == 1
    assert "gets version 1-abc, joins as box" in report.steps[0].note


@pytest.mark.parametrize(
    ("fails", "undone"),
    [
        ("base64 -d)", {"install"}),
        ("config.yaml.new", {"install", "settings"}),
        (" join ", {"install", "settings", "join"}),
        ("up -d agent", {"install", "settings", "join", "start"}),
    ],
)
async def test_a_step_that_fails_takes_back_what_was_done(fails: str, undone: set[str]) -> None:
    shell, home = PlayedShell(fails=fails), PlayedInstallation()
    report = await deployment(shell, home).run()
    assert "why not" in report.error
    taken = {name.removeprefix("undo ") for name, state in states(report).items() if state == "taken back"}
    assert taken == undone
    assert shell.did("rm -rf /home/me/base/versions/1-abc")
    assert (home.removed == ["box"]) == ("join" in undone)


async def test_what_was_stopped_for_a_new_version_starts_again_when_that_fails() -> None:
    shell = PlayedShell(facts=f"{FACTS}current=versions/0-old\n", fails="up -d agent")
    report = await deployment(shell).run()
    assert report.error
    assert [step.name for step in report.steps][-1] == "undo stop", "after the old version is back"
    assert "link current 0-old" in shell.ran[-2]
    assert "up -d agent" in shell.ran[-1]


async def test_no_lease_takes_all_back_and_says_where_to_look() -> None:
    shell = PlayedShell()
    report = await deployment(shell, PlayedInstallation(leases=False)).run()
    assert "twd logs" in report.error
    assert shell.did(" down")
    assert shell.did("rm -rf /home/me/.twd\n")


async def test_what_cannot_be_taken_back_is_told() -> None:
    report = await deployment(PlayedShell(breaks="link current")).run()
    assert report.error == "the connection broke"
    assert states(report)["undo install"] == "failed"


async def test_two_machines_of_one_name_get_two_and_a_third_is_refused() -> None:
    home = PlayedInstallation()
    shells = [PlayedShell(host) for host in ("one", "two", "box")]
    reports = await deploy_all([deployment(shell, home) for shell in shells], 8)
    assert sorted(report.node for report in reports if not report.error) == ["box", "two"]
    (refused,) = [report for report in reports if report.error]
    assert refused.host == "box"
    assert "twd node remove" in refused.error


@pytest.mark.parametrize("fails", ["", "service install"])
async def test_with_systemd_it_is_a_service_else_it_is_told_what_it_is(fails: str) -> None:
    shell = PlayedShell(facts=FACTS + "systemd=yes\n", fails=fails)
    report = await deployment(shell).run()
    note = next(step.note for step in report.steps if step.name == "start")
    assert shell.did("service install --agent --user")
    assert note == ("no service could be made, so it runs until the machine restarts: why not" if fails else note)
    assert shell.did("up -d agent") == bool(fails)


async def test_an_interruption_takes_back_too() -> None:
    shell = PlayedShell(fails="never")
    todo = deployment(shell)

    async def cut(*_: object) -> str:
        raise asyncio.CancelledError

    todo.home.lease = cut  # type: ignore[method-assign,assignment]
    with pytest.raises(asyncio.CancelledError):
        await todo.run()
    assert states(todo.report)["undo install"] == "taken back"
