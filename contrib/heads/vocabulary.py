"""The tokens that a head may guess: those that the model writes most often. Fewer make each guess cheaper."""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int64]


def draft_vocabulary(written: npt.NDArray[np.integer], whole: int, size: int, always: Iterable[int] = ()) -> Ids:
    """The ids of the `size` tokens that occur most often in a text, in rising order; `always` are among them.

    Where fewer occur, the ones with the smallest ids fill it up: in most vocabularies these are the common ones.
    """
    counts = np.bincount(written, minlength=whole).astype(np.float64)
    counts[list(always)] = np.inf
    order = np.lexsort((np.arange(whole), -counts))
    return np.sort(order[: min(size, whole)]).astype(np.int64)


def places(vocabulary: Ids, whole: int) -> npt.NDArray[np.int32]:
    """For each token of the whole vocabulary its place in the small one; -1: it is not there."""
    found = np.full(whole, -1, np.int32)
    found[vocabulary] = np.arange(len(vocabulary), dtype=np.int32)
    return found


def coverage(written: npt.NDArray[np.integer], vocabulary: Ids) -> float:
    """The share of a text's tokens that the small vocabulary holds."""
    return float(np.isin(written, vocabulary).mean())
