"""What `twd deploy` takes: to a bare Debian, the same again, and to many machines at once beside one.

It needs root, openssh-server and debootstrap. What is sent is packed before the clock starts.

python -m contrib.benchmarks.deploy.ratios [--hosts 10]
"""

import argparse
import json
import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from tests.cli.deploy.bare_root import bare_machine, bare_root
from tests.cli.deploy.ssh_servers import SshWorld, ssh_world
from tests.cli.running import TWD, Installed, running

LEND: Final = "agent: {port: 0}\npool: {host: 0.0.0.0}\nswarm: {port: 0}\n"
CACHE: Final = Path(os.environ.get("TWD_TEST_CACHE", Path.home() / ".cache" / "twd-test"))


def deploy(first: Installed, world: SshWorld, *arguments: str, at: str = "127.0.0.1") -> float:
    """Deploy as a user does; returns the seconds, and prints the steps that took longest."""
    command = [*TWD, "deploy", "--json", "--config", "lend.yaml", "--host", at, *arguments]
    env = {**first.env, "PATH": f"{world.bin}:{os.environ['PATH']}"}
    began = time.monotonic()
    done = subprocess.run(command, env=env, cwd=first.home.parent, capture_output=True, text=True, check=False)
    took = time.monotonic() - began
    reports: list[dict[str, Any]] = json.loads(done.stdout)
    print(f"{' '.join(arguments)[:40]}: {took:.1f} s; {_longest(reports)}", flush=True)
    for report in reports:
        if report["error"]:
            print(f"  {report['host']} failed: {report['error']}", flush=True)
    return took


def _longest(reports: list[dict[str, Any]]) -> str:
    most: dict[str, float] = {}
    for step in (step for report in reports for step in report["steps"]):
        most[step["name"]] = max(most.get(step["name"], 0.0), step["seconds"])
    return ", ".join(f"{name} {seconds:.1f}" for name, seconds in most.items())


def again(first: Installed, folder: Path) -> None:
    """A bare machine from nothing to a lease, and twice the same command."""
    folder.mkdir()
    with bare_machine("bare", folder, bare_root(CACHE)) as machine:
        world = SshWorld(folder.parent, [machine])
        machine.start(world.authorized)
        deploy(first, world, "bare", "--dry-run", at=machine.here)
        fresh, *more = [deploy(first, world, "bare", at=machine.here) for _ in range(3)]
    print(f"again: {max(more) / fresh:.2f} of the first time")


def at_once(first: Installed, folder: Path, hosts: int) -> None:
    """One machine, and then many at once, all of them on this computer."""
    names = [f"host{number}" for number in range(hosts + 1)]
    with ssh_world(folder, *names) as world:
        world.start(MaxStartups="100")
        deploy(first, world, names[0], "--dry-run")
        one, many = deploy(first, world, names[0]), deploy(first, world, *names[1:])
    print(f"{hosts} at once: {many / one:.2f} times the time of one")


def main() -> None:
    """Both."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--hosts", type=int, default=10)
    hosts: int = parser.parse_args().hosts
    with tempfile.TemporaryDirectory(prefix="twd-deploy-") as made:
        folder = Path(made)
        home = folder / "first" / "home"
        home.parent.mkdir()
        (home.parent / "lend.yaml").write_text(LEND)
        with running(home, "edge", "metrics", TWD_BUS_HOST="0.0.0.0", TWD_NODE="first") as first:
            again(first, folder / "bare")
            at_once(first, folder / "many", hosts)


if __name__ == "__main__":
    main()
