"""Checks of what runs: the bus, the services, the API, speculation, clocks, and servers elsewhere."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from twd.cli.doctor.finding_ids import FindingId
from twd.cli.doctor.findings import Finding, bad, good, odd, skipped
from twd.process.hung_log import hung_words
from twd.process.process_table import WELL, StartPhase, shown_stage, stage_of
from twd.wire.leases.gate import GateFacts
from twd.wire.leases.machine import AgentFacts, SupervisorFacts
from twd.wire.leases.speculator import SpeculatorFacts
from twd.wire.leases.workers import DrafterLeaseFacts
from twd.wire.node import NodeFacts
from twd.wire.service import ServiceLease

RTT_SLOW_MS: Final = 10.0
"""Above this round trip time a link is probably Wi-Fi, and drafts over it come late."""
SKEW_S: Final = 2.0
AGREEMENT_LOW: Final = 0.3
COMPARED_ENOUGH: Final = 50
DRAFT_COST_HIGH: Final = 0.8
"""A draft that costs this share of a target token brings little at best."""

Aged = tuple[ServiceLease, float]
"""A lease and how many seconds ago it was renewed."""


@dataclass(frozen=True, slots=True)
class BusProbe:
    """What a connection to the bus showed; `problem` if there was none."""

    rtt_ms: float = 0.0
    leases: Sequence[Aged] = ()
    problem: str = ""
    nodes: Sequence[NodeFacts] = ()
    """Machines with an agent."""


@dataclass(frozen=True, slots=True)
class ApiProbe:
    """What the API reported."""

    url: str
    reasons: Sequence[str] = ()
    """Why it cannot answer requests now."""
    problem: str = ""


@dataclass(frozen=True, slots=True)
class ServerProbe:
    """A server or machine elsewhere, and how it answered."""

    name: str
    url: str
    use: str = ""
    answer_ms: float = 0.0
    problem: str = ""
    needed: bool = True
    """Whether requests fail without it."""
    mend: str = ""
    slow_ms: float = 1000.0
    architecture: str = ""
    """The family of its model, where it tells."""


def check_bus(look: BusProbe | None, address: str, outside: bool) -> Finding:
    """Check whether messages arrive, and how fast. None: there is no bus to check."""
    if look is None:
        return skipped("bus", "nothing runs here", "twd up")
    if look.problem:
        mend = "twd config show --changed  # look at bus.url and how it signs in" if outside else "twd logs broker"
        return bad(FindingId.BUS_UNREACHABLE, "bus", look.problem, mend)
    detail = f"{address}, there and back in {look.rtt_ms:.1f} ms"
    if look.rtt_ms > RTT_SLOW_MS:
        return odd(
            FindingId.BUS_SLOW, "bus", f"{detail}: slow, as over Wi-Fi", "use a cable, or a broker that is nearer"
        )
    return good("bus", detail)


def check_services(leases: Sequence[Aged], missing: Mapping[str, str]) -> list[Finding]:
    """Whether every service is there and well, by its own word and by its supervisor's."""
    found = [_service(lease) for lease, _ in leases]
    found += [finding for lease, _ in leases for finding in (*_hung(lease), *_unread(lease))]
    for name, why in missing.items():
        found.append(
            odd(FindingId.PROCESS_MISSING, name, f"missing: {why}", f"twd logs {name}") if why else _leaseless(name)
        )
    if not leases and not missing:
        return [bad(FindingId.NO_SERVICE, "services", "the broker runs, but no service does", "twd up")]
    versions = {lease.version for lease, _ in leases}
    if len(versions) > 1:
        newest = max(versions, key=_numbers)
        nodes = ", ".join(sorted({lease.node for lease, _ in leases if lease.version != newest}))
        found.append(
            odd(
                FindingId.VERSIONS_DIFFER,
                "versions",
                f"{nodes} not at {newest}",
                f"pip install --upgrade twd=={newest}",
            )
        )
    return found


def _numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".") if part.isdecimal()]


def _service(lease: ServiceLease) -> Finding:
    name = f"{lease.service} on {lease.node}"
    stage = shown_stage(lease)
    told = f"{stage}: {lease.note}" if lease.note not in ("", stage) else str(stage)
    if stage in WELL:
        return good(name, told)
    mend = "twd watch model  # it still loads" if stage is StartPhase.LOADING else f"twd logs {lease.service}"
    return (
        bad(FindingId.SERVICE_NOT_WELL, name, told, mend)
        if stage is StartPhase.FAILED
        else odd(FindingId.SERVICE_NOT_WELL, name, told, mend)
    )


def _leaseless(name: str) -> Finding:
    return bad(
        FindingId.SERVICE_WITHOUT_LEASE, name, "its process runs or restarts, but holds no lease", f"twd logs {name}"
    )


def _hung(lease: ServiceLease) -> list[Finding]:
    """Return findings on processes that were killed because they were hung."""
    told = lease.facts
    hung = told.hung if isinstance(told, AgentFacts | SupervisorFacts) else []
    return [
        odd(FindingId.PROCESS_HUNG, f"hung on {lease.node}", hung_words(one), f"twd logs {one.process}") for one in hung
    ]


