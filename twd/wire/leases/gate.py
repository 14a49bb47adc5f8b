"""What a gate tells in its lease."""

from twd.wire.base import Count, Part, Share
from twd.wire.leases.base import LeaseFacts, Ms, Seconds


class MemberPair(Part, frozen=True):
    """A model that judges, and a member whose answers it judges."""

    target: str
    member: str
    why: str = ""
    """Why its profile does not count."""


class AuditFacts(Part, frozen=True):
    """What audits found of a pair: so many answers were wrong, and the error rate is between `low` and `high`."""

    target: str
    member: str
    errors: Count
    audits: Count
    low: Share
    high: Share


class GateFigures(Part, frozen=True, omit_defaults=False):
    """What a gate did since it started."""

    total_requests: Count = 0
    approved: Count = 0
    corrected: Count = 0
    rejected: Count = 0
    errors: Count = 0
    approve_rate: float = 0.0
    gpu_usage_rate: float = 0.0
    cache_hits: Count = 0
    avg_agent_ms: Ms = 0.0
    avg_verify_ms: Ms = 0.0
    uptime_seconds: Seconds = 0.0


class GateFacts(LeaseFacts, frozen=True):
    """Who writes, who judges, and what it was worth."""

    gates: list[str] = []
    """The models that it judges with."""
    agents: list[str] = []
    """Who writes."""
    resting: list[str] = []
    verifier: str = ""
    requests: Count = 0
    """In work now."""
    wins: dict[str, Count] = {}
    """Approved answers by member."""
    useless: list[str] = []
    """Members of whose answers next to nothing stands."""
    cannot_score: list[str] = []
    """Models that judge in words, as they cannot score given tokens."""
    calibrated: list[MemberPair] = []
    stale: list[MemberPair] = []
    audited: list[AuditFacts] = []
    target_s: Seconds = 0.0
    audit_s: Seconds = 0.0
    fleet_s: Seconds = 0.0
    saved_s: float = 0.0
    """Of the target, beside exact speculation; a loss is negative."""
    kept_tokens: Count = 0
    """Written by members."""
    stats: GateFigures = GateFigures()
