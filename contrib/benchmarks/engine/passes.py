"""What a pass of n rows costs with the build of llama.cpp that is installed: the best of some rounds, in milliseconds.

.venv/bin/python contrib/benchmarks/engine/passes.py FILE…
CMAKE_ARGS=-DGGML_LLAMAFILE=OFF make setup      # the same without llama.cpp's tinyBLAS kernels, in a clone beside
"""

import argparse
import time
from pathlib import Path

from twd.engine.context import BatchTokens, CacheLayout, Context, ContextSettings
from twd.engine.model import LoadedGguf, ModelLoadOptions

PROMPT = 100


def best_ms(context: Context, rows: int, rounds: int) -> float:
    """The quickest of some passes at the same place."""
    best = float("inf")
    for _ in range(rounds):
        context.rollback(0, PROMPT)
        given = BatchTokens()
        given.add(0, PROMPT, [1000 + row for row in range(rows)], output_from=0)
        began = time.perf_counter()
        context.decode(given)
        context.logits(rows - 1)
        best = min(best, (time.perf_counter() - began) * 1000)
    return best


def measure(path: Path, rounds: int, gpu_layers: int) -> str:
    """One line of the table."""
    with LoadedGguf.load(ModelLoadOptions(path=path, gpu_layers=gpu_layers)) as model:
        settings = ContextSettings(
            ctx_size=2048,
            parallel=1,
            layout=CacheLayout.STREAMS,
            ubatch=64,
            threads=2,
            type_k="f16" if gpu_layers else "q8_0",
        )
        context = Context(model, settings)
        try:
            for at in range(0, PROMPT, 50):
                prompt = BatchTokens()
                prompt.add(0, at, list(range(500 + at, 550 + at)), output_from=50)
                context.decode(prompt)
            figures = [best_ms(context, rows, rounds) for rows in (1, 2, 4, 8, 16, 64)]
        finally:
            context.close()
        return f"| {model.info.quantization} | " + " | ".join(f"{ms:.1f}" for ms in figures) + " |"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--gpu-layers", type=int, default=0)
    given = parser.parse_args()
    print("| weights | 1 | 2 | 4 | 8 | 16 | 64 |\n|---|---|---|---|---|---|---|")
    for file in given.files:
        print(measure(file, given.rounds, given.gpu_layers))
