"""Real ssh servers on loopback, each with a home of its own, and an `ssh` that knows them."""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.waiting import wait_until
from twd.net.ports import free_port, listens_on

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
SSH_PORT = 22


class SshServer:
    """One machine to deploy to: a server that gives its sessions a home of their own."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.folder = folder / name
        self.home = self.folder / "home"
        self.port = free_port()
        self.home.mkdir(parents=True)
        self.address = "127.0.0.1"
        self.process: subprocess.Popen[bytes] | None = None
        self.key = self.folder / "host_key"
        self.make_key()

    def make_key(self) -> None:
        """Draw the key by which the machine is known."""
        self.key.unlink(missing_ok=True)
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.key)]
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL)

    def start(self, authorized: Path, **more: str) -> None:
        """Start it; `more` are other lines of its configuration."""
        lines = {
            "Port": str(self.port),
            "ListenAddress": "127.0.0.1",
            "HostKey": str(self.key),
            "AuthorizedKeysFile": str(authorized),
            "PidFile": "none",
            "StrictModes": "no",
            "UsePAM": "no",
            "PasswordAuthentication": "no",
            "PermitRootLogin": "yes",
            "SetEnv": f'HOME="{self.home}" PATH="{os.environ["PATH"]}"',
            **more,
        }
        config = self.folder / "sshd_config"
        config.write_text("".join(f"{key} {value}\n" for key, value in lines.items()))
        assert SSHD is not None
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen([SSHD, "-D", "-e", "-f", str(config)], stdout=log, stderr=log)
        process = self.process
        wait_until(lambda: listens_on(process.pid, self.port), f"sshd of {self.name} listens")

    def stop(self) -> None:
        """End it, with its sessions."""
        if self.process is not None:
            for child in psutil.Process(self.process.pid).children(recursive=True):
                child.kill()
            self.process.kill()
            self.process.wait(10)
            self.process = None

    def running(self) -> list[psutil.Process]:
        """Return what was started there and runs yet."""
        found = []
        for process in psutil.process_iter(["environ", "pid"]):
            environment = process.info["environ"] or {}
            inside = environment.get("HOME") == str(self.home) or str(self.home) in environment.get("TWD_RESOLVED", "")
            if inside and process.pid != os.getpid():
                found.append(process)
        return found

    def clean_up(self) -> None:
        """End all that runs there."""
        self.stop()
        for process in self.running():
            os.kill(process.pid, signal.SIGKILL)


class SshWorld:
    """Some machines, the key that opens them, and the folder for PATH with an `ssh` for them."""

    def __init__(self, folder: Path, servers: Sequence[SshServer]) -> None:
        self.folder = folder
        self.servers = {server.name: server for server in servers}
        self.bin = folder / "bin"
        self.bin.mkdir()
        self.key = folder / "id"
        self.said = folder / "command-lines"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.key)], check=True)
        self.known = folder / "known_hosts"
        self.know()
        self._write_ssh()

    @property
    def authorized(self) -> Path:
        """The file with our key, for the servers."""
        return self.key.with_name("id.pub")

    def know(self) -> None:
        """Know all servers by their keys."""
        lines = []
        for server in self.servers.values():
            public = server.key.with_name("host_key.pub").read_text()
            lines.append(f"{self._known_as(server)} {' '.join(public.split()[:2])}\n")
        self.known.write_text("".join(lines))

    @staticmethod
    def _known_as(server: SshServer) -> str:
        return server.address if server.port == SSH_PORT else f"[{server.address}]:{server.port}"

    @property
    def _identity(self) -> str:
        return f"IdentityFile {self.key}\nIdentitiesOnly yes\nUserKnownHostsFile {self.known}\n"

    def reach(self, server: SshServer, port: int) -> None:
        """Have ssh reach a server at another port, where something passes its bytes on."""
        config = self.folder / "ssh_config"
        alias = f"  HostKeyAlias {self._known_as(server)}\n"
        config.write_text(f"{self._identity}Host {server.name}\n  HostName 127.0.0.1\n  Port {port}\n{alias}")

    def _write_ssh(self) -> None:
        lines = [self._identity]
        lines += [f"Host {one.name}\n  HostName {one.address}\n  Port {one.port}\n" for one in self.servers.values()]
        config = self.folder / "ssh_config"
        config.write_text("".join(lines))
        program = self.bin / "ssh"
        program.write_text(f'#!/bin/sh\necho "$@" >> {self.said}\nexec {shutil.which("ssh")} -F {config} "$@"\n')
        program.chmod(0o755)

    def start(self, **more: str) -> None:
        """Start all servers."""
        for server in self.servers.values():
            server.start(self.authorized, **more)


@contextmanager
def ssh_world(folder: Path, *names: str) -> Iterator[SshWorld]:
    """Servers of these names, not started yet; gone in the end with all that ran there."""
    if SSHD is None or os.name == "nt" or os.getuid() != 0:
        pytest.skip("needs openssh-server, and root for its sessions")
    Path("/run/sshd").mkdir(exist_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    world = SshWorld(folder, [SshServer(name, folder) for name in names])
    try:
        yield world
    finally:
        for server in world.servers.values():
            server.clean_up()
