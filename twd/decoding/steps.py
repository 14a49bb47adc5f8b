"""Several tokens of a text in one call. What samplers, reports and targets tell of themselves so that this can be."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from twd.wire.job import Sampling, TokenLogprob


@dataclass(frozen=True, slots=True)
class PickRule:
    """All that a sampler's choice depends on besides logits and history. Native code can choose by it."""

    sampling: Sampling
    seed: int
    banned: tuple[int, ...] = ()
    """Tokens that are never chosen."""


@runtime_checkable
class RuledSampler(Protocol):
    """A sampler that may have a rule."""

    @property
    def rule(self) -> PickRule | None:
        """The rule; None: the choice depends on more than a rule can tell, for example on a grammar."""
        ...


@runtime_checkable
class ChanceReport(Protocol):
    """A report that only needs the chance of each picked token."""

    with_other: bool
    """Whether it needs the second choice, too."""

    def of_chances(self, token: int, chance: float, other: int, other_chance: float) -> TokenLogprob:
        """The report of a token, from its chance and from the second choice (-1: none) with its chance."""
        ...


@runtime_checkable
class OnCards(Protocol):
    """A loaded model that may compute on cards, which other processes may use, too."""

    @property
    def cards(self) -> tuple[str, ...]:
        """The cards, by names that all processes of a computer have for them; empty: it computes on the CPU."""
        ...


class Halt(Protocol):
    """Ends a run of steps early. Any thread may use it."""

    def set(self) -> None:
        """End the current run, and all later ones until `clear`, after one step."""
        ...

    def clear(self) -> None:
        """Let runs go on again."""
        ...


@runtime_checkable
class RunsSteps(Protocol):
    """A target that can compute several steps of a window in one call."""

    halt: Halt
    runs_steps: bool
    """Whether it can do so in this build."""
