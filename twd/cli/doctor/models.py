"""Checks of the model files: there and whole, fit for their settings, and for this machine's memory together."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from twd.cli.doctor.findings import Finding, bad, good, odd, skipped
from twd.engine.host_memory.limits import gib
from twd.gguf_tools.inspect import GgufInfo, inspect
from twd.settings.model import DrafterConfig, ModelConfig, Settings
from twd.wire.failures import TwdError

CTX_SIZE_MAX: Final = 8192
"""The context of a model whose settings name none, at most."""


@dataclass(frozen=True, slots=True)
class Weights:
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

    @property
    def needed(self) -> int:
        """Bytes of memory for the weights and full contexts of all copies."""
        if self.info is None:
            return 0
        ctx_size = min(self.ctx_size or CTX_SIZE_MAX, self.info.context_length or CTX_SIZE_MAX)
        kv = self.info.kv_bytes_per_token(self.type_k, self.type_v) * ctx_size * self.sessions
        return self.copies * (self.info.weight_bytes + kv)


def read_weights(settings: Settings) -> list[Weights]:
    """Every model file that this machine's settings name; reads their headers."""
    found = [weights_of(name, model) for name, model in settings.models.items()]
    sessions = max((model.parallel for model in settings.models.values()), default=1)
    ctx_size = max((model.ctx_size for model in settings.models.values()), default=CTX_SIZE_MAX)
    for drafter in settings.drafters:
        if drafter.path and not drafter.node:
            found.append(_drafter_weights(drafter, sessions, ctx_size))
    return found


def weights_of(name: str, model: ModelConfig) -> Weights:
    """One model of the settings."""
    info, problem = _inspected(Path(model.path))
    type_k, type_v = model.cache_types
    return Weights(
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
    )


def _drafter_weights(drafter: DrafterConfig, sessions: int, ctx_size: int) -> Weights:
    path = Path(drafter.path)
    info, problem = _inspected(path)
    return Weights(f"drafter {drafter.name or path.stem}", path, sessions, ctx_size, 1, info, problem, chats=False)


def _inspected(path: Path) -> tuple[GgufInfo | None, str]:
    try:
        return inspect(path), ""
    except TwdError as error:
        return None, str(error)


def check_weights(weights: Weights) -> list[Finding]:
    """Whether a model's files are there and whole, and fit for what the settings want of them."""
    info = weights.info
    if info is None:
        mend = f"ls -l {shlex.quote(str(weights.path))}"
        return [bad(weights.name, weights.problem, mend)]
    detail = f"{info.name}, {info.architecture}, {info.quantization}, {gib(info.size_bytes)}"
    found = [good(weights.name, detail)]
    if info.context_length and weights.ctx_size > info.context_length:
        text = f"ctx_size is {weights.ctx_size}, and it was made for {info.context_length}"
        found.append(odd(weights.name, text, f"{weights.name}.ctx_size: {info.context_length}"))
    if weights.chats and not info.chat_template:
        text = "it has no chat template, so conversations are written down in a plain way"
        found.append(odd(weights.name, text, f"{weights.name}.chat_template: FILE"))
    return found


def check_pairs(weights: Sequence[Weights]) -> list[Finding]:
    """Whether drafters speak the tokens of the models that they draft for."""
    targets = [one for one in weights if one.name.startswith("models.") and one.info]
    found = []
    for drafter in weights:
        if drafter.info is None or not drafter.name.startswith("drafter "):
            continue
        if targets and not any(_tongue(target) == _tongue(drafter) for target in targets):
            names = ", ".join(target.name for target in targets)
            text = f"speaks other tokens than {names}: its guesses cannot be used"
            found.append(odd(drafter.name, text, "use a draft model of the same family"))
    return found


def _tongue(weights: Weights) -> tuple[object, ...]:
    assert weights.info is not None
    return weights.info.tokenizer, weights.info.metadata.get("tokenizer.ggml.pre"), weights.info.vocabulary


def check_memory(weights: Sequence[Weights], free: int, total: int, running: bool, accelerated: bool) -> Finding:
    """Whether all models fit at once, with full contexts."""
    needed = sum(one.needed for one in weights)
    room = total if running else free
    words = f"{gib(needed)} with full contexts, {gib(free)} of {gib(total)} free"
    if not needed:
        return skipped("memory", f"no model to hold; {gib(free)} of {gib(total)} free")
    if needed <= room:
        return good("memory", f"all models need {words}" + (" (they are loaded)" if running else ""))
    biggest = max(weights, key=lambda one: one.needed)
    mend = f"lower {biggest.name}.ctx_size or .parallel, or choose a smaller file"
    if accelerated:
        return odd("memory", f"all models need {words}; what lies on other devices is not counted out", mend)
    return bad("memory", f"all models need {words}", mend)
