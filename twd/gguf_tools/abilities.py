"""What twd can do with a model, told from the header of its file: as far as its architecture was tried."""

import enum
from dataclasses import dataclass

from twd.gguf_tools.head_file import OWN_HEADS
from twd.gguf_tools.header import GgufHeader
from twd.gguf_tools.slice_kinds import HEAD_LAYERS
from twd.gguf_tools.slice_rules import can_slice
from twd.kit.wording import count


class Undoing(enum.StrEnum):
    """How rejected drafts are removed."""

    CELLS = "cells"
    SNAPSHOTS = "snapshots"
    CHECKPOINTS = "checkpoints"
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class TrialResult:
    """What a trial of a tiny random model of one architecture found."""

    exact: bool
    """Windows of drafts give the logits of single steps, bit by bit."""
    undoing: Undoing
    drafted: bool = True
    """Texts with drafts are those without."""
    one_session: bool = False
    """llama.cpp takes one session at a time."""


GOING_BACK = {
    Undoing.CELLS: "removes the cells of rejected drafts",
    Undoing.SNAPSHOTS: "snapshots of the state",
    Undoing.CHECKPOINTS: "a saved state before each window with drafts",
    Undoing.NOTHING: "cannot, so it takes no drafts",
}
REUSE = {
    Undoing.CELLS: "what two prompts have in common",
    Undoing.SNAPSHOTS: "up to the latest of some saved states",
    Undoing.CHECKPOINTS: "up to the latest of some saved states",
    Undoing.NOTHING: "only as a whole",
}


@dataclass(frozen=True, slots=True)
class ModelAbilities:
    """What twd can do with one model."""

    architecture: str
    tried: TrialResult | None
    """None: this architecture was not tried. It is tried when it is loaded."""
    head_layers: int
    """How many layers its own head (multi-token prediction) has."""
    ring: str
    """Why no ring can cut it; empty if one can."""

    def lines(self) -> list[tuple[str, str]]:
        """Each ability as a name and a text."""
        tried = self.tried
        unknown = "found out when it is loaded"
        return [
            ("exact", unknown if tried is None else "yes" if tried.exact else "near"),
            ("going back", unknown if tried is None else GOING_BACK[tried.undoing]),
            ("prompts reused", unknown if tried is None else REUSE[tried.undoing]),
            ("own head", self._own_head()),
            ("ring", f"no: {self.ring}" if self.ring else "yes"),
        ]

    def _own_head(self) -> str:
        if not self.head_layers:
            return "none in this file"
        used = "it guesses" if self.architecture in OWN_HEADS else "not used, because it was not tried"
        return f"{count(self.head_layers, 'layer')}; {used}"


def abilities_of(header: GgufHeader) -> ModelAbilities:
    """What twd can do with the model of which this is the header of the first file."""
    from twd.gguf_tools.tried import TRIED

    architecture = header.text("general.architecture")
    return ModelAbilities(
        architecture=architecture,
        tried=TRIED.get(architecture),
        head_layers=header.number(f"{architecture}.{HEAD_LAYERS}"),
        ring=can_slice(header),
    )
