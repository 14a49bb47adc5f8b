"""The options of `twd bench`."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BenchOptions:
    """What the command line asks for."""

    model: str
    prompts: str | None
    kinds: tuple[str, ...]
    max_tokens: int
    window: int
    temperature: float
    rounds: int
    as_json: bool
    plot: str | None
    ring: int
    link_rtt: str
    file: str | None
    draft: str | None
    draft_away: bool
    trusted_lan: bool
    beside_rpc: bool
    plain_only: bool
    simulate: bool
    target_ms: float
    row_ms: float
    token_ms: float
    accept: float
    rtt_ms: float
    beside: bool
