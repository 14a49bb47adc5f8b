"""Settings that fit a machine and a model: facts in, proposals out. Pure."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from twd.engine.host_memory.limits import gib
from twd.engine.host_memory.load_plan import RECLAIM_SHARE
from twd.gguf_tools.inspect import GgufInfo
from twd.moe.advice import MixtureAdvice
from twd.settings.model import ModelConfig

GIB: Final = 1 << 30
USABLE: Final = 0.92
"""Of the free memory, so that the machine itself has some left."""
SWAP_LOW: Final = GIB
SWAPPINESS_HIGH: Final = 60
CTX_FLOOR: Final = 2048
WORTHWHILE: Final = 1.05
"""A setting that is measured to bring less than this is left alone."""


@dataclass(frozen=True, slots=True)
class MachineFacts:
    """What was found out about this machine; bytes, and bytes a second."""

    cores: int
    threads: int
    total: int
    available: int
    swap_total: int = 0
    swap_free: int = 0
    swappiness: int = -1
    bandwidth: int = 0
    device_bytes: int = 0
    """Free memory of devices that our engine can use."""
    token_ms: Mapping[int, float] = field(default_factory=dict)
    """Measured time of one token by the number of threads."""


@dataclass(frozen=True, slots=True)
class TuneProposal:
    """One thing to set, or to do: a key with its value, or a command."""

    why: str
    key: str = ""
    value: str = ""
    command: str = ""
    urgent: bool = False


@dataclass(frozen=True, slots=True)
class ModelNeed:
    """A model with the settings that it has now."""

    name: str
    info: GgufInfo
    model: ModelConfig
    ram_reclaim: str = "auto"
    experts: Callable[[int], Sequence[MixtureAdvice]] = lambda free: ()
    """What to know of a mixture where so many bytes are free."""

    @property
    def ctx_size(self) -> int:
        """Tokens of one session."""
        made_for = self.info.context_length or self.model.ctx_size or CTX_FLOOR
        return min(self.model.ctx_size or made_for, made_for)

    def kv_bytes(self, ctx_size: int, parallel: int, kinds: tuple[str, str] | None = None) -> int:
        """Bytes of the caches of all sessions."""
        type_k, type_v = kinds or self.model.cache_types
        return (self.info.kv_bytes_per_token(type_k, type_v) * ctx_size + self.info.state_bytes) * parallel


def proposals(machine: MachineFacts, need: ModelNeed | None) -> list[TuneProposal]:
    """What would be better than it is now."""
    if need is None:
        return [*_swap_in_general(machine), *_swappiness(machine)]
    return [
        *_experts(machine, need),
        *_threads(machine, need),
        *_memory(machine, need),
        *_reclaim(machine, need),
        *_swap(machine, need),
    ]


def _experts(machine: MachineFacts, need: ModelNeed) -> Iterator[TuneProposal]:
    free = max(machine.available, machine.device_bytes)
    for one in need.experts(free):
        yield TuneProposal(one.text, command=one.command, urgent=True)


def _threads(machine: MachineFacts, need: ModelNeed) -> Iterator[TuneProposal]:
    if not machine.token_ms or machine.device_bytes >= need.info.weight_bytes:
        return
    best = min(machine.token_ms, key=lambda count: (machine.token_ms[count], count))
    now = machine.cores if need.model.threads == "auto" else need.model.threads
    usual = machine.token_ms.get(now)
    if best != now and (usual is None or usual > WORTHWHILE * machine.token_ms[best]):
        times = ", ".join(f"{count}: {ms:.1f} ms" for count, ms in sorted(machine.token_ms.items()))
        yield TuneProposal(f"measured for one token by threads: {times}", f"models.{need.name}.threads", str(best))


def _memory(machine: MachineFacts, need: ModelNeed) -> Iterator[TuneProposal]:
    room = int(max(machine.available, machine.device_bytes) * USABLE) - need.info.weight_bytes
    key, parallel = f"models.{need.name}", need.model.parallel
    kv = need.kv_bytes(need.ctx_size, parallel)
    if room < 0:
        yield from _too_big(machine, need)
        return
    if kv <= room:
        yield from _more_room(need, room, kv)
        return
    missing = f"the caches of {parallel} sessions take {gib(kv)}, and {gib(room)} are left beside the weights"
    if need.kv_bytes(need.ctx_size, parallel, ("q8_0", "q8_0")) <= room:
        yield TuneProposal(missing, f"{key}.cache_type_k", "q8_0", urgent=True)
        yield TuneProposal("the same for V", f"{key}.cache_type_v", "q8_0", urgent=True)
        return
    yield from _smaller(need, room, missing)


def _smaller(need: ModelNeed, room: int, missing: str) -> Iterator[TuneProposal]:
    """Fewer sessions first, then shorter ones."""
    each = max(1, need.kv_bytes(need.ctx_size, 1))
    if room >= each:
        yield TuneProposal(missing, f"models.{need.name}.parallel", str(room // each), urgent=True)
        return
    tokens = room // max(1, need.kv_bytes(1, 1)) // 256 * 256
    if tokens >= CTX_FLOOR:
        yield TuneProposal(missing, f"models.{need.name}.ctx_size", str(tokens), urgent=True)
    yield TuneProposal(missing, f"models.{need.name}.parallel", "1", urgent=True)


def _more_room(need: ModelNeed, room: int, kv: int) -> Iterator[TuneProposal]:
    made_for = need.info.context_length
    if need.model.ctx_size and need.model.ctx_size > made_for > 0:
        yield TuneProposal(f"the model was made for {made_for}", f"models.{need.name}.ctx_size", str(made_for))
    elif made_for > need.ctx_size and need.kv_bytes(made_for, need.model.parallel) <= room // 2:
        why = f"the model was made for {made_for} tokens, and {gib(room - kv)} of memory are left over"
        yield TuneProposal(why, f"models.{need.name}.ctx_size", str(made_for))


def _too_big(machine: MachineFacts, need: ModelNeed) -> Iterator[TuneProposal]:
    lacking = need.info.weight_bytes - machine.available
    text = f"the weights take {gib(need.info.weight_bytes)}, and {gib(machine.available)} are free"
    if lacking > 0 or not machine.device_bytes:
        yield TuneProposal(
            f"{text}: pool machines, or take a smaller file", command="twd plan " + need.name, urgent=True
        )


def _reclaim(machine: MachineFacts, need: ModelNeed) -> Iterator[TuneProposal]:
    share = need.info.size_bytes / max(1, machine.available)
    if share > RECLAIM_SHARE and need.ram_reclaim == "off":
        why = f"the file is {share:.0%} of the free memory: a second copy in the page cache would crowd it out"
        yield TuneProposal(why, "ram_reclaim", "auto")


def _swap(machine: MachineFacts, need: ModelNeed) -> Iterator[TuneProposal]:
    lacking = need.info.weight_bytes - machine.available
    if lacking > 0 and machine.swap_total < SWAP_LOW:
        size = max(32, -(-int(1.5 * need.info.weight_bytes) // GIB))
        command = f"sudo fallocate -l {size}G /swapfile && sudo chmod 600 /swapfile && sudo mkswap /swapfile"
        command += " && sudo swapon /swapfile"
        yield TuneProposal(f"{gib(lacking)} are missing, and there is no swap to get over the loading", command=command)
    elif lacking > 0 and machine.swap_free < lacking + 2 * GIB:
        yield TuneProposal(
            f"{gib(lacking)} are missing, and only {gib(machine.swap_free)} of swap are free", urgent=True
        )
    yield from _swappiness(machine)


def _swap_in_general(machine: MachineFacts) -> Iterator[TuneProposal]:
    if machine.swap_total < SWAP_LOW:
        yield TuneProposal("there is next to no swap: name a model to see whether it matters", command="twd tune MODEL")


def _swappiness(machine: MachineFacts) -> Iterator[TuneProposal]:
    if machine.swap_total >= SWAP_LOW and machine.swappiness > SWAPPINESS_HIGH:
        text = f"swappiness is {machine.swappiness}: weights are swapped out while they are needed"
        yield TuneProposal(text, command="sudo sysctl vm.swappiness=10")


def expected_token_s(machine: MachineFacts, need: ModelNeed) -> float:
    """Tokens per second that the memory allows, for one session on one thread; 0 where it was not measured."""
    dense = need.info.weight_bytes
    return machine.bandwidth / dense if dense else 0.0
