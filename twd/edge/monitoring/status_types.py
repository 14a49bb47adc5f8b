"""What /v1/twd/status, /healthz and /readyz tell."""

from typing import Any

from twd.edge.openai.answers import ModelCard, ResponsePart
from twd.pools.state import PoolState


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

    edge: EdgeState
    default_model: str
    models: list[ModelCard]
    services: list[ServiceState]
    pools: list[PoolState]
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
