"""The embedded broker as a process of the installation: started before all others, and used when it answers."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from twd.bus.broker import EmbeddedBroker
from twd.kit.clock import Clock
from twd.kit.errors import CommandError
from twd.kit.exit_codes import ExitCode
from twd.membership.hosting import make_bucket_for_claims
from twd.process.process_table import ProcessRow, ProcessTable
from twd.process.supervisor import ChildProcess, ProcessSpec, ProcessState, Supervisor
from twd.settings.broker import with_broker
from twd.settings.model import Settings
from twd.wire.base import NodeId

BROKER: Final = "broker"
BROKER_WAIT_S: Final = 10.0
BROKER_LOOK_S: Final = 0.02


class OwnBroker:
    """One embedded broker and the supervisor of its process."""

    def __init__(
        self,
        broker: EmbeddedBroker,
        settings: Settings,
        node: NodeId,
        table: ProcessTable,
        clock: Clock,
        changed: Callable[[], None],
    ) -> None:
        self.supervisor: Supervisor | None = None
        self._broker = broker
        self._plain = settings
        self._node = node
        self._table = table
        self._clock = clock
        self._changed = changed
        self._up = asyncio.Event()

    @property
    def settings(self) -> Settings:
        """The settings with this broker as the bus."""
        address, users = self._broker.address, self._broker.users
        keys = str(users.own_keys) if users is not None else ""
        return with_broker(self._plain, address.url, address.tls.fingerprint, token=address.token, nkey_dir=keys)

    @property
    def knows_machines(self) -> bool:
        """Whether each machine signs in by keys of its own, and others may join."""
        return self._broker.users is not None

    async def start(self, supervise: Callable[[Sequence[ProcessSpec]], Supervisor]) -> None:
        """Start it; on return it can be used. Raises CommandError when it takes too long."""
        self._table.rows = {BROKER: ProcessRow(name=BROKER, leased=False), **self._table.rows}
        self.supervisor = supervise([self._spec()])
        self.supervisor.start()
        try:
            await asyncio.wait_for(self._up.wait(), BROKER_WAIT_S)
        except TimeoutError:
            words = self.supervisor.children[BROKER].last_words
            raise CommandError(ExitCode.BUS_DOWN, f"the broker does not start: {words}") from None

    def _spec(self) -> ProcessSpec:
        broker = self._broker
        return ProcessSpec(
            BROKER,
            tuple(broker.argv),
            foreign=True,
            prepare=broker.prepare,
            environment=broker.environment,
            answers=broker.ready,
        )

    async def comes(self, child: ChildProcess) -> None:
        """Wait until a process of it that was started answers, and note that; or until it ended."""
        pid = child.pid
        while child.pid == pid and child.state is ProcessState.RUNNING:
            if await self._broker.ready():
                if self.knows_machines:
                    await make_bucket_for_claims(self.settings, self._node)
                self._table.works(BROKER, self._clock.wall_ms())
                self._up.set()
                return self._changed()
            await asyncio.sleep(BROKER_LOOK_S)
        return None
