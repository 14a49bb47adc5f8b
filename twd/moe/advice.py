"""What a user should know of a mixture before it is loaded: numbers and a command, one for each problem."""

import shlex
from dataclasses import dataclass
from pathlib import Path

from twd.engine.host_memory.limits import gib
from twd.moe.model import read_mixture
from twd.moe.summary import MixtureSummary, summarize
from twd.wire.failures import TwdError


@dataclass(frozen=True, slots=True)
class MixtureAdvice:
    """One problem in words, and the command that helps."""

    text: str
    command: str


def advice_for(path: Path, free: int) -> list[MixtureAdvice]:
    """About a file on a machine with so much free memory; nothing for dense models and for unreadable files."""
    try:
        facts = summarize(read_mixture(path))
    except (TwdError, OSError):
        return []
    return advise(facts, path, free)


def advise(facts: MixtureSummary, path: Path, free: int) -> list[MixtureAdvice]:
    """The same for facts that are known. Pure."""
    found, file = [], shlex.quote(str(path))
    if facts.layout != "fused":
        text = f"its {facts.experts} experts have tensors of their own, and llama.cpp loads only fused ones"
        found.append(MixtureAdvice(text, f"twd moe fuse {file} {shlex.quote(str(_fused_name(path)))}"))
    whole = facts.resident + facts.expert
    if free < facts.least_memory:
        text = f"a token needs {gib(facts.least_memory)} at once ({_parts(facts)}), and {gib(free)} are free"
        found.append(MixtureAdvice(text, f"twd moe summary {file}"))
    elif free < whole:
        held = (free - facts.resident) / max(facts.expert, 1)
        text = (
            f"it takes {gib(whole)} ({_parts(facts)}), and {gib(free)} are free: memory holds {held:.0%} of its experts"
        )
        found.append(MixtureAdvice(text, f"twd moe plan {file}"))
    return found


def _parts(facts: MixtureSummary) -> str:
    return f"{gib(facts.resident)} dense, {gib(facts.expert)} experts, of which a token reads {gib(facts.chosen)}"


def _fused_name(path: Path) -> Path:
    return path.with_name(f"{path.stem.split('-00001-of-')[0]}-fused.gguf")
