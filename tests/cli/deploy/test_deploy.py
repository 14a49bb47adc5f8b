"""`twd deploy` by real ssh servers on loopback, each with an empty home: to a lease, again, cut, refused."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.deploy.secret_watch import SecretWatch
from tests.cli.deploy.ssh_servers import SshServer, SshWorld, ssh_world
from tests.cli.running import TWD, Installed, running
from tests.waiting import wait_until
from twd.bus.join import PREFIX
from twd.kit.exit_codes import ExitCode

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
LEND = "agent: {port: 0}\npool: {host: 0.0.0.0}\nswarm: {port: 0}\n"
BANNER = "echo Welcome; echo 'x=1'; echo to stderr >&2\n"


@pytest.fixture
def first(tmp_path: Path) -> Iterator[Installed]:
    """An installation that lets others in."""
    home = tmp_path / "first" / "home"
    home.parent.mkdir()
    (home.parent / "lend.yaml").write_text(LEND)
    with running(home, "edge", "metrics", TWD_BUS_HOST="0.0.0.0", TWD_NODE="first") as installed:
        yield installed


def deploy(first: Installed, world: SshWorld, *arguments: str, at: str = "127.0.0.1") -> list[dict[str, Any]]:
    done = first.twd(
        "deploy", "--json", "--config", "lend.yaml", "--host", at, *arguments, PATH=f"{world.bin}:{os.environ['PATH']}"
    )
    reports: list[dict[str, Any]] = json.loads(done.stdout)
    assert done.returncode == (ExitCode.CANNOT_START if any(one["error"] for one in reports) else 0), done.stderr
    return reports


def states(report: dict[str, Any]) -> dict[str, str]:
    return {step["name"]: step["state"] for step in report["steps"]}


def files_of(server: SshServer) -> list[Path]:
    return [file for file in server.home.rglob("*") if not file.is_dir()]


def twd_there(server: SshServer, *arguments: str) -> None:
    program = server.home / ".local" / "bin" / "twd"
    env = {"HOME": str(server.home), "PATH": os.environ["PATH"]}
    subprocess.run([str(program), *arguments], env=env, cwd=server.home, check=False, capture_output=True, timeout=60)


@pytest.mark.thorough
def test_two_machines_from_nothing_to_a_lease_and_again(first: Installed, tmp_path: Path) -> None:
    with ssh_world(tmp_path / "there", "alpha", "beta") as world:
        (world.servers["alpha"].home / ".bashrc").write_text(BANNER)
        world.start()
        with SecretWatch(PREFIX) as watch:
            planned = deploy(first, world, "alpha", "beta", "--dry-run")
            fresh = deploy(first, world, "alpha", "beta")
        assert watch.looks > 1
        assert watch.found == set(), "no token in any command line or environment, at any moment"
        assert [(one["ok"], one["changed"]) for one in fresh] == [(True, True)] * 2, fresh
        assert all("cores" in one["lends"] for one in fresh)
        assert len({one["node"] for one in fresh}) == 2, "machines with one host name get two names"
        listed = json.loads(first.twd("node", "list", "--json").stdout)
        assert {one["node"] for one in listed} == {one["node"] for one in fresh}
        again = deploy(first, world, "alpha", "beta")
        assert [(one["ok"], one["changed"]) for one in again] == [(True, False)] * 2, again
        for server in world.servers.values():
            told = [file.read_text("utf-8", "replace") for file in (server.home / ".twd").rglob("*.log")]
            twd_there(server, "down")
            assert PREFIX not in "".join([*told, world.said.read_text(), str(planned), str(fresh), str(again)])


@pytest.mark.thorough
def test_a_join_that_fails_leaves_the_machine_as_it_was(first: Installed, tmp_path: Path) -> None:
    with ssh_world(tmp_path / "there", "alpha") as world:
        world.start()
        (failed,) = deploy(first, world, "alpha", at="nowhere.invalid")
        assert not failed["ok"]
        assert states(failed)["undo install"] == "taken back", failed
        assert files_of(world.servers["alpha"]) == []
        assert json.loads(first.twd("node", "list", "--json").stdout) == []
        tokens = json.loads(first.twd("token", "list", "--json").stdout)
        assert {one["state"] for one in tokens} <= {"revoked"}


@pytest.mark.thorough
def test_a_connection_that_is_cut_and_the_same_command_again(first: Installed, tmp_path: Path) -> None:
    with ssh_world(tmp_path / "there", "alpha") as world:
        server = world.servers["alpha"]
        world.start()
        command = [*TWD, "deploy", "alpha", "--config", "lend.yaml", "--host", "127.0.0.1", "--json"]
        env = {**first.env, "PATH": f"{world.bin}:{os.environ['PATH']}"}
        cut = subprocess.Popen(command, env=env, cwd=first.home.parent, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        versions = server.home / ".local" / "share" / "twd" / "versions"
        wait_until(lambda: list(versions.glob(".new-*")), "it installs", 120)
        server.stop()
        (report,) = json.loads(cut.communicate(timeout=120)[0])
        assert not report["ok"]
        assert states(report)["undo install"] == "failed", "the machine cannot be reached"
        server.start(world.authorized)
        (done,) = deploy(first, world, "alpha")
        assert done["ok"], done
        assert not list(versions.glob(".new-*"))
        in_use = os.readlink(server.home / ".local/share/twd/current")
        assert (versions.parent / in_use / "twd-complete").exists()
        twd_there(server, "down")


@pytest.mark.thorough
def test_who_is_not_who_ssh_knows_is_sent_nothing(first: Installed, tmp_path: Path) -> None:
    with ssh_world(tmp_path / "there", "changed", "unknown", "locked", "other", "ended") as world:
        world.servers["changed"].make_key()
        known = world.known.read_text().splitlines(keepends=True)
        world.known.write_text("".join(line for line in known if f":{world.servers['unknown'].port} " not in line))
        other = world.servers["other"].home / ".twd"
        other.mkdir()
        (other / "config.yaml").write_text("mode: direct\n")
        world.start()
        world.servers["ended"].stop()
        world.servers["locked"].stop()
        world.servers["locked"].start(tmp_path / "nobody")
        before = files_of(world.servers["other"])
        reports = {one["host"]: one for one in deploy(first, world, *world.servers)}
        told = {
            "changed": "another one than ssh knows",
            "unknown": "compare the fingerprint",
            "locked": "install a key there",
            "other": "is not of `twd deploy`",
            "ended": "no ssh server answers",
        }
        for host, words in told.items():
            assert words in reports[host]["error"], reports[host]
            assert list(states(reports[host])) == ["look"]
        assert files_of(world.servers["other"]) == before
        assert all(files_of(world.servers[name]) == [] for name in ("changed", "unknown", "locked"))


def test_where_nothing_runs_there_is_nothing_to_deploy_to(tmp_path: Path) -> None:
    alone = Installed(tmp_path / "home")
    done = alone.twd("deploy", "rig")
    assert done.returncode == ExitCode.NOTHING_RUNS
    for host in ("-oProxyCommand=touch evil", "a;b"):
        assert alone.twd("deploy", "--", host).returncode == ExitCode.USAGE
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize(("argument", "env"), [("twd1_seen", {}), ("unseen", {"TOKEN": "twd1_seen"})])
def test_the_look_that_finds_no_secret_finds_one_that_is_there(argument: str, env: dict[str, str]) -> None:
    command = [sys.executable, "-c", "input()", argument]
    with subprocess.Popen(command, env=env, stdin=subprocess.PIPE) as held:
        with SecretWatch("twd1_seen") as watch:
            wait_until(lambda: bool(watch.found), "it is found")
        held.kill()
