"""What the services of a machine tell in their leases: its agent, its swarm service, its supervisor."""

from twd.wire.base import Count, Part
from twd.wire.leases.base import LeaseFacts
from twd.wire.swarm import HubFacts, SharedFile, Store, SwarmDoor


class HungProcess(Part, frozen=True):
    """A process that was ended because it was hung."""

    process: str
    why: str
    times: Count = 1
    at_ms: Count = 0
    """When it hung last."""


class AgentFacts(LeaseFacts, frozen=True):
    """A machine in short; its key of its own tells the rest."""

    url: str = ""
    cores: Count = 0
    memory_bytes: Count = 0
    available_bytes: Count = 0
    gpus: list[str] = []
    """In words."""
    models: Count = 0
    processes: list[str] = []
    hung: list[HungProcess] = []


class SwarmFacts(LeaseFacts, frozen=True):
    """Where a machine gives files, and which."""

    url: str = ""
    pulling: list[str] = []
    files: list[SharedFile] = []
    store: Store = Store()
    hub: HubFacts = HubFacts()
    door: SwarmDoor | None = None
    """Where other machines fetch; None: they cannot."""


class SupervisorFacts(LeaseFacts, frozen=True):
    """What `twd up` does on this machine."""

    models: list[str] | None = None
    """The models that it serves, once they differ from the settings."""
    default_model: str = ""
    hung: list[HungProcess] = []
