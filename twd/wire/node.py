"""Machines: how one joins and leaves, what it is and has, and which processes its agent runs for others."""

import enum
from typing import Annotated, Final

from msgspec import Meta

from twd.wire.base import Count, Event, InstanceId, Name, NodeId, Part, Share
from twd.wire.failures import Failure
from twd.wire.names import subject_token
from twd.wire.reading import read_as

Port = Annotated[int, Meta(ge=0, le=65535)]
Text = Annotated[str, Meta(max_length=1024)]

CPU: Final = "CPU"
"""A machine's own memory and cores, where devices are named."""


class WeightShare(Part, frozen=True):
    """The share of a model's layers that is of one kind of weights."""

    kind: Name
    share: Share


class MeasuredStep(Part, frozen=True):
    """A whole model on one device, and what one token took there without drafts."""

    layers: Count
    weight_bytes: Count
    """Of its layers."""
    kinds: Annotated[list[WeightShare], Meta(max_length=16)] = []
    head_bytes: Count = 0
    head_kind: str = ""
    ms: Annotated[float, Meta(ge=0)] = 0.0
    window: Annotated[float, Meta(ge=0)] = 0.0
    """How many times as long eight tokens took together; 0: not measured."""
    device: Text = ""
    """llama.cpp's name of the device; empty: the processor."""


class CpuFacts(Part, frozen=True):
    """The processor. `bandwidth` is what all cores together read of memory, in bytes a second; 0: not measured."""

    name: Text = ""
    cores: Count = 1
    threads: Count = 1
    features: list[str] = []
    bandwidth: Count = 0
    measured: Annotated[list[MeasuredStep], Meta(max_length=32)] = []
    """What models took here, as loading them showed."""


class MemoryFacts(Part, frozen=True):
    """Memory for processes; `available` minds the limits of a container."""

    total: Count = 0
    available: Count = 0
    swap_total: Count = 0
    swap_free: Count = 0
    host_available: Count = 0
    """What is free on the whole computer, whatever the limits of a container; 0: not told."""


class GpuFacts(Part, frozen=True):
    """One device with memory of its own, or with a part of the machine's. `bandwidth` is as a processor's."""

    name: Text
    backend: str
    """cuda, hip, metal, vulkan, or what the engine calls it."""
    index: Count = 0
    total: Count = 0
    free: Count = 0
    driver: Text = ""
    shared: bool = False
    """Its memory is the machine's own."""
    bandwidth: Count = 0
    place: Text = ""
    """Where it is on its computer's bus, which all who see it there tell alike; empty: not known."""
    device: Text = ""
    """llama.cpp's own name of it; empty: not known."""
    measured: Annotated[list[MeasuredStep], Meta(max_length=32)] = []
    """What models took on it, as loading them showed."""


class DiskFacts(Part, frozen=True):
    """A disk that holds models or state."""

    path: Text
    total: Count = 0
    free: Count = 0
    read_bytes_s: Count = 0
    """What it gives of a model here and there, in bytes a second; 0: not measured."""


class ModelFile(Part, frozen=True):
    """A GGUF file on disk. `hash` covers its size, head and tail: quick, and enough to tell copies apart."""

    name: Name
    path: str
    size_bytes: Count
    hash: str = ""
    architecture: str = ""
    quantization: str = ""
    parameters: Count = 0
    layers: Count = 0
    ctx_size: Count = 0
    shards: Count = 1
    problem: Text = ""
    """Why it cannot be used, if it cannot."""


class Build(Part, frozen=True):
    """A build of llama.cpp: our engine's own, or a program."""

    name: Name
    version: Text = ""
    path: str = ""
    backends: list[str] = []
    rpc: str = ""
    """The version of the RPC protocol that it speaks, where that is known."""


class ProcessKind(enum.StrEnum):
    """What an agent knows how to run."""

    RPC = "rpc"
    """llama.cpp's RPC worker: it lends devices."""
    STAGE = "stage"
    """A slice of a model's layers in a ring."""
    DRAFTER = "drafter"
    """A draft model, which guesses ahead of other machines' models."""
    SWARM = "swarm"
    """What gives models to other machines and takes them from there; one on each machine is enough."""


READY: Final = "ready"
"""The state of a process that can be used."""


class ProcessFacts(Part, frozen=True):
    """A process that an agent keeps alive."""

    process: Name
    kind: ProcessKind
    state: str
    pid: Count = 0
    restarts: Count = 0
    host: str = ""
    port: Port = 0
    program: str = ""
    version: str = ""
    note: Text = ""
    cert: Annotated[str, Meta(max_length=8192)] = ""
    """The certificate with which the way to it is encrypted, as PEM; empty: the way is open."""
    devices: Annotated[list[Name], Meta(max_length=64)] = []
    """Those that a guest's worker lends, in its order, by their names among all of the machine."""


