"""What a model's own head brings on a ring: tokens a second of a tiny hybrid whose head is always right.

The model computes next to nothing, so the table shows what trips around the ring cost and what guesses save of them.

.venv/bin/python -m contrib.benchmarks.ring.heads
"""

import tempfile
from pathlib import Path

import numpy as np

from tests.engine.slices.recipes import VOCABULARY, recipe
from tests.engine.test_own_head import all_knowing
from twd.bench.ring.lab import RingLab, RingPlan

COUNT = 160
RTT_MS = (0.0, 5.0, 20.0)
PROMPT = [int(token) for token in np.random.default_rng(8).integers(1, VOCABULARY - 1, 40)]


def main() -> None:
    """One table."""
    print("| RTT ms | plain tok/s | with the head | ratio |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        path = recipe("qwen35 with a head").write(Path(folder) / "model.gguf", change=all_knowing)
        with RingLab(RingPlan(path, Path(folder), (0, 3, 5, 8), ctx_size=512, parallel=1)) as lab:
            for rtt_ms in RTT_MS:
                with lab.ring(rtt_ms, 16, VOCABULARY) as client:
                    client.speak([PROMPT], COUNT, [lambda known: []])  # learns the costs
                    plain = client.speak([PROMPT], COUNT, [None])[0]
                    headed = client.speak([PROMPT], COUNT, [lambda known: []])[0]
                assert plain.tokens == headed.tokens
                rates = [COUNT / one.decode_ms * 1000 for one in (plain, headed)]
                print(f"| {rtt_ms:g} | {rates[0]:.0f} | {rates[1]:.0f} | {rates[1] / rates[0]:.1f}x |", flush=True)


if __name__ == "__main__":
    main()
