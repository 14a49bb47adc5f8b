"""What every command uses: the settings, the state folder, the connection to the running system."""

import os
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from twd.kit.errors import CommandError
from twd.kit.exit_codes import ExitCode
from twd.kit.ids import node_id
from twd.process.heartbeat import VARIABLE
from twd.process.home import RESOLVED_VARIABLE, RunningInstance, StateFolder, Unrecorded
from twd.process.notify import NotifySocket
from twd.settings.broker import with_broker
from twd.settings.model import Settings
from twd.supervisor.guard import NOBODY
from twd.wire.base import NodeId

if TYPE_CHECKING:
    from twd.bus.nats.bus import NatsBus
    from twd.settings.load import Loaded

OWN_VARIABLES: Final = frozenset({RESOLVED_VARIABLE, VARIABLE, "TWD_DEBUG"})
BUS_WAIT_S: Final = 3.0


class CliContext:
    """One command's view of the installation."""

    def __init__(
        self, config: str | None = None, environment: Mapping[str, str] = os.environ, own_process: bool = False
    ) -> None:
        """`own_process`: this process is there for the command alone."""
        self.config = config
        self.own_process = own_process
        self.environment = {name: value for name, value in environment.items() if name not in OWN_VARIABLES}
        self._resolved = environment.get(RESOLVED_VARIABLE)
        self.guard = NOBODY
        """The process that restarts this one if it is killed."""
        self.service_manager: NotifySocket | None = None
        """The way to the service manager that started this process."""

    @cached_property
    def loaded(self) -> "Loaded":
        """The settings and the source of each."""
        from twd.settings.load import load_settings

        return load_settings(self.config, self.environment, Path.cwd(), Path.home())

    @cached_property
    def settings(self) -> Settings:
        """The settings; a supervisor's child reads what its supervisor resolved."""
        if self._resolved and self.config is None:
            return msgspec.json.decode(Path(self._resolved).read_bytes(), type=Settings)
        return self.loaded.settings

    def read_again(self) -> Settings:
        """Read the settings once more, as a reload does; the files may have changed meanwhile."""
        from twd.settings.load import load_settings

        return load_settings(self.config, self.environment, Path.cwd(), Path.home()).settings

    @cached_property
    def home(self) -> StateFolder:
        """The state folder."""
        return StateFolder(self.settings.home_dir)

    @property
    def node(self) -> NodeId:
        """This machine's name on the bus."""
        return node_id(self.settings.node or socket.gethostname())

    @property
    def here(self) -> NodeId:
        """The machine's name in the running instance, which may have other settings than this terminal."""
        instance = self.instance()
        return NodeId(instance.node) if instance else self.node

    def instance(self) -> RunningInstance | None:
        """Return the instance that runs here now, or None."""
        try:
            return self.home.running()
        except Unrecorded as error:
            raise CommandError(ExitCode.FAULT, str(error)) from None

    def with_bus(self) -> Settings:
        """Return the settings with a bus: the configured one, else that of the instance that runs here."""
        settings = self.settings
        if settings.bus.url:
            return settings
        instance = self.instance()
        if instance is None:
            text = f"nothing runs in {self.home.path}; `twd up` starts it, and `twd join` joins another machine's"
            raise CommandError(ExitCode.NOTHING_RUNS, f"{text} (`twd token add` there prints what it needs)")
        if not instance.bus_url:
            text = f"twd has just started in {self.home.path} ({instance.named()}); try again in a moment"
            raise CommandError(ExitCode.UNHEALTHY, text)
        ways = {"token": instance.bus_token, "nkey_dir": instance.bus_keys}
        return with_broker(settings, instance.bus_url, instance.bus_fingerprint, **ways)

    @asynccontextmanager
    async def bus(self, role: str = "watcher") -> AsyncIterator["NatsBus"]:
        """A connection to the running system."""
        from twd.kit.connect import connect

        bus = await connect(self.with_bus(), role, self.node, BUS_WAIT_S)
        try:
            yield bus
        finally:
            await bus.close()
