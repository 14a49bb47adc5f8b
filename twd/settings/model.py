"""Every setting of twd in one frozen model, with its default, its range and the line that explains it."""

from pathlib import Path
from typing import Annotated, Final, Literal

from msgspec import Meta

from twd.net.addresses import is_loopback
from twd.settings.judges import ConsensusConfig as ConsensusConfig
from twd.settings.judges import GateConfig as GateConfig
from twd.settings.judges import GateRoute as GateRoute
from twd.settings.judges import ServerConfig as ServerConfig
from twd.settings.machines import AgentConfig as AgentConfig
from twd.settings.machines import BinariesConfig as BinariesConfig
from twd.settings.machines import CoordinatorConfig as CoordinatorConfig
from twd.settings.machines import GpuConfig as GpuConfig
from twd.settings.machines import LlamaServerConfig as LlamaServerConfig
from twd.settings.machines import PoolConfig as PoolConfig
from twd.settings.machines import SwarmConfig as SwarmConfig
from twd.settings.machines import WorkerConfig as WorkerConfig
from twd.settings.paths import path_of
from twd.settings.types import (
    Auto,
    BusUrl,
    CacheType,
    Compute,
    Count,
    FilePath,
    Fingerprint,
    FreePort,
    Gigabytes,
    Host,
    MaybeUrl,
    Mode,
    ModelName,
    Origin,
    Port,
    Positive,
    RequiredPath,
    Seconds,
    Secret,
    ServerKind,
    SettingSection,
    Switch,
    UrlPath,
    VariableName,
    about,
)

DEFAULT_NAMES: Final = ("default", "twd")
"""By these names clients ask for the default model."""


class BusTlsConfig(SettingSection, frozen=True):
    """TLS towards an outside broker."""

    ca: Annotated[FilePath, about("File of the authority that signed the broker's certificate.")] = ""
    cert: Annotated[FilePath, about("This client's certificate, where the broker asks for one.")] = ""
    key: Annotated[FilePath, about("The key of that certificate.")] = ""
    fingerprint: Annotated[
        Fingerprint, about("SHA-256 of the broker's certificate, which is then asked for no authority.")
    ] = ""

    def __post_init__(self) -> None:
        if bool(self.cert) != bool(self.key):
            raise ValueError("cert and key go together: give both or none")


class BusConfig(SettingSection, frozen=True):
    """The NATS broker. Without `url`, twd starts its own."""

    url: Annotated[BusUrl, about("Outside broker or cluster; empty: an embedded one.")] = ""
    host: Annotated[
        Host, about("Where the embedded broker listens; elsewhere than loopback by TLS, for `twd join`.")
    ] = "127.0.0.1"
    port: Annotated[Port, about("Port of the embedded broker; a free one if it is taken.")] = 4222
    token: Annotated[Secret, about("Token of the broker; an embedded one on loopback draws its own.")] = ""
    user: Annotated[str, about("User name at the outside broker.")] = ""
    password: Annotated[Secret, about("Password of that user.")] = ""
    nkey_file: Annotated[FilePath, about("File with an nkey seed for the outside broker.")] = ""
    nkey_dir: Annotated[FilePath, about("Folder with a seed for each role (`edge.nk`, ...), which takes its own.")] = ""
    creds_file: Annotated[FilePath, about("Credentials file for the outside broker.")] = ""
    tls: Annotated[BusTlsConfig, about("TLS towards the outside broker.")] = BusTlsConfig()

    @property
    def lets_others_in(self) -> bool:
        """Whether other machines reach the embedded broker: then it speaks TLS, and knows each of them by keys."""
        return not self.url and not is_loopback(self.host)

    def __post_init__(self) -> None:
        if bool(self.user) != bool(self.password):
            raise ValueError("user and password go together: give both or none")
        ways = [name for name in ("token", "user", "nkey_file", "nkey_dir", "creds_file") if getattr(self, name)]
        if len(ways) > 1:
            raise ValueError(f"{' and '.join(ways)} exclude each other: keep one way to sign in")
        if self.token and self.lets_others_in:
            text = f"token is for a broker on loopback or an outside one, and host is {self.host}"
            raise ValueError(f"{text}: leave it out, machines join by `twd token add` and `twd join`")


