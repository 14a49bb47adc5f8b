"""What /v1/twd/status, /healthz and /readyz tell."""

from typing import Any

import msgspec

from twd.edge.openai.answers import ModelCard, ResponsePart
from twd.pools.state import PoolState
from twd.pools.transfers import TransferState


class ServiceState(ResponsePart, kw_only=True):
    """A service as its lease describes it."""

    service: str
    instance: str
    node: str
    pid: int
    version: str
    health: str
    note: str
    age_s: float
    facts: dict[str, Any]


class EdgeState(ResponsePart, kw_only=True):
    """This edge's own figures."""

    instance: str
    node: str
    version: str
    health: str
    uptime_s: float
    jobs: int
    in_flight: int
    max_queue: int
    requests: int
    refused: int
    bus_connected: bool
    bus_reconnects: int
    bus_dropped: int


class GateStats(ResponsePart, kw_only=True):
    """What a gate did since it started."""

    total_requests: int = 0
    approved: int = 0
    corrected: int = 0
    rejected: int = 0
    errors: int = 0
    approve_rate: float = 0.0
    gpu_usage_rate: float = 0.0
    cache_hits: int = 0
    avg_agent_ms: float = 0.0
    avg_verify_ms: float = 0.0
    uptime_seconds: float = 0.0


class SystemStatus(ResponsePart, kw_only=True):
    """Everything that one look should show."""

    mode: str = "speculate"
    """How requests are served that name no mode."""
    stats: GateStats = msgspec.field(default_factory=GateStats)
    agents: list[str] = []
    """Who writes for the gate."""
    verifier: str = ""
    consensus_mode: str = "off"
    consensus_accepted: int = 0
    consensus_fallback: int = 0
    wins: dict[str, int] = {}
    """Approved answers by who wrote them."""

    edge: EdgeState
    default_model: str
    models: list[ModelCard]
    services: list[ServiceState]
    pools: list[PoolState]
    transfers: list[TransferState]
    """Models on their way from machine to machine."""
    warnings: list[str]


class HealthReply(ResponsePart, kw_only=True):
    """The answer of a health check."""

    status: str
    reasons: list[str] = []


class JobHistory(ResponsePart, kw_only=True):
    """Ended jobs, newest first: each is its last event, without anybody's words."""

    jobs: list[dict[str, Any]]


class JobTrace(ResponsePart, kw_only=True):
    """Every event of one job that is still remembered, oldest first, without anybody's words."""

    job: str
    events: list[dict[str, Any]]
    forgotten: int
