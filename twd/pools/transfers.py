"""Models on their way from machine to machine, as their machines tell it: for `twd top` and the dashboard."""

from typing import Final

import msgspec

from twd.kit.wording import count
from twd.wire.base import Event
from twd.wire.swarm import LayerRange, PullFailed, PullFinished, PullProgressed

SILENT_S: Final = 5.0
"""A transfer of which nothing is heard for so many seconds is gone: its machine left, or somebody stopped it."""
FAILED_S: Final = 60.0
TRANSFERS_MAX: Final = 256


class TransferState(msgspec.Struct, kw_only=True):
    """One file, or some of its layers, on the way to one machine."""

    node: str
    file: str
    layers: str = ""
    """Empty: the whole file."""
    done_bytes: int = 0
    total_bytes: int = 0
    bytes_s: float = 0.0
    eta_s: float | None = None
    """None: nothing comes."""
    sources: int = 0
    banned: int = 0
    problem: str = ""
    """Why it ended without success."""

    @property
    def line(self) -> str:
        """It in one line of text."""
        what = f"{self.node}: {self.file}" + (f", {self.layers}" if self.layers else "")
        if self.problem:
            return f"{what} did not come: {self.problem}"
        share = self.done_bytes / max(1, self.total_bytes)
        left = "nothing comes" if self.eta_s is None else f"about {self.eta_s:.0f} s to go"
        pace = f"{self.bytes_s / 2**20:.0f} MiB/s from {count(self.sources, 'source')}"
        banned = f", {self.banned} banned" if self.banned else ""
        return f"{what}: {share:.0%} of {self.total_bytes / 2**20:,.0f} MiB, {pace}{banned}, {left}"


class TransfersView:
    """Hears the events of all pulls; `states` returns those that run, and those that failed lately."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str, LayerRange | None], tuple[float, TransferState]] = {}

    def hear(self, event: Event, now: float) -> None:
        """Handle one event; others than those of pulls are ignored."""
        match event:
            case PullFinished():
                self._known.pop(_key(event), None)
            case PullFailed():
                problem = event.failure.message
                self._keep(event, now, TransferState(node=event.node, file=event.file, problem=problem))
            case PullProgressed():
                running = TransferState(
                    node=event.node,
                    file=event.file,
                    done_bytes=event.done_bytes,
                    total_bytes=event.total_bytes,
                    bytes_s=event.bytes_s,
                    eta_s=event.eta_s,
                    sources=event.sources,
                    banned=event.banned,
                )
                self._keep(event, now, running)

    def _keep(self, event: PullProgressed | PullFailed, now: float, state: TransferState) -> None:
        state.layers = _layers(event.layers)
        key = _key(event)
        self._known.pop(key, None)
        self._known[key] = now, state
        if len(self._known) > TRANSFERS_MAX:
            self._known.pop(next(iter(self._known)))

    def states(self, now: float) -> list[TransferState]:
        """Return them by machine and file."""
        self._known = {
            key: (at, state)
            for key, (at, state) in self._known.items()
            if now - at < (FAILED_S if state.problem else SILENT_S)
        }
        found = (state for _, state in self._known.values())
        return sorted(found, key=lambda one: (one.node, one.file, one.layers))


def _key(event: PullProgressed | PullFinished | PullFailed) -> tuple[str, str, LayerRange | None]:
    return event.node, event.root or event.hash, event.layers


def _layers(layers: LayerRange | None) -> str:
    if layers is None:
        return ""
    head = " and the output head" if layers.head else ""
    return f"layers {layers.first} to {layers.end - 1}{head}" if layers.end > layers.first else "the output head"
