"""What /v1/twd/status, /healthz and /readyz tell."""

from typing import Any

from twd.edge.openai_answers import ModelCard, Out
from twd.kit.pool_state import PoolState


class ServiceState(Out, kw_only=True):
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


class EdgeState(Out, kw_only=True):
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


class Status(Out, kw_only=True):
    """Everything that one look should show."""

    edge: EdgeState
    default_model: str
    models: list[ModelCard]
    services: list[ServiceState]
    pools: list[PoolState]
    warnings: list[str]


class Probe(Out, kw_only=True):
    """The answer of a health check."""

    status: str
    reasons: list[str] = []


class History(Out, kw_only=True):
    """Ended jobs, newest first: each is its last event, without anybody's words."""

    jobs: list[dict[str, Any]]


class JobTrace(Out, kw_only=True):
    """Every event of one job that is still remembered, oldest first, without anybody's words."""

    job: str
    events: list[dict[str, Any]]
    forgotten: int
