"""What a process tells of experts that it reads from disk while it computes."""

from typing import Protocol, runtime_checkable

from twd.engine.experts.stream import ExpertStream
from twd.wire.leases.base import StreamedExperts


@runtime_checkable
class StreamsExperts(Protocol):
    """A loaded model or slice that may read experts."""

    @property
    def experts(self) -> ExpertStream | None:
        """Its cache of experts; None if they are all in memory."""
        ...


def expert_facts(loaded: object) -> StreamedExperts | None:
    """The facts for the lease; None if no experts are read."""
    stream = loaded.experts if isinstance(loaded, StreamsExperts) else None
    if stream is None:
        return None
    numbers = stream.numbers()
    return StreamedExperts(
        memory_bytes=numbers.budget,
        expert_bytes=stream.layout.expert_bytes,
        asked=numbers.asked,
        hits=numbers.hits,
        read_bytes=numbers.read_bytes,
        waited_s=round(numbers.waited_ns / 1e9, 3),
        half_life=stream.half_life,
        foreseen=numbers.foreseen,
        foreseen_used=numbers.foreseen_used,
        disk_bytes_s=int(numbers.disk_speed),
    )