class EdgeTlsConfig(SettingSection, frozen=True):
    """TLS of the API itself."""

    cert: Annotated[FilePath, about("Certificate file; with `key` it turns HTTPS on.")] = ""
    key: Annotated[FilePath, about("Key file of the certificate.")] = ""

    def __post_init__(self) -> None:
        if bool(self.cert) != bool(self.key):
            raise ValueError("cert and key go together: give both or none")


class EdgeConfig(SettingSection, frozen=True):
    """The HTTP service that clients and browsers meet."""

    host: Annotated[Host, about("Where the API listens; off loopback it wants a key or token.")] = "127.0.0.1"
    port: Annotated[FreePort, about("Port of the API; 0 takes a free one.")] = 8088
    token: Annotated[Secret, about("One bearer token for everybody; `twd key` makes several.")] = ""
    allow_unauthenticated: Annotated[bool, about("Serve off loopback without any key.")] = False
    allowed_hosts: Annotated[tuple[str, ...], about("Host names that requests may use besides the bound one.")] = ()
    cors_origins: Annotated[tuple[Origin, ...], about("Web origins that may call the API from a browser.")] = ()
    tls: Annotated[EdgeTlsConfig, about("TLS of the API.")] = EdgeTlsConfig()
    max_tokens_limit: Annotated[Positive, about("Most tokens that one request may ask for.")] = 16_384
    max_body_size: Annotated[Positive, about("Largest request body in bytes.")] = 10_485_760
    max_queue: Annotated[Positive, about("Requests in progress and waiting before the next gets a 429.")] = 256
    deadline_s: Annotated[Seconds, about("Longest time for one request that names no deadline.")] = 600.0
    read_timeout_s: Annotated[Seconds, about("Time that a client has to send its request.")] = 30.0
    keepalive_s: Annotated[Seconds, about("Pause after which a silent stream gets a keep-alive comment.")] = 10.0
    allow_private_upstream: Annotated[bool, about("Let URLs of backends lead to private and loopback addresses.")] = (
        True
    )


class EngineConfig(SettingSection, frozen=True):
    """What every engine process on this machine gets."""

    backend: Annotated[Compute, about("Kind of device that computes; its known-good presets come with it.")] = "auto"
    env: Annotated[dict[VariableName, str], about("Environment of engine processes; wins over the presets.")] = {}
    extra_args: Annotated[tuple[str, ...], about("More arguments for llama-server.")] = ()


class ModelConfig(SettingSection, frozen=True):
    """A model that twd runs itself."""

    path: Annotated[RequiredPath, about("The GGUF file.")]
    default: Annotated[bool, about("Serve it as `default`; otherwise the first model is.")] = False
    serve: Annotated[bool, about("Serve it from the start; otherwise `twd start` or `twd swap` does.")] = True
    ctx_size: Annotated[Count, about("Tokens of context for one session; 0: as many as the model was made for.")] = 8192
    parallel: Annotated[Annotated[int, Meta(ge=1, le=256)], about("Sessions at once; each has its own context.")] = 4
    predict: Annotated[Positive, about("Tokens of an answer when the request names no limit.")] = 4096
    exact: Annotated[Auto | bool, about("Drafts never change the text; auto: wherever that costs little.")] = "auto"
    backend: Annotated[Compute, about("Kind of device for this model; auto: `engine.backend`.")] = "auto"
    gpu_layers: Annotated[Auto | Count, about("Layers on the GPU.")] = "auto"
    threads: Annotated[Auto | Positive, about("CPU threads.")] = "auto"
    flash_attn: Annotated[Switch, about("Flash attention; auto: on where the backend has it.")] = "auto"
    cache_type_k: Annotated[CacheType, about("Number format of the K cache.")] = "auto"
    cache_type_v: Annotated[CacheType, about("Number format of the V cache.")] = "auto"
    mmap: Annotated[Switch, about("Map the file instead of reading it.")] = "auto"
    chat_template: Annotated[FilePath, about("Jinja file in place of the model's own chat template.")] = ""
    stream_ms: Annotated[
        Annotated[int, Meta(ge=0, le=1000)],
        about("Pieces of a stream that come closer together than this leave as one; 0: none do."),
    ] = 80
    replicas: Annotated[Positive, about("Copies that serve it at once.")] = 1
    moe_stream: Annotated[
        Switch, about("Read a mixture's experts from disk while it computes; auto: if memory lacks.")
    ] = "auto"
    moe_memory_gb: Annotated[
        Auto | Gigabytes, about("Memory for experts that are read so, in each stage of a ring; auto: what is free.")
    ] = "auto"
    moe_placement: Annotated[
        Literal["off", "balanced", "profile-guided"], about("How a mixture's experts are spread over cards and memory.")
    ] = "off"
    moe_hot_profile: Annotated[FilePath, about("Profile of its experts; else the one that is kept.")] = ""

    @property
    def cache_types(self) -> tuple[str, str]:
        """The number formats of both caches to reckon with; `auto` counts as the largest one that it becomes."""
        type_k, type_v = ("f16" if kind == "auto" else kind for kind in (self.cache_type_k, self.cache_type_v))
        return type_k, type_v


