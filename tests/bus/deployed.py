"""The files of `deploy/nats`, set up in a folder of the test's own, and servers that run them."""

import atexit
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

from tests.bus.conftest import wait_for_ports
from twd.bus.address import BusAddress, Tls
from twd.bus.broker import server_binary
from twd.bus.nats.bus import NatsBus
from twd.bus.nats.states import OnEvent, log_event
from twd.bus.permissions import ROLE_NAMES

DEPLOY = Path(__file__).parents[2] / "deploy" / "nats"


NODES = ("node1", "node2")
"""Machine by machine, every role; on the second, for model `b` alone."""
OF_MODEL = ("speculator", "relay", "drafter")
MACHINES = "".join(
    f"{node}:\n" + "".join(f"  {role}: [{model}]\n" if role in OF_MODEL else f"  {role}:\n" for role in ROLE_NAMES)
    for node, model in zip(NODES, ("a", "b"), strict=True)
)


@cache
def _made(machines: str) -> Path:
    """The folder with keys and certificates, made once for all tests of this process: that takes a second."""
    folder = Path(mkdtemp())
    atexit.register(shutil.rmtree, folder)
    make(folder, machines)
    return folder


def make(folder: Path, machines: str = MACHINES) -> None:
    """Make the folder, with keys and certificates of its own."""
    shutil.copytree(DEPLOY, folder, ignore=shutil.ignore_patterns("keys", "certs", "store"), dirs_exist_ok=True)
    (folder / "machines.yaml").write_text(machines)
    subprocess.run([sys.executable, "make_keys.py"], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["./make_certs.sh"], cwd=folder, check=True, stdout=subprocess.DEVNULL)


class Deployment:
    """A copy of that folder, and the servers started from it."""

    def __init__(self, folder: Path, machines: str = MACHINES) -> None:
        self.folder = folder
        self.processes: list[subprocess.Popen[bytes]] = []
        shutil.copytree(_made(machines), folder, dirs_exist_ok=True)

    def start(self, config: str, *options: str, env: Mapping[str, str] | None = None) -> int:
        """Start a server on loopback, in a folder of its own, and return its port."""
        home = self._home()
        argv = [str(server_binary()), "-c", config, "-a", "127.0.0.1", "-p", "-1", "-m", "-1", *options]
        with (home / "log").open("wb") as out:
            process = subprocess.Popen(
                [*argv, "--ports_file_dir", str(home)],
                cwd=home,
                stdout=out,
                stderr=out,
                env={**os.environ, **(env or {})},
            )
        self.processes.append(process)
        try:
            return wait_for_ports(home / f"nats-server_{process.pid}.ports", process)
        except AssertionError:
            raise AssertionError((home / "log").read_text()) from None

    def _home(self) -> Path:
        home = self.folder / f"server{len(self.processes)}"
        home.mkdir()
        for path in self.folder.iterdir():
            if path.suffix == ".conf" or path.name in ("keys", "certs"):
                (home / path.name).symlink_to(path)
        return home

    def end(self) -> None:
        """Kill every server."""
        for process in self.processes:
            process.kill()
            process.wait(10)

    def make_buckets(self, port: int, node: str = "node1") -> None:
        """What is done once, with the admin's key."""
        address = self.address("admin", port, node=node)
        env = {"TWD_BUS_URL": address.url, "TWD_BUS_TLS_CA": address.tls.ca, "TWD_BUS_NKEY_FILE": address.nkey_file}
        done = [sys.executable, "make_buckets.py"]
        env |= {"TWD_NODE": node, "TWD_HOME": str(self.folder / "home")}
        subprocess.run(done, cwd=self.folder, check=True, stdout=subprocess.DEVNULL, env={**os.environ, **env})

    def address(self, role: str, port: int, scheme: str = "tls", node: str = "node1") -> BusAddress:
        """Where and how a role of a machine signs in."""
        return BusAddress(
            f"{scheme}://127.0.0.1:{port}",
            nkey_file=str(self.folder / "keys" / node / f"{role}.nk"),
            tls=Tls(ca=str(self.folder / "certs" / "ca.pem")),
        )

    async def connect(self, role: str, port: int, on_event: OnEvent = log_event, node: str = "node1") -> NatsBus:
        """A connection of a role, named as a service names it."""
        return await NatsBus.connect(self.address(role, port, node=node), name=f"{role}.{node}", on_event=on_event)
