"""What exactness costs: perplexity and speed of KV cache types, and the price of two rows for float weights."""

import argparse
import json
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from twd.engine.context import BatchTokens, Context, ContextSettings
from twd.engine.demo_model import demo_model
from twd.engine.model import LoadedGguf, ModelLoadOptions

TEXT = Path(__file__).with_name("text.txt")
PAIRS = "f16/f16,q8_0/f16,bf16/f16,f16/q8_0,q8_0/q8_0"
CHUNK = 64
Logs = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Line:
    """One pair of types on one model."""

    weights: str
    type_k: str
    type_v: str
    perplexity: float
    divergence: float
    same_argmax: float
    kv_bytes: int
    single_ms: float
    two_rows_ms: float
    window8_ms: float
    prefill_tok_s: float


def decode(context: Context, at: int, tokens: list[int], output_from: int = 0) -> None:
    rows = BatchTokens()
    rows.add(0, at, tokens, output_from)
    context.decode(rows)


def log_probabilities(context: Context, tokens: list[int]) -> Iterator[Logs]:
    """Of every token after the first, teacher-forced."""
    for at in range(0, len(tokens) - 1, CHUNK):
        part = tokens[at : min(at + CHUNK, len(tokens) - 1)]
        decode(context, at, part)
        for row in range(len(part)):
            logits = context.logits(row).astype(np.float64)
            top = logits.max()
            yield logits - top - math.log(np.exp(logits - top).sum())


def best_of(context: Context, depth: int, rows: int, tokens: list[int], repeats: int) -> float:
    """The fastest pass over `rows` rows at a depth, in milliseconds."""
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        decode(context, depth, tokens[:rows])
        context.logits(rows - 1)
        times.append((time.perf_counter() - began) * 1000)
        context.rollback(0, depth)
    return min(times)


def measure(
    model: LoadedGguf, pair: list[str], tokens: list[int], truth: list[Logs] | None, repeats: int, threads: int
) -> tuple[Line, list[Logs]]:
    settings = ContextSettings(ctx_size=len(tokens) + 64, type_k=pair[0], type_v=pair[1], threads=threads)
    with Context(model, settings) as context:
        logs = list(log_probabilities(context, tokens))
        surprise = -sum(float(one[token]) for one, token in zip(logs, tokens[1:], strict=True)) / len(logs)
        reference = truth or logs
        divergence = float(np.mean([np.sum(np.exp(a) * (a - b)) for a, b in zip(reference, logs, strict=True)]))
        same = float(np.mean([a.argmax() == b.argmax() for a, b in zip(reference, logs, strict=True)]))
        depth = len(tokens) - 1
        single, double, window = (best_of(context, depth, rows, tokens, repeats) for rows in (1, 2, 8))
        context.clear(0)
        began = time.perf_counter()
        for at in range(0, depth, CHUNK):
            decode(context, at, tokens[at : min(at + CHUNK, depth)], CHUNK)
        context.synchronize()
        prefill = depth / (time.perf_counter() - began)
        line = Line(
            weights=model.info.quantization,
            type_k=pair[0],
            type_v=pair[1],
            perplexity=round(math.exp(surprise), 4),
            divergence=round(divergence, 6),
            same_argmax=round(same, 4),
            kv_bytes=model.info.kv_bytes_per_token(*pair),
            single_ms=round(single, 2),
            two_rows_ms=round(double, 2),
            window8_ms=round(window, 2),
            prefill_tok_s=round(prefill),
        )
        return line, reference


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "twd")
    parser.add_argument("--kinds", default="q4_0,q8_0,f16", help="weights of the demo model to measure")
    parser.add_argument("--model", type=Path, help="a GGUF of your own instead")
    parser.add_argument("--text", type=Path, default=TEXT)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--pairs", default=PAIRS, help="K/V types; the first is what the others are compared with")
    parser.add_argument("--threads", type=int, default=0, help="0: one for each core")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    paths = [options.model] if options.model else [demo_model(options.cache, kind) for kind in options.kinds.split(",")]
    for path in paths:
        with LoadedGguf.load(ModelLoadOptions(path)) as model:
            tokens = model.vocab.tokenize(options.text.read_text(encoding="utf-8"), parse_special=False, add_bos=True)
            truth = None
            for pair in options.pairs.split(","):
                line, truth = measure(model, pair.split("/"), tokens, truth, options.repeats, options.threads)
                report(line, len(tokens), as_json=options.json)


def report(line: Line, tokens: int, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(asdict(line) | {"tokens": tokens}), flush=True)
        return
    print(
        f"{line.weights:>5}  K {line.type_k:>4}  V {line.type_v:>4}  ppl {line.perplexity:8.4f}  "
        f"KL {line.divergence:.6f}  same argmax {line.same_argmax:.4f}  {line.kv_bytes / 1024:5.1f} KiB/token  "
        f"1 row {line.single_ms:6.2f} ms  2 rows {line.two_rows_ms:6.2f} ms  8 rows {line.window8_ms:6.2f} ms  "
        f"prefill {line.prefill_tok_s:5.0f} tok/s",
        flush=True,
    )


if __name__ == "__main__":
    main()
