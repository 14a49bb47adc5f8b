"""Count the experts that a model chooses while it writes: its own answers to some questions, for a given time."""

from collections.abc import Callable, Iterable
from itertools import cycle
from pathlib import Path
from typing import Final

import numpy as np

from twd.engine.context import BatchTokens, ContextSettings
from twd.engine.expert_choices import ListeningContext
from twd.engine.model import LoadedGguf, ModelLoadOptions
from twd.moe.profile import ExpertCounter

ANSWER_TOKENS: Final = 128
_CTX: Final = 2048
_ROWS: Final = 64


def count_experts(path: Path, texts: Iterable[str], left_s: Callable[[], float], threads: int = 0) -> ExpertCounter:
    """Read each text and go on from it, again and again until no time is left; at least one token is counted."""
    counter = ExpertCounter()
    with LoadedGguf.load(ModelLoadOptions(path)) as model:
        settings = ContextSettings(ctx_size=_CTX, ubatch=_ROWS, threads=threads)
        with ListeningContext(model, settings, counter.add) as context:
            for text in cycle(list(texts)):
                tokens = model.vocab.tokenize(text, parse_special=False, add_bos=True)[: _CTX - ANSWER_TOKENS]
                _answer(context, tokens or [0], left_s)
                if left_s() <= 0:
                    return counter
    return counter


def _answer(context: ListeningContext, prompt: list[int], left_s: Callable[[], float]) -> None:
    context.clear(0)
    at, tokens = 0, prompt
    for _ in range(ANSWER_TOKENS):
        for start in range(0, len(tokens), _ROWS):
            rows = BatchTokens()
            part = tokens[start : start + _ROWS]
            rows.add(0, at, part, output_from=len(part) - 1)
            context.decode(rows)
            at += len(part)
        token = int(np.argmax(context.logits(len(part) - 1)))
        if token in context.model.vocab.end_tokens or left_s() <= 0:
            return
        tokens = [token]