def _unread(lease: ServiceLease) -> list[Finding]:
    """Return a finding on facts of a lease that this version cannot read."""
    if not lease.unread:
        return []
    text = f"{lease.unread} (it is of version {lease.version})"
    return [
        odd(FindingId.FACTS_UNREADABLE, f"{lease.service} on {lease.node}", text, "twd upgrade  # where twd is older")
    ]


def check_clocks(leases: Sequence[Aged], now_ms: int) -> list[Finding]:
    """Check whether the machines' clocks agree; traces and templates need it."""
    skews: dict[str, float] = {}
    for lease, age_s in leases:
        skew = (now_ms - lease.renewed_ms) / 1000 - age_s
        skews[lease.node] = min(skew, skews.get(lease.node, skew), key=abs)
    found = []
    for node, skew in sorted(skews.items()):
        if abs(skew) > SKEW_S:
            way = "behind" if skew > 0 else "ahead of"
            text = f"the clock of {node} is {abs(skew):.0f} s {way} this machine's"
            found.append(odd(FindingId.CLOCKS_DIFFER, "clock", text, "sudo timedatectl set-ntp true"))
    return found


def check_api(look: ApiProbe | None) -> Finding:
    """Whether a request would be answered now. None: no API is to be expected."""
    if look is None:
        return skipped("API", "no API runs here", "twd up")
    if look.problem:
        return bad(FindingId.API_UNREACHABLE, "API", f"{look.url}: {look.problem}", "twd logs edge")
    if look.reasons:
        return bad(
            FindingId.API_CANNOT_ANSWER,
            "API",
            f"{look.url} does not answer requests: {'; '.join(look.reasons)}",
            "twd status",
        )
    return good("API", f"{look.url} answers")


def check_speculation(leases: Sequence[Aged]) -> list[Finding]:
    """Check whether drafts left texts unchanged, as measured, and which drafters do not pay."""
    found: list[Finding] = []
    for lease, _ in leases:
        match lease.facts:
            case SpeculatorFacts(ready=True) as facts:
                found += [_exactness(facts), *_drafters(facts)]
            case GateFacts() as facts:
                found += _gate(facts)
            case DrafterLeaseFacts(doubt=doubt) if doubt and stage_of(lease) is StartPhase.READY:
                text = f"its target says that it will not pay: {doubt}"
                found.append(odd(FindingId.DRAFTER_DOUBTED, f"drafter {lease.model}", text, "twd bench"))
    return found


def _exactness(facts: SpeculatorFacts) -> Finding:
    name = f"exactness of {facts.model}"
    if facts.exact:
        return good(name, f"drafts leave its texts alone ({facts.settings})")
    text = f"measured: drafts may change its texts on this device ({facts.settings})"
    return odd(
        FindingId.TEXTS_NOT_EXACT,
        name,
        text,
        "set `exact: true` for this model: on a GPU that is asked for by name, since it costs speed",
    )


def _drafters(facts: SpeculatorFacts) -> list[Finding]:
    step_ms = facts.single_step_ms
    found = []
    for pace in facts.drafters:
        name = f"drafter {pace.model} for {facts.model}"
        cost = f"{pace.token_ms:.1f} ms a guess against {step_ms:.1f} ms a token"
        held = f"{pace.agreement:.0%} of {pace.compared} guesses held"
        if pace.compared >= COMPARED_ENOUGH and pace.agreement < AGREEMENT_LOW:
            found.append(
                odd(
                    FindingId.DRAFTER_DISAGREES,
                    name,
                    f"{held}: it does not pay",
                    "use a draft model of the same family; `twd bench`",
                )
            )
        elif step_ms and pace.token_ms > DRAFT_COST_HIGH * step_ms:
            found.append(
                odd(
                    FindingId.DRAFTER_TOO_SLOW,
                    name,
                    f"{cost}: it hardly pays",
                    "use a smaller draft model, or another machine for it",
                )
            )
        else:
            found.append(good(name, f"{held}, {cost}"))
    return found


def _gate(facts: GateFacts) -> list[Finding]:
    """Whose profiles count no more, who brings nothing, who cannot judge by scores."""
    found = []
    for stale in facts.stale:
        found.append(
            odd(
                FindingId.GATE_PROFILE_STALE,
                f"gate {stale.target} {stale.member}",
                f"answers must be exact: {stale.why}",
                "twd gate calibrate FILE.jsonl",
            )
        )
    for name in facts.useless:
        text = "next to nothing of its answers stands"
        found.append(
            odd(FindingId.GATE_MEMBER_USELESS, f"gate member {name}", text, "take it out of gate.fleet or gate.agents")
        )
    for name in facts.cannot_score:
        text = "it cannot score given tokens, so it judges in words"
        found.append(
            odd(
                FindingId.GATE_JUDGE_IN_WORDS,
                f"gate judge {name}",
                text,
                "serve it as a GGUF file of this machine, or ask it itself",
            )
        )
    return found


def check_server(look: ServerProbe) -> Finding:
    """Whether a server elsewhere can be used, and for what."""
    if look.problem:
        say = bad if look.needed else odd
        return say(FindingId.SERVER_UNREACHABLE, look.name, look.problem, look.mend)
    detail = f"{look.use}, in {look.answer_ms:.0f} ms"
    if look.answer_ms > look.slow_ms:
        return odd(FindingId.SERVER_SLOW, look.name, f"{detail}: slow", look.mend)
    return good(look.name, detail)