class BackendConfig(ServerConfig, frozen=True):
    """Another program's server as a model that twd serves."""

    default: Annotated[bool, about("Serve it as `default`.")] = False


class DrafterConfig(SettingSection, frozen=True):
    """A small model that guesses ahead: a GGUF file or another program's server."""

    name: Annotated[str, about("Its name in status and metrics; empty: made from the model's.")] = ""
    path: Annotated[FilePath, about("GGUF file, for a drafter that twd runs.")] = ""
    head: Annotated[FilePath, about("GGUF file of a trained head (EAGLE-3, DFlash, DSpark, Gemma 4's).")] = ""
    url: Annotated[MaybeUrl, about("Address of a server that drafts, instead of `path`.")] = ""
    kind: Annotated[ServerKind, about("What that server is; auto: ask it.")] = "auto"
    model_name: Annotated[str, about("The model's name at that server.")] = ""
    api_key: Annotated[Secret, about("Key that the server asks for.")] = ""
    base_path: Annotated[UrlPath, about("Path before the server's API.")] = ""
    timeout_s: Annotated[Seconds, about("Silence after which the server counts as hung.")] = 30.0
    for_model: Annotated[str, about("Name of the model that it drafts for; empty: every model.")] = ""
    fallback: Annotated[bool, about("Draft only while the other drafters fail.")] = False
    node: Annotated[str, about("Machine that runs it; empty: the coordinator chooses.")] = ""
    threads: Annotated[Auto | Positive, about("CPU threads of its engine.")] = "auto"
    gpu_layers: Annotated[Auto | Count, about("Layers on the GPU.")] = "auto"

    def __post_init__(self) -> None:
        if [bool(one) for one in (self.path, self.url, self.head)].count(True) != 1:
            raise ValueError("a drafter has either a path (a GGUF file), a url (a server) or a head (a GGUF file)")


class NgramConfig(SettingSection, frozen=True):
    """Drafts copied from the prompt and the text so far; they need no model."""

    enabled: Annotated[bool, about("Use them.")] = True
    min_match: Annotated[Annotated[int, Meta(ge=1, le=16)], about("Tokens that must agree before copying.")] = 3
    recall_tokens: Annotated[
        Annotated[int, Meta(ge=0, le=1_048_576)], about("So much of the latest answers is searched, too; 0: none.")
    ] = 32_768

    @property
    def recalls(self) -> int:
        """So many tokens of the latest answers are searched."""
        return self.recall_tokens if self.enabled else 0


class SpeculationConfig(SettingSection, frozen=True):
    """How guesses are used. They change speed, never text."""

    enabled: Annotated[bool, about("Check guesses at all.")] = True
    max_draft_tokens: Annotated[
        Auto | Annotated[int, Meta(ge=1, le=256)], about("Most guesses checked in one pass; auto: by measured gain.")
    ] = "auto"
    windows_in_flight: Annotated[
        Auto | Annotated[int, Meta(ge=1, le=16)], about("Passes under way at once over a ring.")
    ] = "auto"
    ngram: Annotated[NgramConfig, about("Drafts without a model.")] = NgramConfig()
    own_head: Annotated[bool, about("Let the head in the model's file guess (multi-token prediction).")] = True
    fallback_on_draft_failure: Annotated[bool, about("Go on without drafts when drafters fail; off: fail the job.")] = (
        True
    )
    breaker_failures: Annotated[Positive, about("Failures in a row that put a drafter aside.")] = 3
    cooldown_s: Annotated[Seconds, about("How long it stays aside.")] = 30.0


class MetricsConfig(SettingSection, frozen=True):
    """Counters and the record of past requests."""

    history: Annotated[Annotated[int, Meta(ge=0, le=1_000_000)], about("Finished requests to remember.")] = 1000


