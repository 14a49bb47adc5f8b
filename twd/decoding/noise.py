"""Counter-based Gumbel noise: a function of (seed, position, token). Anyone who knows the seed can compute it."""

import math
import threading
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Logits = NDArray[np.float32]
Ids = NDArray[np.integer]
Hashes = NDArray[np.uint32]

_SPREAD = np.uint32(0x9E3779B1)
_STIR = np.uint32(0x85EBCA6B)
_FINISH = np.uint32(0xC2B2AE35)
_WORD = 2**64 - 1
_LN2 = math.log(2.0)


class NoiseKeys(NamedTuple):
    """The hash keys made from a seed and a position."""

    first: np.uint32
    second: np.uint32
    fine: np.uint64


def draw(seed: int, position: int) -> NoiseKeys:
    """The keys for the noise of all tokens at one position of a text."""
    root = _mix64(_mix64(seed & _WORD) + position * 0x9E3779B97F4A7C15)
    return NoiseKeys(np.uint32(root & 0xFFFFFFFF), np.uint32(root >> 32), np.uint64(_mix64(root)))


def gumbel(ids: Ids, key: NoiseKeys) -> NDArray[np.float64]:
    """The Gumbel noise of these tokens: finite, and independent for each token."""
    coarse = _hash(ids.astype(np.uint32) * _SPREAD, key)
    return _gumbel_of(ids, coarse, key)


def strongest(logits: Logits, temperature: float, key: NoiseKeys) -> int:
    """The argmax of logit + temperature * noise over the whole vocabulary; the lowest id on a tie.

    It first computes a cheap upper bound of each token's score. Then it computes the exact score (with logarithms) only
    of tokens whose bound reaches the exact score of the token with the best bound. The result is the same as that of
    the full computation.
    """
    scratch = _scratch(len(logits))
    coarse = _hash_all(scratch, key)
    bounds = _upper_bounds(logits, temperature, coarse, scratch)
    guess = int(bounds.argmax())
    best = float(_scores(logits, np.array([guess]), temperature, coarse, key)[0])
    if best == math.inf:
        return int(logits.argmax())
    slack = 1e-4 * temperature + 1e-6 * (abs(best) + abs(float(logits.max())))
    able = np.flatnonzero(bounds >= best - temperature * _LN2 * 159 - slack)
    return int(able[_scores(logits, able, temperature, coarse, key).argmax()])


def strongest_of(ids: Ids, logits: Logits, temperature: float, key: NoiseKeys) -> int:
    """The same choice among a few tokens only. `logits` belong to `ids`, which are in ascending order."""
    return int(ids[(logits.astype(np.float64) + temperature * gumbel(ids, key)).argmax()])


class _Scratch(NamedTuple):
    """Buffers that are reused, because new memory would cost page faults in each call."""

    spread: Hashes
    hashes: Hashes
    spare: Hashes
    floats: Logits
    bounds: Logits


_local = threading.local()


def _scratch(size: int) -> _Scratch:
    held: _Scratch | None = getattr(_local, "scratch", None)
    if held is None or len(held.spread) != size:
        held = _local.scratch = _Scratch(
            spread=_spread_ids(size),
            hashes=np.empty(size, np.uint32),
            spare=np.empty(size, np.uint32),
            floats=np.empty(size, np.float32),
            bounds=np.empty(size, np.float32),
        )
    return held


@lru_cache(maxsize=4)
def _spread_ids(size: int) -> Hashes:
    spread = np.arange(size, dtype=np.uint32) * _SPREAD
    spread.flags.writeable = False
    return spread


def _mix64(word: int) -> int:
    word &= _WORD
    word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9 & _WORD
    word = (word ^ (word >> 27)) * 0x94D049BB133111EB & _WORD
    return word ^ (word >> 31)


def _hash(spread: Hashes, key: NoiseKeys) -> Hashes:
    return _stir(spread, np.empty_like(spread), np.empty_like(spread), key)


def _hash_all(scratch: _Scratch, key: NoiseKeys) -> Hashes:
    return _stir(scratch.spread, scratch.hashes, scratch.spare, key)


def _stir(spread: Hashes, out: Hashes, spare: Hashes, key: NoiseKeys) -> Hashes:
    """A bijective hash of each word with both keys. 32 bits, because vector units multiply these fast."""
    np.bitwise_xor(spread, key.first, out=out)
    _fold(out, 16, spare)
    np.multiply(out, _STIR, out=out)
    _fold(out, 13, spare)
    np.add(out, key.second, out=out)
    np.multiply(out, _FINISH, out=out)
    _fold(out, 16, spare)
    return out


def _fold(words: Hashes, shift: int, spare: Hashes) -> None:
    np.right_shift(words, np.uint32(shift), out=spare)
    np.bitwise_xor(words, spare, out=words)


def _gumbel_of(ids: Ids, coarse: Hashes, key: NoiseKeys) -> NDArray[np.float64]:
    """-log(-log(1-w)) for w in (0, 1). `coarse` gives the upper 32 bits of w, a second hash the lower 20.

    The smallest w has the largest noise, and floats are most precise near 0. Adding 0.5 to the 52 bits keeps w off 0
    and 1.
    """
    fine = ids.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) ^ key.fine
    fine = (fine ^ (fine >> np.uint64(32))) * np.uint64(0xD6E8FEB86659FD93)
    bits = (coarse.astype(np.uint64) << np.uint64(20)) | (fine >> np.uint64(44))
    return -np.log(-np.log1p(-(bits.astype(np.float64) + 0.5) * 2.0**-52))


def _scores(logits: Logits, ids: Ids, temperature: float, coarse: Hashes, key: NoiseKeys) -> NDArray[np.float64]:
    return logits[ids].astype(np.float64) + temperature * _gumbel_of(ids, coarse[ids], key)


def _upper_bounds(logits: Logits, temperature: float, coarse: Hashes, scratch: _Scratch) -> Logits:
    """logit - temperature * (a lower bound of log(hash), up to a constant); a float's bits give its log2 cheaply."""
    np.copyto(scratch.floats, coarse, casting="unsafe")
    np.copyto(scratch.bounds, scratch.floats.view(np.int32), casting="unsafe")
    np.multiply(scratch.bounds, np.float32(-temperature * _LN2 / 2**23), out=scratch.bounds)
    np.add(scratch.bounds, logits, out=scratch.bounds)
    return scratch.bounds
