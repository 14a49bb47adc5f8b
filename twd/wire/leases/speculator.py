"""What a speculator tells in its lease."""

from twd.wire.base import Count
from twd.wire.draft import DrafterPace
from twd.wire.leases.base import Ms, ServerFacts
from twd.wire.model import CostPoint
from twd.wire.placement import GuestUse, Way
from twd.wire.ring import HopFacts


class SpeculatorFacts(ServerFacts, frozen=True):
    """A model that is served with drafts. While it loads, only the model and its pool are known."""

    file: str = ""
    parameters: Count = 0
    parallel: Count = 0
    vocab: str = ""
    """The hash of its vocabulary."""
    template: str = ""
    """The hash of its chat template."""
    tool_format: str = ""
    rollback: str = ""
    """How rejected drafts are undone, in words."""
    exact: bool | None = None
    """Whether drafts leave its texts alone, as measured; None: not measured."""
    settings: str = ""
    """How it computes, as far as exactness depends on it."""
    fingerprint: str = ""
    waiting: Count = 0
    kv_tokens: Count = 0
    kv_tokens_max: Count = 0
    drafters: list[DrafterPace] = []
    cost: list[CostPoint] = []
    """Measured: passes by their tokens."""
    in_flight: Count = 0
    window_max: Count = 32
    consensus_accepted: Count = 0
    """Tokens on which drafters agreed."""
    consensus_fallback: Count = 0
    consensus_refused: Count = 0
    """Tokens of the same answers that the target decided."""

    engine: str = ""
    """How its pool computes: ring, rpc or llama-server; empty: the model is on this machine alone."""
    place: str = ""
    """What it serves of a pool: a model, or one of its replicas."""
    certificate: str = ""
    """With which it comes to RPC workers."""
    guests: list[GuestUse] = []
    """Workers of agentless hosts that it holds, or could not use."""
    pool: list[str] = []
    """Who holds which layers, in words."""
    links: list[HopFacts] = []
    """To the machines of its pool, and what they carried."""
    ways: list[Way] = []
    """How far they are, for the next plan."""
    tokens: Count = 0
    """Accepted while the links were counted; 0: the links are counted since the ring was wired."""
    ring: Count = 0
    """How many rings were wired for it."""
    step_ms: Ms = 0.0
    trip_ms: Ms = 0.0
    waste: float = 0.0
    """Rows sent for each row that was kept."""

    @property
    def loaded(self) -> bool:
        """Whether the model is in memory, so that what depends on it is known."""
        return bool(self.file)

    @property
    def single_step_ms(self) -> float:
        """The measured time of one token without drafts; 0: not known."""
        return self.step_cost_ms(1)

    def step_cost_ms(self, width: int) -> float:
        """The measured time of a pass over so many tokens; 0: not measured."""
        return next((point.ms for point in self.cost if point.width == width), 0.0)

    @property
    def served(self) -> str:
        """The model, or the replica of it, that it serves."""
        return self.place or self.model
