"""Models on their way from machine to machine: who wants which file, how far it is, who has what."""

from typing import Annotated

from msgspec import Meta

from twd.wire.base import Count, Event, InstanceId, Name, NodeId, Part
from twd.wire.failures import Failure

Root = Annotated[str, Meta(pattern=r"^([0-9a-f]{64})?\Z")]
Url = Annotated[str, Meta(max_length=2048)]
Rate = Annotated[float, Meta(ge=0)]
Seconds = Annotated[float, Meta(ge=0)]


class LayerRange(Part, frozen=True):
    """Some layers of a model: from `first` up to, not including, `end`, and perhaps the output head."""

    first: Count
    end: Count
    head: bool = False


class PullWanted(Event, frozen=True, tag="twd.v1.pull.wanted"):
    """A machine is asked to have a file; asking twice changes nothing."""

    node: NodeId
    root: Root = ""
    """The file's root in the swarm; empty: `file` names it."""
    file: Annotated[str, Meta(max_length=256)] = ""
    hash: Annotated[str, Meta(max_length=64)] = ""
    """Its quick hash, as agents list it, where no root is known."""
    dest: Annotated[str, Meta(max_length=4096)] = ""
    """A file or folder on that machine; empty: its folder of models."""
    ranges: Annotated[list[tuple[Count, Count]], Meta(max_length=65_536)] = []
    """Only the units that hold these bytes, as [begin, end); empty: the whole file."""
    proof: Annotated[str, Meta(max_length=128)] = ""
    """Shows that who asks may read that machine's state folder: only he names other places than folders of models."""
    layers: LayerRange | None = None
    """Only these layers: what holds them is fetched, and a slice is cut from it."""
    headers: bool = False
    """Only the headers of its files, which coordinators plan with; the answer comes when they are there."""
    spec: Annotated[str, Meta(max_length=1024)] = ""
    """A model on a hub, as `twd pull` takes it, instead of one that machines have."""
    revision: Annotated[str, Meta(max_length=128)] = ""
    """Of a repository: branch, tag or commit; empty: main."""


class PullUnwanted(Event, frozen=True, tag="twd.v1.pull.unwanted"):
    """A machine is asked to stop fetching a file; what came is kept."""

    node: NodeId
    root: Root
    hash: Annotated[str, Meta(max_length=64)] = ""
    """With `layers`: the quick hash of their model, as no root may be known yet."""
    layers: LayerRange | None = None


class PullAnswered(Event, frozen=True, tag="twd.v1.pull.answered"):
    """What became of a wish: the file is on its way, or there already, or why it is not."""

    node: NodeId
    root: Root = ""
    file: Annotated[str, Meta(max_length=256)] = ""
    path: Annotated[str, Meta(max_length=4096)] = ""
    total_bytes: Count = 0
    done: bool = False
    failure: Failure | None = None
    more: Annotated[list[Root], Meta(max_length=1024)] = []
    """Of a model on a hub: its other files that come, by SHA-256, as `root` is then."""


class PullProgressed(Event, frozen=True, tag="twd.v1.pull.progressed"):
    """How far a file is; at most twice a second for each."""

    node: NodeId
    root: Root
    file: Name
    done_bytes: Count
    total_bytes: Count
    bytes_s: Rate = 0.0
    eta_s: Seconds | None = None
    """None: nothing comes."""
    sources: Count = 0
    banned: Count = 0
    hash: Annotated[str, Meta(max_length=64)] = ""
    layers: LayerRange | None = None
    """Where only some layers of the model with this quick hash are fetched."""


class PullFinished(Event, frozen=True, tag="twd.v1.pull.finished"):
    """A file is whole and has its name, or the ranges that were wanted are there."""

    node: NodeId
    root: Root
    file: Name
    path: Annotated[str, Meta(max_length=4096)]
    total_bytes: Count
    fetched_bytes: Count = 0
    wasted_bytes: Count = 0
    """Came twice, or was wrong."""
    ms: Count = 0
    hash: Annotated[str, Meta(max_length=64)] = ""
    layers: LayerRange | None = None
    """Where only these were fetched; `path` is the slice then."""


class PullFailed(Event, frozen=True, tag="twd.v1.pull.failed"):
    """A file did not come: no source, a full disk, wrong bytes; what came is kept."""

    node: NodeId
    root: Root
    file: Name
    failure: Failure
    hash: Annotated[str, Meta(max_length=64)] = ""
    layers: LayerRange | None = None


class SeedChanged(Event, frozen=True, tag="twd.v1.seed.changed"):
    """A machine began to share a file, has it whole now, or shares it no more (`units` is 0 then)."""

    node: NodeId
    root: Root
    file: Name
    have: Count
    units: Count


class PeerBanned(Event, frozen=True, tag="twd.v1.peer.banned"):
    """A machine sent bytes that are not what their hash says; it is not asked for this file again."""

    node: NodeId
    """Who banned it."""
    root: Root
    file: Name
    peer: Url
    reason: Annotated[str, Meta(max_length=1024)]
    unit: Count = 0
    """Which MiB it was."""


class SharedFile(Part, frozen=True):
    """What a machine has of a file, as its swarm's lease tells it; one without a root was not read yet."""

    file: Name
    size: Count
    root: Root = ""
    have: Count = 0
    units: Count = 0
    hash: Annotated[str, Meta(max_length=64)] = ""


class SwarmDoor(Part, frozen=True):
    """Where other machines of the bus take bytes, and by which certificate they know that it is this one."""

    host: Name
    port: Annotated[int, Meta(ge=1, le=65535)]
    certificate: Annotated[str, Meta(max_length=16_384)] = ""
    """In PEM; empty where the way is not encrypted."""


class SliceHere(Part, frozen=True):
    """A slice that a machine has, whether or not it has the whole model with this quick hash."""

    hash: Annotated[str, Meta(max_length=64)]
    layers: LayerRange


class Fetching(Part, frozen=True):
    """Layers of a model that a machine fetches now; with a `problem`: that it could not fetch."""

    hash: Annotated[str, Meta(max_length=64)]
    layers: LayerRange
    done_bytes: Count = 0
    total_bytes: Count = 0
    """0: not known yet."""
    bytes_s: Rate = 0.0
    problem: Annotated[str, Meta(max_length=1024)] = ""


class Store(Part, frozen=True):
    """What a machine keeps of models whose files it does not have, and whether it takes more."""

    accepts: bool = False
    room_bytes: Count = 0
    """What it may still take: of its disk, and of `swarm.disk_gib`."""
    slices: list[SliceHere] = []
    fetching: list[Fetching] = []


class HubFacts(Part, frozen=True):
    """What a machine has of files that hubs know by their SHA-256, and how it asks hubs."""

    files: Annotated[list[Root], Meta(max_length=512)] = []
    """The SHA-256 of each such file, whole or on its way."""
    endpoint: Annotated[str, Meta(max_length=2048)] = ""
    """Its HF_ENDPOINT."""
    token: bool = False
    """Whether it has a token there."""


HUB_READERS = tuple(f"swarm.hub{number}" for number in range(8))
"""Keys of claims: so many files come from hubs at the same time, each read there by one machine."""


class HubReader(Part, frozen=True):
    """The value of a claim: which service reads a file from its hub, so that no other one does."""

    instance: InstanceId
    sha256: Root
