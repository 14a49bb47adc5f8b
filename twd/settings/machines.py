"""Settings of machines: the pool that they form, the agent of each, and what travels between them."""

from typing import Annotated, Literal

from msgspec import Meta

from twd.net.addresses import is_loopback
from twd.settings.types import (
    Auto,
    Cidr,
    FreePort,
    Host,
    MaybeHost,
    Port,
    RequiredPath,
    Secret,
    SettingSection,
    about,
)


class GpuConfig(SettingSection, frozen=True):
    """A device that a machine lends to the pool."""

    vram_gb: Annotated[Annotated[float, Meta(gt=0, le=4096)], about("Its memory in GB; it wins over detection.")]
    name: Annotated[str, about("What to call it.")] = ""
    rpc_port: Annotated[FreePort, about("Port of its RPC worker; 0: the machine's `rpc_port`.")] = 0


class WorkerConfig(SettingSection, frozen=True):
    """A machine of the pool."""

    host: Annotated[Host, about("Its address.")]
    gpus: Annotated[tuple[GpuConfig, ...], about("Its devices; empty: what its agent or RPC worker tells.")] = ()
    rpc_port: Annotated[Port, about("Port of its RPC worker; used where no agent of it is on the bus.")] = 50052
    peer_port: Annotated[Port, about("Port of its agent.")] = 9191
    ssh_user: Annotated[str, about("User for copies and for `twd deploy`, by ssh.")] = ""
    model_dir: Annotated[
        str, about("Folder for models there; `twd distribute` copies into it, `twd deploy` lets it be used.")
    ] = ""


class LlamaServerConfig(SettingSection, frozen=True):
    """llama-server as an outside engine over the pool, with its own API."""

    host: Annotated[Host, about("Where it listens.")] = "127.0.0.1"
    port: Annotated[Port, about("Its port.")] = 8090


class PoolConfig(SettingSection, frozen=True):
    """Several machines that hold one model together."""

    engine: Annotated[Literal["ring", "rpc", "llama-server"], about("Who passes the layers' states on.")] = "ring"
    gpus: Annotated[tuple[GpuConfig, ...], about("Devices of this machine; empty: what is detected.")] = ()
    workers: Annotated[
        tuple[WorkerConfig, ...], about("Other machines; agents join by themselves, and engine rpc takes others, too.")
    ] = ()
    split: Annotated[
        Literal["auto", "even"] | Annotated[tuple[Annotated[float, Meta(ge=0)], ...], Meta(min_length=1)],
        about("Share of each device, this machine's first; auto: by speed; even: the same."),
    ] = "auto"
    layers_at_home: Annotated[
        bool, about("Let the machine that serves hold layers; off: only if others have no room.")
    ] = True
    skip_version_check: Annotated[bool, about("Use machines whose build of llama.cpp does not match.")] = False
    host: Annotated[Host, about("Where stages and workers of this machine listen.")] = "127.0.0.1"
    stage_port: Annotated[FreePort, about("First port of the stages; 0 takes free ones.")] = 0
    key: Annotated[Secret, about("Preset key between stages; empty: exchanged over the bus.")] = ""
    trusted_lan: Annotated[
        bool, about("Leave out encryption between machines of the pool; those without an agent need that.")
    ] = False
    states: Annotated[Literal["f32", "f16"], about("Number format on the wire; f16 is not exact.")] = "f32"
    standby: Annotated[Annotated[int, Meta(ge=0, le=4)], about("Spare copies of each slice that wait ready.")] = 0
    fetch: Annotated[
        Literal["auto", "off"], about("Let machines without a model's file fetch the layers that they are to hold.")
    ] = "auto"
    worker_cache: Annotated[
        Auto | Annotated[float, Meta(ge=0)],
        about("GB of disk for weights that RPC workers here keep; auto: a quarter of the disk; 0: none."),
    ] = "auto"
    llama_server: Annotated[LlamaServerConfig, about("llama-server as the pool's engine.")] = LlamaServerConfig()

    def __post_init__(self) -> None:
        if isinstance(self.split, tuple) and not any(self.split):
            raise ValueError("split gives every device nothing: at least one share must be above 0")


