"""Windows of one text through a small mixture, one after the other."""

from collections.abc import Sequence
from typing import Final

import numpy as np

from tests.engine.experts.unlike import VOCABULARY
from twd.engine.context import BatchTokens, Context, ContextSettings, Logits
from twd.engine.model import LoadedGguf

TEXT: Final = [(7 * index + 3) % VOCABULARY for index in range(60)]
"""No token stands there twice."""


def run(model: LoadedGguf, widths: Sequence[int]) -> Logits:
    """Returns the logits of windows of these widths."""
    found, at = [], 0
    with Context(model, ContextSettings(ctx_size=128, type_k="f16")) as context:
        for width in widths:
            rows = BatchTokens()
            rows.add(0, at, TEXT[at : at + width])
            context.decode(rows)
            found += [context.logits(row).copy() for row in range(width)]
            at += width
    return np.array(found)
