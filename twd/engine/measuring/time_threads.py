"""`python -m twd.engine.measuring.time_threads FILE N...`: the time of one token with so many threads, as JSON."""

import json
import sys
from pathlib import Path

from twd.engine.context import Context, ContextSettings
from twd.engine.measuring.cost import measure_cost
from twd.engine.model import LoadedGguf, ModelLoadOptions

_CTX_SIZE = 256
_BUDGET_S = 1.0


def time_threads(path: Path, counts: list[int]) -> dict[int, float]:
    """The milliseconds for one token by the number of threads; each count is timed in a new context."""
    found: dict[int, float] = {}
    with LoadedGguf.load(ModelLoadOptions(path=path)) as model:
        for count in counts:
            context = Context(model, ContextSettings(ctx_size=_CTX_SIZE, parallel=1, threads=count))
            try:
                found[count] = measure_cost(context, budget_s=_BUDGET_S)[0].ms
            finally:
                context.close()
    return found


if __name__ == "__main__":
    sys.stdout.write(json.dumps(time_threads(Path(sys.argv[1]), [int(word) for word in sys.argv[2:]])) + "\n")
