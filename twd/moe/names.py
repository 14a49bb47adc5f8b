"""The names that GGUF files give to the tensors of experts."""

import re
from dataclasses import dataclass
from typing import Final

_FUSED: Final = re.compile(r"^blk\.(\d{1,6})\.ffn_(gate_up|gate|up|down)_exps\.([a-z_0-9]+)$")
_INDEXED: Final = re.compile(r"^blk\.(\d{1,6})\.ffn_(gate_up|gate|up|down)\.(\d{1,6})\.([a-z_0-9]+)$")
_SHARED: Final = re.compile(r"^blk\.\d+\.ffn_\w*shexp\.")


@dataclass(frozen=True, slots=True, order=True)
class ExpertTensor:
    """What the tensors of a layer's experts have in common; `part` is gate, up, down or gate_up."""

    layer: int
    part: str
    suffix: str

    @property
    def fused(self) -> str:
        """The name of one tensor with all experts."""
        return f"blk.{self.layer}.ffn_{self.part}_exps.{self.suffix}"

    def indexed(self, expert: int) -> str:
        """The name of one expert's own tensor."""
        return f"blk.{self.layer}.ffn_{self.part}.{expert}.{self.suffix}"


def fused_of(name: str) -> ExpertTensor | None:
    """What a tensor with all experts of a layer is; None for other tensors."""
    match = _FUSED.match(name)
    return ExpertTensor(int(match[1]), match[2], match[3]) if match else None


def indexed_of(name: str) -> tuple[ExpertTensor, int] | None:
    """What a tensor of one expert is, and the number of its expert; None for other tensors."""
    match = _INDEXED.match(name)
    return (ExpertTensor(int(match[1]), match[2], match[4]), int(match[3])) if match else None


def is_shared(name: str) -> bool:
    """Whether a tensor belongs to an expert that every token uses."""
    return _SHARED.match(name) is not None