class NodeFacts(Part, frozen=True):
    """One machine as its agent sees it; also the value of the machine's key in the registry."""

    node: NodeId
    instance: InstanceId
    machine: str
    """Tells two machines of one name apart."""
    pid: Count
    hostname: str = ""
    platform: str = ""
    version: str = ""
    peer_url: str = ""
    cpu: CpuFacts = CpuFacts()
    memory: MemoryFacts = MemoryFacts()
    gpus: Annotated[list[GpuFacts], Meta(max_length=64)] = []
    disks: Annotated[list[DiskFacts], Meta(max_length=64)] = []
    models: Annotated[list[ModelFile], Meta(max_length=256)] = []
    builds: Annotated[list[Build], Meta(max_length=32)] = []
    processes: Annotated[list[ProcessFacts], Meta(max_length=64)] = []
    notes: list[Text] = []
    looking: bool = False
    """Its agent has just started, and has not seen everything yet."""
    lends: bool = False
    """Other machines reach its workers and stages."""
    link_ms: Annotated[float, Meta(ge=0)] = 0.0
    """The round trip to its processes, where connecting to its agent does not tell that."""
    guest: bool = False
    """No agent looks after it: its RPC workers were there already, and the coordinator tells of them."""
    accepts: bool = False
    """Others may ask it to take models in."""
    computer: Text = ""
    """The same for all agents on one computer, but for those in networks of their own; empty: this one counts alone."""


class NodeChanged(Event, frozen=True, tag="twd.v1.node.changed"):
    """A machine joined, or something of it changed that others should know."""

    node: NodeId
    facts: NodeFacts


class StageWanted(Part, frozen=True):
    """Which slice of which model a stage holds. The file is found by name and hash on the machine itself."""

    model: Name
    file: Name
    hash: str = ""
    first: Count = 0
    end: Count = 0
    head: bool = False
    ctx_size: Count = 0
    parallel: Count = 1
    type_k: str = ""
    type_v: str = ""
    exact: bool = True
    device: str = ""
    """On which device, by its name there; empty: the engine's choice."""
    flash_attention: bool = True
    mmap: bool = True
    moe_stream: str = "auto"
    """Whether experts are read from disk while it computes: auto, on or off."""
    moe_memory: Count = 0
    """Bytes for its experts that are read so; 0: what is free."""


class DrafterWanted(Part, frozen=True):
    """Which draft model a machine runs: its own copy of the file with this hash, or the file that its settings name."""

    name: Name
    path: Annotated[str, Meta(max_length=4096)]
    hash: str = ""
    for_model: str = ""
    """Empty: every model whose tokens it speaks."""
    ctx_size: Count = 0
    gpu_layers: Annotated[str, Meta(max_length=16)] = ""
    """A number; empty: as many as there is room for."""


class ProcessWanted(Event, frozen=True, tag="twd.v1.process.wanted"):
    """A machine is asked to run a process and keep it alive; asking twice changes nothing."""

    node: NodeId
    process: Name
    kind: ProcessKind
    port: Port = 0
    """0: a free one."""
    program: str = ""
    """Empty: our own engine; otherwise a program that the machine allows."""
    threads: Count = 0
    devices: Annotated[list[Name], Meta(max_length=64)] = []
    """Those that an RPC worker lends, in this order; empty: its own choice."""
    stage: StageWanted | None = None
    drafter: DrafterWanted | None = None


class ProcessUnwanted(Event, frozen=True, tag="twd.v1.process.unwanted"):
    """A machine is asked to end a process; one that does not run is no error."""

    node: NodeId
    process: Name


class ProcessAnswered(Event, frozen=True, tag="twd.v1.process.answered"):
    """What became of a wish: the process as it runs now, or why it does not."""

    node: NodeId
    process: Name
    facts: ProcessFacts | None = None
    failure: Failure | None = None


class ProcessStarted(Event, frozen=True, tag="twd.v1.process.started"):
    """A process of a machine runs and answers."""

    node: NodeId
    facts: ProcessFacts


class ProcessStopped(Event, frozen=True, tag="twd.v1.process.stopped"):
    """A process of a machine ended for good, as somebody wished."""

    node: NodeId
    process: Name
    reason: str = ""


GUEST_KEYS: Final = "coordinator.guest."
"""So begin the registry's keys of machines that a coordinator tells of."""


def node_key(node: str) -> str:
    """Where the registry keeps what an agent tells of its machine."""
    return f"agent.{subject_token(node)}.claim"


def read_node(value: bytes, key: str) -> NodeFacts | None:
    """A machine's facts as they stand in the registry under its name; None for anything else."""
    facts = read_as(NodeFacts, value)
    if facts is None or key not in (node_key(facts.node), f"{GUEST_KEYS}{facts.node}"):
        return None
    return facts


# -- joining and leaving -----------------------------------------------------------------------------

PublicKey = Annotated[str, Meta(pattern="^U[A-Z2-7]{55}$")]


class JoinRequested(Event, frozen=True, tag="twd.v1.join.requested"):
    """A machine with a join token asks to be let in. It drew its keys itself, and tells the public ones."""

    node: NodeId
    keys: Annotated[dict[Name, PublicKey], Meta(max_length=64)]
    """Role -> public key; the token decides which of them count."""
    version: Annotated[str, Meta(max_length=64)] = ""


class LeaveRequested(Event, frozen=True, tag="twd.v1.leave.requested"):
    """A machine asks that its keys be taken out."""

    node: NodeId


class MembershipAnswered(Event, frozen=True, tag="twd.v1.membership.answered"):
    """What became of a request to join or to leave: the roles that the machine has now, or why not."""

    node: NodeId
    roles: list[str] = []
    """What the token is for."""
    bus_roles: list[str] = []
    """The roles on the bus whose keys count."""
    failure: Failure | None = None


class MachineRemoved(Event, frozen=True, tag="twd.v1.machine.removed"):
    """A machine was removed, or left: from now on the broker lets it in no longer. From the broker's machine alone."""

    node: NodeId
