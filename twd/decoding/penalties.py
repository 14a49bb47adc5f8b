"""Changes of logits before sampling: bias, repetition penalties and DRY, in llama.cpp's order."""

import math
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from twd.decoding.noise import Logits
from twd.wire.job import Sampling

Adjustment = Callable[[Logits, Sequence[int]], None]
"""Changes logits in place, using the history. It gets a copy of the target's logits."""

_DRY_BREAKERS = (b"\n", b":", b'"', b"*")
_LOG_OF_HIGHEST_FLOAT = 88.72


def adjustments_of(sampling: Sampling, piece: Callable[[int], bytes]) -> tuple[Adjustment, ...]:
    """The adjustments for these sampling parameters, in order."""
    wanted: list[Adjustment] = []
    if sampling.logit_bias:
        wanted.append(_bias(sampling.logit_bias))
    if _penalises(sampling):
        wanted.append(lambda logits, history: penalise(logits, history, sampling))
    if sampling.dry_multiplier > 0.0 and sampling.repeat_last_n != 0:
        wanted.append(lambda logits, history: discourage_loops(logits, history, sampling, piece))
    return tuple(wanted)


def penalise(logits: Logits, history: Sequence[int], sampling: Sampling) -> None:
    """Apply repeat, frequency and presence penalties for the last `repeat_last_n` tokens (-1: all tokens)."""
    counts = Counter(_recent(history, sampling.repeat_last_n))
    ids, times = _arrays(counts, len(logits))
    held = logits[ids]
    repeat = np.float32(sampling.repeat_penalty)
    held = np.where(held <= 0, held * repeat, held / repeat)
    held -= times * np.float32(sampling.frequency_penalty) + np.float32(sampling.presence_penalty)
    logits[ids] = held


def discourage_loops(logits: Logits, history: Sequence[int], sampling: Sampling, piece: Callable[[int], bytes]) -> None:
    """DRY: a token that would extend a repetition gets a penalty, which grows with the length of the repetition.

    It looks at the last `repeat_last_n` tokens. A repetition ends at a line break, colon, quote or star.
    """
    window = _recent(history, sampling.repeat_last_n)
    limit = _since_breaker(window[-_longest_that_counts(sampling) :], piece)
    repeats = _repeats(np.array(window, dtype=np.int64), sampling.dry_allowed_length, limit)
    lengths = {token: length for token, length in repeats.items() if not _breaks(piece(token))}
    ids, lengthening = _arrays(lengths, len(logits))
    excess = lengthening.astype(np.float64) - sampling.dry_allowed_length
    logits[ids] -= (sampling.dry_multiplier * sampling.dry_base**excess).astype(np.float32)


def _bias(bias: dict[int, float]) -> Adjustment:
    ids, values = _arrays(bias)

    def apply(logits: Logits, _history: Sequence[int]) -> None:
        logits[ids] += values

    return apply


def _penalises(sampling: Sampling) -> bool:
    changes = sampling.repeat_penalty != 1.0 or sampling.frequency_penalty != 0.0 or sampling.presence_penalty != 0.0
    return changes and sampling.repeat_last_n != 0


def _recent(history: Sequence[int], count: int) -> Sequence[int]:
    return history if count < 0 else history[-count:]


def _arrays(
    values: dict[int, float] | Counter[int], size: int = 2**31
) -> tuple[np.ndarray[tuple[int], np.dtype[np.intp]], np.ndarray[tuple[int], np.dtype[np.float32]]]:
    """Tokens below `size` and their values."""
    ids = np.fromiter(values.keys(), np.intp, len(values))
    amounts = np.fromiter(values.values(), np.float32, len(values))
    known = (ids >= 0) & (ids < size)
    return ids[known], amounts[known]


def _breaks(piece: bytes) -> bool:
    return any(breaker in piece for breaker in _DRY_BREAKERS)


def _since_breaker(window: Sequence[int], piece: Callable[[int], bytes]) -> int:
    """The number of tokens at the end without a DRY breaker."""
    for distance, token in enumerate(reversed(window)):
        if _breaks(piece(token)):
            return distance
    return len(window)


def _longest_that_counts(sampling: Sampling) -> int:
    """The longest repetition to look for, in tokens. Beyond it the penalty would overflow or no longer grow."""
    if sampling.dry_base <= 1.000001:
        return sampling.dry_allowed_length
    return sampling.dry_allowed_length + int(_LOG_OF_HIGHEST_FLOAT / math.log(sampling.dry_base))


def _repeats(window: np.ndarray[tuple[int], np.dtype[np.int64]], shortest: int, limit: int) -> dict[int, float]:
    """Tokens that followed an earlier copy of the end of `window`, each with the length of the longest such copy."""
    found: dict[int, float] = {}
    last = len(window) - 1
    ends = np.arange(last)
    for length in range(1, min(limit, last) + 1):
        ends = ends[ends >= length - 1]
        ends = ends[window[ends - length + 1] == window[last - length + 1]]
        if not len(ends):
            break
        if length >= shortest:
            found.update(dict.fromkeys(window[ends + 1].tolist(), length))
    return found
