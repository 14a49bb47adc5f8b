"""Log probabilities of tokens in the target's own distribution, before temperature, penalties and filters."""

import math
from collections.abc import Callable

import numpy as np

from twd.decoding.filters import top_k
from twd.decoding.noise import Logits
from twd.wire.job import TokenLogprob, TopToken

_LEAST = -9999.0
"""Used instead of minus infinity, which JSON does not have."""


def token_logprob(logits: Logits, token: int, top: int, piece: Callable[[int], bytes]) -> TokenLogprob:
    """The log probability of a picked token, and those of the `top` likeliest tokens, likeliest first."""
    highest = float(logits.max())
    level = highest + math.log(float(np.exp(logits - np.float32(highest)).sum(dtype=np.float64)))
    ids = top_k(logits, top) if top > 0 else np.empty(0, dtype=np.intp)
    ranked = ids[np.argsort(-logits[ids], kind="stable")]
    data = piece(token)
    return TokenLogprob(
        token=token,
        text=data.decode("utf-8", "replace"),
        logprob=_difference(logits, token, level),
        bytes=list(data),
        top=[_top_token(int(one), _difference(logits, int(one), level), piece) for one in ranked],
    )


def _difference(logits: Logits, token: int, level: float) -> float:
    return min(0.0, max(_LEAST, float(logits[token]) - level))


def _top_token(token: int, logprob: float, piece: Callable[[int], bytes]) -> TopToken:
    data = piece(token)
    return TopToken(token=token, text=data.decode("utf-8", "replace"), logprob=logprob, bytes=list(data))