class LogConfig(SettingSection, frozen=True):
    """What processes write about themselves."""

    level: Annotated[Literal["debug", "info", "warning", "error"], about("The least important line to write.")] = "info"
    format: Annotated[Literal["auto", "human", "json"], about("auto: human in a terminal, JSON elsewhere.")] = "auto"
    show_text: Annotated[bool, about("Let the words of answers into the history of jobs and their traces.")] = False


class Settings(SettingSection, frozen=True):
    """Everything that one installation reads."""

    home: Annotated[RequiredPath, about("Folder for state, logs, keys and models.")] = "~/.twd"
    node: Annotated[str, about("This machine's name on the bus; empty: its host name.")] = ""
    mode: Annotated[
        Mode,
        about("How requests are served that name no mode; combined: over a pool."),
    ] = "speculate"
    ram_reclaim: Annotated[Switch, about("Give page cache back after loading; auto: above half of free memory.")] = (
        "auto"
    )
    prewarm: Annotated[bool, about("Read a file ahead when it nearly fills the free memory.")] = True
    hang_s: Annotated[
        Auto | Annotated[float, Meta(ge=0, le=86_400)],
        about("A process without a sign of life for so many seconds is started anew; auto: 10; 0: never."),
    ] = "auto"
    bus: Annotated[BusConfig, about("The NATS broker.")] = BusConfig()
    edge: Annotated[EdgeConfig, about("The HTTP API and pages.")] = EdgeConfig()
    engine: Annotated[EngineConfig, about("Engine processes of this machine.")] = EngineConfig()
    models: Annotated[dict[ModelName, ModelConfig], about("Models that twd runs, by name.")] = {}
    backends: Annotated[
        dict[ModelName, BackendConfig], about("Models that other servers run, by the name they get here.")
    ] = {}
    speculation: Annotated[SpeculationConfig, about("How guesses are used.")] = SpeculationConfig()
    drafters: Annotated[tuple[DrafterConfig, ...], about("Who guesses ahead.")] = ()
    pool: Annotated[PoolConfig, about("Machines that hold one model together.")] = PoolConfig()
    agent: Annotated[AgentConfig, about("The service that looks after this machine.")] = AgentConfig()
    coordinator: Annotated[CoordinatorConfig, about("The service that decides what runs where.")] = CoordinatorConfig()
    consensus: Annotated[ConsensusConfig, about("Drafters that vote.")] = ConsensusConfig()
    gate: Annotated[GateConfig, about("A fleet that writes, a target that judges.")] = GateConfig()
    swarm: Annotated[SwarmConfig, about("Copies of models from peer to peer.")] = SwarmConfig()
    metrics: Annotated[MetricsConfig, about("Counters and history.")] = MetricsConfig()
    log: Annotated[LogConfig, about("Logs.")] = LogConfig()

    def __post_init__(self) -> None:
        both = sorted(self.models.keys() & self.backends.keys())
        if both:
            raise ValueError(f"{both[0]!r} is under models and under backends: rename one of them")
        defaults = [name for name, entry in self.served().items() if entry.default]
        if len(defaults) > 1:
            raise ValueError(f"{' and '.join(defaults)} are both marked default: keep one")
        self._check_references()

    def _check_references(self) -> None:
        wanted = [("drafters.for_model", drafter.for_model) for drafter in self.drafters]
        fleet = [("gate.fleet", name) for name in self.gate.fleet]
        for key, name in [*wanted, ("gate.verifier", self.gate.verifier), *fleet]:
            if name and name not in self.served():
                known = ", ".join(self.served()) or "none is configured"
                raise ValueError(f"{key} names {name!r}, which is neither under models nor under backends ({known})")

    def served(self) -> dict[str, ModelConfig | BackendConfig]:
        """Every configured model by name, those that twd runs first."""
        return {**self.models, **self.backends}

    @property
    def pooled(self) -> bool:
        """Whether models are spread over several machines."""
        return self.mode.startswith("combined")

    @property
    def default_model(self) -> str:
        """The name behind `default`: the marked model, else the first that is served; empty when there is none."""
        served = self.served()
        first = next((name for name, entry in served.items() if not isinstance(entry, ModelConfig) or entry.serve), "")
        return next((name for name, entry in served.items() if entry.default), first or next(iter(served), ""))

    @property
    def home_dir(self) -> Path:
        """The state folder."""
        return path_of(self.home)
