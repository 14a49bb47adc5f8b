"""What a process tells of experts that it reads from disk while it computes."""

from typing import Protocol, runtime_checkable

from twd.engine.experts.stream import ExpertStream


@runtime_checkable
class StreamsExperts(Protocol):
    """A loaded model or slice that may read experts."""

    @property
    def experts(self) -> ExpertStream | None:
        """Its cache of experts; None if they are all in memory."""
        ...


def expert_facts(loaded: object) -> dict[str, int | float]:
    """The facts for the lease; empty if no experts are read."""
    stream = loaded.experts if isinstance(loaded, StreamsExperts) else None
    if stream is None:
        return {}
    numbers = stream.numbers()
    return {
        "moe_memory_bytes": numbers.budget,
        "moe_expert_bytes": stream.layout.expert_bytes,
        "moe_asked": numbers.asked,
        "moe_hits": numbers.hits,
        "moe_read_bytes": numbers.read_bytes,
        "moe_waited_s": round(numbers.waited_ns / 1e9, 3),
        "moe_half_life": stream.half_life,
    }
