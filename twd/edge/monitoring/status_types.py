"""What /v1/twd/status, /healthz and /readyz tell."""

from typing import Any

from twd.edge.openai.answers import ModelCard, ResponsePart
from twd.pools.state import PoolState
from twd.pools.transfers import TransferState
from twd.wire.leases.gate import GateFigures


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


class SystemStatus(ResponsePart, kw_only=True):
    """Everything that one look should show."""

    mode: str = "speculate"
    """How requests are served that name no mode."""
    stats: GateFigures = GateFigures()
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
