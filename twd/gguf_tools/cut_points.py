"""What slices of an architecture need, and where one model may be cut. The rules are in `slice_table`.

llama.cpp computes a slice as if it were a whole model. If an architecture uses the number of a layer, or the count of
layers, a slice gives wrong results without an error, unless a rule handles it.
"""

from dataclasses import dataclass
from typing import Final

INSTEAD: Final = "`pool.engine: rpc` pools it without cutting it"


@dataclass(frozen=True, slots=True)
class SliceRule:
    """What slices of one architecture need."""

    layer_inputs: bool = False
    """llama.cpp can give out the input of a layer. Otherwise a callback catches the output of the last layer."""
    layer_output: str = "l_out"
    """The name of the node with the output of a layer."""
    window_period: int = 0
    """One of this many layers has full attention, the others a sliding window. The file may say it for each layer."""
    full_first: bool = False
    """The layer with full attention is the first of each period, not the last."""
    recurrent: str = ""
    """How the file tells which layers keep a recurrent state: "no heads" (of keys and values), "nothing else" (neither
    such heads nor a feed-forward part), or "period" (all but one of so many layers). Such a model has both kinds of
    layers in each slice."""
    restored: str = ""
    """The name of the node after which llama.cpp has changed incoming states (it scales or norms them like embeddings,
    or makes several streams of them). There the engine writes the true states back."""
    streams: bool = False
    """The states are several vectors for each token. The file has their number."""
    full_needed: bool = False
    """A slice needs a layer with full attention beside those with a sliding window."""
    shared_indexers: bool = False
    """Some layers choose what they attend to by the indexer of an earlier layer, so no slice may begin with them."""
    lone_head: bool = True
    """The head may be a slice of its own, behind a layer of zeros. False if a layer of zeros changes states: then the
    slice with the head must have layers of all kinds by itself."""
    sparse_after_lead: bool = False
    """Layers behind those that `leading_dense_block_count` counts have another kind of memory."""
    dropped: tuple[str, ...] = ()
    """Tensors and metadata fields (behind a dot) that only the first slice has."""
    default_scale: float = 0.0
    """llama.cpp scales the embedding by this if the file does not say otherwise; 0: only if the file says so."""
    residual_depth: float = 0.0
    """If the file has no scale for the residuals, llama.cpp takes this, divided by the root of the count of layers."""
    first_only: tuple[str, ...] = ()
    """Tensors that only the first slice uses, because llama.cpp adds them to whatever comes in; zeros elsewhere."""
    tied: bool = False
    """The output matrix is always the embedding."""
    first_multiple: int = 1
    """Layers differ by their number, so a slice must begin at a multiple of this."""
    step: str = ""
    """A field with a number of which a slice must begin at a multiple."""
    odd_counts: frozenset[int] = frozenset()
    """llama.cpp computes models with these counts of layers in another way."""
    alive: tuple[str, ...] = ()
    """Tensors that are not zeroed in a layer of zeros, because llama.cpp divides by values made from them."""
    sectioned: bool = False
    """llama.cpp takes states only if the file tells how positions are divided for pictures (time, height, width). A
    slice tells something, because in text these positions are equal."""
    unless: tuple[str, ...] = ()
    """Metadata fields that must be absent or zero."""
    needs: tuple[str, ...] = ()
    """Metadata fields that must be there, because llama.cpp takes no states otherwise."""
    unless_zero: tuple[str, ...] = ()
    """Metadata fields that must not be zero."""


@dataclass(frozen=True, slots=True)
class CutPoints:
    """Where one model may be cut."""

    architecture: str = ""
    layers: int = 0
    multiple: int = 1
    """A slice that has layers must begin at a multiple of this."""
    odd_counts: tuple[int, ...] = ()
    """No slice may have one of these counts of layers."""
    tails: bool = False
    """A slice may end with an added layer of zeros, which counts as a layer."""
    barred: tuple[int, ...] = ()
    """No slice may begin at these layers, because they use what an earlier layer, or the tokens, gave."""

    last_begin: int | None = None
    """The slice with the head must begin here or before, because it needs layers of all kinds."""

    def refusal(self, first: int, count: int) -> str:
        """Why no slice may begin at layer `first` and have `count` layers (with a layer of zeros); empty if it may."""
        if count in self.odd_counts:
            return f"llama.cpp computes {self.architecture} models of {count} layers in another way; cut elsewhere"
        if first % self.multiple and first < self.layers:
            begin = f"begin at a multiple of {self.multiple} layers, not at {first}"
            return f"slices of {self.architecture} models {begin}"
        if first in self.barred:
            begin = ", ".join(str(at) for at in range(self.layers) if at not in self.barred)
            return f"layer {first} of this model needs what came before it; slices may begin at: {begin}"
        if self.last_begin is not None and self.last_begin < first and first + count >= self.layers:
            text = f"the last slice of this {self.architecture} model needs layers of each kind"
            return f"{text}, so it must begin at {self.last_begin} or before"
        return ""

    def why_not(self, first: int, end: int) -> str:
        """Why a plan must not use a slice of layers `first` to `end`, with or without a layer of zeros; else empty."""
        if (first, end) == (0, self.layers):
            return ""  # can_slice has checked the whole model
        count = end - first
        return self.refusal(first, count) or (self.refusal(first, count + 1) if self.tails else "")


ANYWHERE: Final = CutPoints()
