"""The steps of an upgrade by ssh on a played machine: what is refused before anything changed, and what comes back."""

import asyncio
import base64
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

import msgspec
import pytest

from tests.cli.deploy.test_steps import FACTS, NEEDS
from twd.cli.deploy.report import HostReport
from twd.cli.deploy.ssh import RemoteResult, RemoteShell, SshFailed
from twd.cli.deploy.targets import DeployTarget
from twd.cli.deploy.wheels import WheelBundle
from twd.cli.upgrade import remote
from twd.cli.upgrade.remote import RemoteUpgrade, Running
from twd.settings.identity import Identity

BUNDLE = WheelBundle((), "0.2.0-new", NEEDS)
FINGERPRINT = "ab" * 32


def identity(node: str = "rig", fingerprint: str = FINGERPRINT) -> str:
    found = Identity(node=node, url="tls://first:4222", fingerprint=fingerprint)
    return base64.b64encode(msgspec.json.encode(found)).decode()


def facts(current: str = "versions/0.1.0-old", joined: str = identity()) -> str:
    return f"{FACTS}current={current}\njoined={joined}\n"


class UpgradedShell(RemoteShell):
    """A machine that answers as it is told; `answers` are for scripts that hold a word, one after another."""

    def __init__(self, said: str, **answers: Sequence[int | None]) -> None:
        super().__init__(DeployTarget("box"))
        self.said, self.answers = said, {word: list(codes) for word, codes in answers.items()}
        self.ran: list[str] = []

    async def run(
        self, script: str, timeout_s: float, *, given: bytes = b"", stream: AsyncIterator[bytes] | None = None
    ) -> RemoteResult:
        self.ran.append(script)
        if "uname" in script:
            return RemoteResult(0, self.said, "")
        if script.startswith("test -d"):
            return RemoteResult(1, "", "")
        word = next((word for word in self.answers if word in script), "")
        code = self.answers[word].pop(0) if word and self.answers[word] else 0
        if code is None:
            raise SshFailed("the connection broke")
        return RemoteResult(code, "", "its doctor finds what the one in use does not")

    def count(self, words: str) -> int:
        return sum(words in script for script in self.ran)


@dataclass
class PlayedRegistry:
    """Leases as a test says: first what ran before, then what runs afterwards."""

    after: Running
    before: Running = field(default_factory=lambda: {"agent": "0.1.0", "drafter": "0.1.0"})
    fingerprint: str = FINGERPRINT

    async def running(self, node: str) -> Running:
        return self.before

    async def until(self, node: str, fits: Callable[[Running], bool], wait_s: float) -> Running:
        fits(self.after)
        return self.after


NEW = {"agent": "0.2.0", "drafter": "0.2.0", "swarm": "0.2.0"}


def upgrade(shell: RemoteShell, after: Running | None = None) -> RemoteUpgrade:
    registry = PlayedRegistry(NEW if after is None else after)
    return RemoteUpgrade("rig", shell, BUNDLE, registry, HostReport("rig", lambda line: None))


async def renewed(shell: RemoteShell, after: Running | None = None) -> HostReport:
    one = upgrade(shell, after)
    await one.look()
    if not one.report.error:
        await one.carry_out()
    return one.report


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "AGAIN_S", 0.0)


async def test_a_machine_is_renewed_by_its_own_old_version() -> None:
    shell = UpgradedShell(facts())
    report = await renewed(shell)
    assert (report.error, report.lends, report.changed) == ("", "0.2.0", True)
    assert [step.name for step in report.steps] == ["look", "install", "take over", "lease"]
    assert shell.count("current/bin/twd upgrade --take 0.2.0-new --apart") == 1


@pytest.mark.parametrize(("there", "asks"), [("0.1.0-old", 0), ("0.1.0-old 0.0.9-older", 1)])
async def test_old_versions_go_when_the_new_one_is_there(there: str, asks: int) -> None:
    shell = UpgradedShell(f"{facts()}versions={there}\n")
    report = await renewed(shell)
    assert report.error == ""
    assert shell.count("upgrade --prune --keep=2") == asks


async def test_old_versions_stay_where_the_new_one_does_not_come_back() -> None:
    shell = UpgradedShell(f"{facts()}versions=0.1.0-old 0.0.9-older\n")
    report = await renewed(shell, {"agent": "0.2.0"})
    assert report.error
    assert shell.count("--prune") == 0


async def test_again_changes_nothing() -> None:
    shell = UpgradedShell(facts("versions/0.2.0-new"))
    report = await renewed(shell)
    assert (report.error, report.changed) == ("", False)
    assert len(shell.ran) == 1


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (facts("versions/0.3.0-x"), "newer than 0.2.0"),
        (facts(joined=identity("other")), "is other of tls://first:4222, not rig"),
        (facts(joined=identity(fingerprint="cd" * 32)), "not rig"),
        (facts(joined=""), "no member of an installation"),
        (facts(""), "holds no versions"),
        (facts().replace("x86_64", "aarch64"), "these wheels are for Linux x86_64"),
        (facts().replace("99999999", "0"), "make room there"),
    ],
)
async def test_what_cannot_be_is_said_before_anything_is_changed(said: str, words: str) -> None:
    shell = UpgradedShell(said)
    one = upgrade(shell)
    await one.look()
    assert len(shell.ran) == 1
    assert (words in one.report.error) if words else not one.report.error


async def test_a_version_that_the_machine_refuses_is_removed_again() -> None:
    shell = UpgradedShell(facts(), **{"--take": [4]})
    report = await renewed(shell)
    assert "its doctor finds" in report.error
    assert report.lends == ""
    assert shell.count("rm -rf /home/me/base/versions/0.2.0-new") == 1


async def test_what_does_not_come_back_on_the_bus_is_taken_back() -> None:
    shell = UpgradedShell(facts())
    report = await renewed(shell, {"agent": "0.2.0"})
    assert "drafter did not come back as 0.2.0" in report.error
    assert shell.count("upgrade --take 0.1.0-old") == 1
    assert shell.count("rm -rf") == 1


async def test_a_connection_that_breaks_is_made_again_and_the_machine_goes_on_meanwhile() -> None:
    shell = UpgradedShell(facts(), **{"--take": [None, None, 0]})
    report = await renewed(shell)
    assert report.error == ""
    assert shell.count("--take") == 3


async def test_a_connection_that_stays_away_takes_nothing_from_a_machine_that_may_be_at_work() -> None:
    shell = UpgradedShell(facts(), **{"--take": [None] * remote.TRIES})
    report = await renewed(shell)
    assert "the same command looks again" in report.error
    assert shell.count("rm -rf") == 0


async def test_one_that_is_not_reached_is_told() -> None:
    class Unreached(RemoteShell):
        async def run(self, *given: object, **more: object) -> RemoteResult:
            await asyncio.sleep(0)
            raise SshFailed("it does not answer")

    report = await renewed(Unreached(DeployTarget("box")))
    assert report.error == "it does not answer"