class BinariesConfig(SettingSection, frozen=True):
    """Programs that the agent may start besides twd's own."""

    llama_server: Annotated[str, about("llama-server: a path, or a name on PATH.")] = "llama-server"
    rpc_server: Annotated[str, about("llama.cpp's RPC worker in place of our own: a path, or a name on PATH.")] = ""
    allow: Annotated[tuple[str, ...], about("More programs that the agent may start.")] = ()


class AgentConfig(SettingSection, frozen=True):
    """The service that looks after one machine, and its REST API."""

    host: Annotated[Host, about("Where its API listens; off loopback by HTTPS and with a token.")] = "127.0.0.1"
    port: Annotated[FreePort, about("Port of its API; 0 takes a free one.")] = 9191
    token: Annotated[Secret, about("Bearer token of its API.")] = ""
    allow_plaintext: Annotated[bool, about("Off loopback without TLS, so that others can read along.")] = False
    model_dirs: Annotated[tuple[RequiredPath, ...], about("Folders with GGUF files besides `models` in `home`.")] = ()
    binaries: Annotated[BinariesConfig, about("Programs that it may start.")] = BinariesConfig()
    counts_alone: Annotated[
        bool, about("Planned with as a computer of its own, though other agents run on the same one.")
    ] = False

    @property
    def encrypted(self) -> bool:
        """Whether its API speaks HTTPS, by this installation's own certificate."""
        return not (is_loopback(self.host) or self.allow_plaintext)


class CoordinatorConfig(SettingSection, frozen=True):
    """The service that decides what runs where."""

    lease_s: Annotated[
        Annotated[float, Meta(ge=1.0, le=10.0)], about("Silence after which a machine counts as gone.")
    ] = 5.0  # no more than LEASE_TTL_S: the registry forgets a key then


class SwarmConfig(SettingSection, frozen=True):
    """Models that travel from machine to machine, every MiB checked."""

    host: Annotated[MaybeHost, about("Where the seeder listens; empty: everywhere with a token, else on loopback.")] = (
        ""
    )
    port: Annotated[FreePort, about("Port of the seeder; 0 takes a free one.")] = 9080
    token: Annotated[Secret, about("Bearer token between peers.")] = ""
    allowed_ips: Annotated[tuple[Cidr, ...], about("Addresses that may pull; empty: all with the token.")] = ()
    piece_size_mib: Annotated[
        Annotated[int, Meta(ge=1, le=1024)], about("Size of a piece of manifests in MiB; a power of two.")
    ] = 64
    parallel: Annotated[Annotated[int, Meta(ge=1, le=64)], about("Requests of one pull at the same time.")] = 4
    upload_mib_s: Annotated[
        Annotated[float, Meta(ge=0)], about("Most MiB a second to other machines, all together; 0: no limit.")
    ] = 110.0
    download_mib_s: Annotated[
        Annotated[float, Meta(ge=0)], about("Most MiB a second from other machines, all together; 0: no limit.")
    ] = 0.0
    signers: Annotated[
        tuple[str, ...], about("Public nkeys whose signed manifests alone are believed; empty: all manifests.")
    ] = ()
    disk_gib: Annotated[
        Auto | Annotated[float, Meta(ge=0)],
        about("Most GiB of parts of models that came for their layers; auto: a quarter of the disk."),
    ] = "auto"
    accept: Annotated[bool, about("Take models in when asked to, though this machine lends nothing to a pool.")] = False

    def __post_init__(self) -> None:
        if self.piece_size_mib & (self.piece_size_mib - 1):
            raise ValueError(f"swarm.piece_size_mib is {self.piece_size_mib}, which is no power of two: take 64")
