"""Who is gone: tells from the life events of services which instance just ended."""

from collections.abc import Iterable

from twd.wire.base import Event, InstanceId, NodeId
from twd.wire.service import ServiceExited, ServiceFaulted, ServiceLease, ServiceStarted, ServiceStopped

_KNOWN_MAX = 4096


class InstanceTracker:
    """Remembers which process each instance is, because a supervisor sees only processes end."""

    def __init__(self) -> None:
        self._instances: dict[tuple[NodeId, int], InstanceId] = {}

    def hear(self, event: Event) -> InstanceId | None:
        """The instance that this event declares gone, if it does so."""
        match event:
            case ServiceStarted():
                self._remember(event.node, event.pid, event.source)
                return None
            case ServiceStopped() | ServiceFaulted():
                return event.source
            case ServiceExited():
                return self._instances.pop((event.node, event.pid), None)
            case _:
                return None

    def see(self, leases: Iterable[ServiceLease]) -> None:
        """Learn from the registry the processes that started before this one listened."""
        for lease in leases:
            if (lease.node, lease.pid) not in self._instances:
                self._remember(lease.node, lease.pid, lease.instance)

    def _remember(self, node: NodeId, pid: int, instance: InstanceId) -> None:
        if len(self._instances) >= _KNOWN_MAX:
            self._instances.pop(next(iter(self._instances)))
        self._instances[node, pid] = instance
