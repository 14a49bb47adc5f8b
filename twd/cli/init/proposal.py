"""What was found on the network and on this machine, and which settings to propose for it. Pure."""

import ipaddress
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from twd.settings.model import AgentConfig, BackendConfig, DrafterConfig, ModelConfig, PoolConfig, Settings
from twd.wire.failures import FailureCode, TwdError

HOSTS_MAX: Final = 65_536
PORTS: Final = (11434, 8080, 8081, 8090, 1234, 8000, 30000)
"""Ollama, llama-server (three habits), LM Studio, vLLM, SGLang."""
DRAFT_SHARE: Final = 0.4
"""A drafter that takes more of its target's bytes than this hardly pays."""
DRAFTERS_MAX: Final = 2
ROOM_SHARE: Final = 0.85
"""Of the free memory: what a proposed target and its drafters may take together."""
LMSTUDIO_PORT: Final = 1234


@dataclass(frozen=True, slots=True)
class FoundModel:
    """A model that can be used: a file here, or a model of somebody else's server."""

    name: str
    path: str = ""
    url: str = ""
    kind: str = ""
    architecture: str = ""
    quantization: str = ""
    parameters: int = 0
    size_bytes: int = 0
    needed_bytes: int = 0
    """Memory for weights and contexts, where it would run here."""
    vocabulary: int = 0
    context: int = 0
    scores: bool = False
    own_head: bool = False
    """Its file has a head that guesses for it."""
    heads: tuple[str, ...] = ()
    """Files of trained heads that fit it."""
    problem: str = ""

    @property
    def where(self) -> str:
        """Its place, for people."""
        return self.path or self.url

    @property
    def program(self) -> str:
        """What runs it, for people."""
        if self.path:
            return "file"
        return "lmstudio" if self.kind == "openai" and self.url.endswith(f":{LMSTUDIO_PORT}") else self.kind

    @property
    def weight(self) -> int:
        """How big it is, by the best that is known: parameters, else what its name says."""
        return self.parameters or parameters_in(self.name) or self.size_bytes

    @property
    def family(self) -> str:
        """Models of one family guess well for each other."""
        return (self.architecture or re.split(r"[^a-z]", self.name.lower().lstrip("0123456789"), maxsplit=1)[0]).lower()

    @property
    def verifies(self) -> bool:
        """Whether guesses can be checked with it."""
        return bool(self.path) or self.scores


@dataclass(frozen=True, slots=True)
class FoundMachine:
    """A machine that an agent looks after."""

    node: str
    memory: int
    gpu_bytes: int
    models: int


@dataclass(frozen=True, slots=True)
class InitProposal:
    """What to serve, who guesses, and whether machines must hold it together."""

    target: FoundModel | None
    drafters: tuple[FoundModel, ...] = ()
    others: tuple[FoundModel, ...] = ()
    """Further servers, served under their own names."""
    pooled: bool = False
    why: str = ""

    @property
    def head(self) -> str:
        """The file of a trained head that guesses for the target; over machines none does."""
        return self.target.heads[0] if self.target is not None and self.target.heads and not self.pooled else ""


def parameters_in(name: str) -> int:
    """What a name like qwen3-32b or smollm2:135m says of the size; 0 if nothing."""
    sizes = re.findall(r"(?<![a-z0-9.])(\d+(?:\.\d+)?)(b|m)(?![a-z])", name.lower())
    return max((int(float(number) * (1e9 if unit == "b" else 1e6)) for number, unit in sizes), default=0)


def hosts_of(subnets: Iterable[str]) -> list[str]:
    """Every address of some networks, of any prefix length; refuses what nobody wants to wait for."""
    found: dict[str, None] = {}
    for text in subnets:
        try:
            network = ipaddress.ip_network(text, strict=False)
        except ValueError:
            wanted = "an address with a prefix length, such as 192.168.1.0/24"
            raise TwdError(FailureCode.BAD_REQUEST, f"--subnet {text!r} is no network: give {wanted}") from None
        if network.num_addresses > HOSTS_MAX:
            words = f"{text} has {network.num_addresses} addresses; {HOSTS_MAX} are the most"
            raise TwdError(FailureCode.BAD_REQUEST, f"{words}. Name smaller networks, --subnet can be repeated")
        found |= dict.fromkeys(str(host) for host in network.hosts())
    if len(found) > HOSTS_MAX:
        raise TwdError(FailureCode.BAD_REQUEST, f"{len(found)} addresses are too many; {HOSTS_MAX} are the most")
    return list(found)


