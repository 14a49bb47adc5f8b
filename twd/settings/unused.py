"""Settings that are read and checked, and that nothing uses yet: whoever gives one is told so."""

import re
from collections.abc import Iterable, Iterator
from typing import Final

UNUSED: Final = (("moe_placement and moe_hot_profile of models", r"models\..+\.moe_"),)


def unused_hints(given: Iterable[str]) -> Iterator[str]:
    """A hint for each group of them that was given, by the keys of what was given."""
    keys = list(given)
    for name, pattern in UNUSED:
        if any(re.match(pattern, key) for key in keys):
            yield f"{name}: checked, but nothing uses it yet"
