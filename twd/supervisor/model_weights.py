"""The model files that the settings name, and the memory they need."""

import mmap
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from twd.engine.experts.layout import expert_layout
from twd.gguf_tools.inspect import GgufInfo, inspect
from twd.settings.model import DrafterConfig, ModelConfig, Settings
from twd.settings.paths import path_of
from twd.wire.failures import TwdError

CTX_SIZE_MAX: Final = 8192
"""Tokens of context, at most, of a model whose settings name no context size."""


@dataclass(frozen=True, slots=True)
class ModelWeights:
    """A model file of the settings: what it is for, what it holds, or why it cannot be read."""

    name: str
    path: Path
    sessions: int
    ctx_size: int
    copies: int = 1
    info: GgufInfo | None = None
    problem: str = ""
    chats: bool = True
    type_k: str = "f16"
    type_v: str = "f16"
    on_disk: int = 0
    """Bytes of experts that may stay on disk while it computes."""

    @property
    def needed(self) -> int:
        """Bytes of memory for the weights and full contexts of all copies."""
        if self.info is None:
            return 0
        ctx_size = min(self.ctx_size or CTX_SIZE_MAX, self.info.context_length or CTX_SIZE_MAX)
        kv = self.info.kv_bytes_per_token(self.type_k, self.type_v) * ctx_size * self.sessions
        state = self.info.state_bytes * self.sessions
        return self.copies * (self.info.weight_bytes - self.on_disk + kv + state)


def read_weights(settings: Settings) -> list[ModelWeights]:
    """Return every model file that this machine's settings name; blocks while it reads their headers."""
    found = [weights_of(name, model) for name, model in settings.models.items()]
    sessions = max((model.parallel for model in settings.models.values()), default=1)
    ctx_size = max((model.ctx_size for model in settings.models.values()), default=CTX_SIZE_MAX)
    for drafter in settings.drafters:
        if drafter.path and not drafter.node:
            found.append(_drafter_weights(drafter, sessions, ctx_size))
    return found


def weights_of(name: str, model: ModelConfig) -> ModelWeights:
    """Return the file of one model in the settings."""
    info, problem = _inspected(Path(model.path))
    type_k, type_v = model.cache_types
    return ModelWeights(
        name=f"models.{name}",
        path=Path(model.path),
        sessions=model.parallel,
        ctx_size=model.ctx_size,
        copies=model.replicas,
        info=info,
        problem=problem,
        chats=not model.chat_template,
        type_k=type_k,
        type_v=type_v,
        on_disk=_on_disk(model) if info is not None else 0,
    )


def _on_disk(model: ModelConfig) -> int:
    """All experts but those of one layer, or all but what the settings grant them."""
    layout = None if model.moe_stream == "off" else expert_layout(path_of(model.path))
    if layout is None or not sys.platform.startswith("linux"):
        return 0
    granted = 0 if model.moe_memory_gb == "auto" else int(model.moe_memory_gb * 2**30)
    return max(0, layout.expert_bytes - max(granted, layout.layer_bytes(mmap.PAGESIZE)))


def _drafter_weights(drafter: DrafterConfig, sessions: int, ctx_size: int) -> ModelWeights:
    path = Path(drafter.path)
    info, problem = _inspected(path)
    return ModelWeights(f"drafter {drafter.name or path.stem}", path, sessions, ctx_size, 1, info, problem, chats=False)


def _inspected(path: Path) -> tuple[GgufInfo | None, str]:
    try:
        return inspect(path), ""
    except TwdError as error:
        return None, str(error)
