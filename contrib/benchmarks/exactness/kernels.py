"""Which passes agree bit for bit on a device: single steps against windows, for each setting that could matter.

    python contrib/benchmarks/exactness/kernels.py FILE… --gpu-layers 99

A base is what every single step is computed as: one row, or more with throw-away rows behind it. For each base and
width it prints how many of the window's rows equal those of the base; `=` stands for all.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from twd.engine.context import BatchTokens, CacheLayout, Context, ContextSettings
from twd.engine.model import LoadedGguf, ModelLoadOptions

BASES = (1, 2, 3, 4, 8, 16, 24, 32)
WIDTHS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 16, 24, 32)
RUN = 40
CHUNK = 64
TEXT = "In a small town by the sea there lived 3 clockmakers; each had a shop, a cat, and a reason to be late. "


@dataclass(frozen=True)
class Bench:
    """A context, a text, and a depth to compare at."""

    context: Context
    tokens: Sequence[int]
    depth: int

    def prefill(self) -> None:
        """Stand at the depth, with nothing behind it."""
        self.context.clear(0)
        for at in range(0, self.depth, CHUNK):
            self.run(at, list(self.tokens[at : min(at + CHUNK, self.depth)]), 0)

    def run(self, at: int, tokens: Sequence[int], padding: int) -> list[bytes]:
        """The logits of a pass, as bytes; rows of padding are computed and taken back."""
        rows = BatchTokens()
        rows.add(0, at, [*tokens, *([tokens[-1]] * padding)])
        self.context.decode(rows)
        found = [self.context.logits(row).tobytes() for row in range(len(tokens))]
        self.context.rollback(0, at + len(tokens))
        return found

    def steps(self, base: int) -> list[bytes]:
        """The stretch token by token."""
        self.prefill()
        end = self.depth + RUN
        return [self.run(at, self.tokens[at : at + 1], base - 1)[0] for at in range(self.depth, end)]

    def windows(self, width: int, base: int) -> list[bytes]:
        """The same stretch in windows."""
        self.prefill()
        found: list[bytes] = []
        for at in range(self.depth, self.depth + RUN, width):
            tokens = self.tokens[at : min(at + width, self.depth + RUN)]
            found += self.run(at, tokens, max(base - len(tokens), 0))
        return found


def lines(model: LoadedGguf, depths: Sequence[int]) -> Iterator[str]:
    """One line for each setting, depth and base."""
    text = model.vocab.tokenize(TEXT, parse_special=False, add_bos=True)
    tokens = (text * (max(depths) // len(text) + 4))[: max(depths) + RUN + max(BASES)]
    kinds = (True, "f16"), *(((True, "q8_0"),) if not model.offloads else ()), (False, "f16")
    for flash, type_k in kinds:
        settings = ContextSettings(
            ctx_size=len(tokens) + CHUNK, layout=CacheLayout.STREAMS, flash_attention=flash, type_k=type_k, ubatch=CHUNK
        )
        with Context(model, settings) as context:
            for depth in depths:
                bench = Bench(context, tokens, depth)
                for base in BASES:
                    single = bench.steps(base)
                    agree = [sum(map(bytes.__eq__, single, bench.windows(width, base))) for width in WIDTHS]
                    told = " ".join(f"{width}:{'=' if n == RUN else n}" for width, n in zip(WIDTHS, agree, strict=True))
                    name = f"{model.info.quantization} {'FA' if flash else 'no FA'} K {type_k}"
                    yield f"{name:<18} depth {depth:4} base {base}: {told}"


def difference(model: LoadedGguf) -> str:
    """How far single steps and windows of eight are apart where they differ."""
    text = model.vocab.tokenize(TEXT, parse_special=False, add_bos=True) * 8
    with Context(model, ContextSettings(ctx_size=512, type_k="f16")) as context:
        bench = Bench(context, text, 48)
        pairs = zip(bench.steps(1), bench.windows(8, 1), strict=True)
        apart = [np.abs(np.frombuffer(a, np.float32) - np.frombuffer(b, np.float32)).max() for a, b in pairs]
    return f"largest difference of a logit between single steps and windows of 8: {max(apart):.4g}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--gpu-layers", type=int, default=0)
    parser.add_argument("--depths", type=int, nargs="+", default=[48, 240, 600, 1265])
    given = parser.parse_args()
    for file in given.files:
        with LoadedGguf.load(ModelLoadOptions(path=file, gpu_layers=given.gpu_layers)) as loaded:
            for line in lines(loaded, given.depths):
                print(line, flush=True)
            print(loaded.info.quantization, difference(loaded), flush=True)
