"""Checks of the model files: there and whole, fit for their settings, and for this machine's memory together."""

import shlex
from collections.abc import Iterator, Sequence

from twd.cli.doctor.finding_ids import FindingId
from twd.cli.doctor.findings import Finding, bad, good, odd, skipped
from twd.engine.host_memory.limits import gib, total_bytes
from twd.gguf_tools.inspect import GgufInfo
from twd.moe.advice import advice_for
from twd.supervisor.model_weights import ModelWeights


def check_weights(weights: ModelWeights) -> list[Finding]:
    """Whether a model's files are there and whole, and fit for what the settings want of them."""
    info = weights.info
    if info is None:
        mend = f"ls -l {shlex.quote(str(weights.path))}"
        return [bad(FindingId.MODEL_UNREADABLE, weights.name, weights.problem, mend)]
    detail = f"{info.name}, {info.architecture}, {info.quantization}, {gib(info.size_bytes)}"
    return [good(weights.name, detail), *_remarks(weights, info)]


def _remarks(weights: ModelWeights, info: GgufInfo) -> Iterator[Finding]:
    """What does not fit in files that are there and whole."""
    if info.context_length and weights.ctx_size > info.context_length:
        text = f"ctx_size is {weights.ctx_size}, and it was made for {info.context_length}"
        yield odd(FindingId.CONTEXT_TOO_LONG, weights.name, text, f"{weights.name}.ctx_size: {info.context_length}")
    for one in advice_for(weights.path, total_bytes()):  # of all memory: it may be loaded already
        yield odd(FindingId.MIXTURE_REMARK, weights.name, one.text, one.command)
    if weights.chats and not info.chat_template:
        text = "it has no chat template, so conversations are written down in a plain way"
        yield odd(FindingId.CHAT_TEMPLATE_MISSING, weights.name, text, f"{weights.name}.chat_template: FILE")


def check_pairs(weights: Sequence[ModelWeights]) -> list[Finding]:
    """Whether drafters speak the tokens of the models that they draft for."""
    targets = [one for one in weights if one.name.startswith("models.") and one.info]
    found = []
    for drafter in weights:
        if drafter.info is None or not drafter.name.startswith("drafter "):
            continue
        if targets and not any(_tongue(target) == _tongue(drafter) for target in targets):
            names = ", ".join(target.name for target in targets)
            text = f"speaks other tokens than {names}: its guesses cannot be used"
            found.append(
                odd(FindingId.DRAFTER_OTHER_TOKENS, drafter.name, text, "use a draft model of the same family")
            )
    return found


def _tongue(weights: ModelWeights) -> tuple[object, ...]:
    assert weights.info is not None
    return weights.info.tokenizer, weights.info.metadata.get("tokenizer.ggml.pre"), weights.info.vocabulary


def check_memory(weights: Sequence[ModelWeights], free: int, total: int, running: bool, accelerated: bool) -> Finding:
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
        text = f"all models need {words}; what lies on other devices is not counted out"
        return odd(FindingId.MEMORY_SHORT, "memory", text, mend)
    return bad(FindingId.MEMORY_SHORT, "memory", f"all models need {words}", mend)