def url_of(host: str, port: int) -> str:
    """The address of a server."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def propose(found: Sequence[FoundModel], peers: Sequence[FoundMachine], room: int) -> InitProposal:
    """The biggest model that can run becomes the target; small ones of its family guess for it."""
    usable = [one for one in found if not one.problem]
    budget = int(room * ROOM_SHARE)
    fitting = [one for one in usable if one.url or one.needed_bytes <= budget]
    target = max(fitting, key=_rank, default=None)
    biggest = max((one for one in usable if one.path), key=_rank, default=None)
    pool_bytes = sum(peer.memory + peer.gpu_bytes for peer in peers)
    if biggest is not None and biggest not in fitting and biggest.needed_bytes <= budget + pool_bytes:
        return propose_for(biggest, usable, room, pooled=True)
    return propose_for(target, usable, room)


def _rank(one: FoundModel) -> tuple[int, int, bool, str]:
    """Bigger is better; of two copies, the one with more bits, and one whose guesses can be checked."""
    return one.weight, one.size_bytes, one.verifies, one.name


def propose_for(
    target: FoundModel | None, found: Sequence[FoundModel], room: int, pooled: bool = False
) -> InitProposal:
    """Who guesses for this target, and what else is served."""
    if target is None:
        return InitProposal(None)
    usable = [one for one in found if not one.problem and one != target]
    left = room if pooled or target.url else int(room * ROOM_SHARE) - target.needed_bytes
    drafters: list[FoundModel] = []
    for one in sorted(usable, key=lambda one: (one.weight, one.size_bytes, one.name)):
        first_here = not any(chosen.path for chosen in drafters)  # two on one machine only share its cores
        fits = bool(one.url) or (first_here and one.needed_bytes <= left)
        if target.verifies and fits and guesses_for(one, target) and len(drafters) < DRAFTERS_MAX:
            drafters.append(one)
            left -= 0 if one.url else one.needed_bytes
    others = tuple(one for one in usable if one.url and one not in drafters)
    return InitProposal(target, tuple(drafters), others, pooled, _why(target, drafters, pooled))


def guesses_for(one: FoundModel, target: FoundModel) -> bool:
    """Whether a model is a likely drafter: of the same family, and much quicker."""
    if one.family != target.family:
        return False
    if one.path and target.path and one.vocabulary != target.vocabulary:
        return False
    if one.weight == target.weight:
        return 0 < one.size_bytes <= DRAFT_SHARE * target.size_bytes
    return 0 < one.weight <= DRAFT_SHARE * target.weight


def _why(target: FoundModel, drafters: Sequence[FoundModel], pooled: bool) -> str:
    if pooled:
        return f"{target.name} does not fit on this machine alone, so machines hold it together"
    if not target.verifies:
        return f"{target.kind} cannot check guesses: {target.name} is passed through as it comes"
    if target.own_head or target.heads:
        return (
            f"a trained head guesses for {target.name}: {'the one in its file' if target.own_head else 'see drafters'}"
        )
    return "" if drafters else f"no smaller model of its family was found to guess for {target.name}"


# -- settings --------------------------------------------------------------------------------------


def settings_of(proposal: InitProposal, model_dirs: Sequence[str] = ()) -> Settings:
    """The settings that a proposal means."""
    target = proposal.target
    names = _Names()
    models: dict[str, ModelConfig] = {}
    backends: dict[str, BackendConfig] = {}
    if target is not None and target.path:
        models[names.new(target.name)] = ModelConfig(path=target.path, default=True)
    elif target is not None:
        backends[names.new(target.name)] = _backend(target, default=True)
    for other in proposal.others:
        backends[names.new(other.name)] = _backend(other)
    return Settings(
        models=models,
        backends=backends,
        drafters=(*_head(proposal), *(_drafter(one, names) for one in proposal.drafters)),
        mode="combined" if proposal.pooled else "speculate",
        pool=PoolConfig(),
        agent=AgentConfig(model_dirs=tuple(model_dirs)),
    )


def _head(proposal: InitProposal) -> tuple[DrafterConfig, ...]:
    return (DrafterConfig(head=proposal.head),) if proposal.head else ()


def _backend(one: FoundModel, default: bool = False) -> BackendConfig:
    return BackendConfig(url=one.url, kind=one.kind or "auto", model_name=one.name, default=default)  # type: ignore[arg-type]


def _drafter(one: FoundModel, names: "_Names") -> DrafterConfig:
    name = names.new(f"{one.name}-draft")
    if one.path:
        return DrafterConfig(name=name, path=one.path)
    return DrafterConfig(name=name, url=one.url, kind=one.kind or "auto", model_name=one.name)  # type: ignore[arg-type]


class _Names:
    """Names that fit into settings, each given once."""

    def __init__(self) -> None:
        self._given: set[str] = set()

    def new(self, wished: str) -> str:
        """The wished name, or one like it."""
        plain = re.sub(r"[^A-Za-z0-9._:/@+-]+", "-", wished).strip("._:/@+-")[:100] or "model"
        name = next(name for name in _numbered(plain) if name not in self._given)
        self._given.add(name)
        return name


def _numbered(name: str) -> Iterator[str]:
    yield name
    number = 2
    while True:
        yield f"{name}-{number}"
        number += 1
