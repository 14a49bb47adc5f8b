"""What the whole path costs: edge, bus and speculator without drafts, against the bare engine loop.

    .venv/bin/python contrib/benchmarks/speculation/overhead.py

Both run the same prompts on the same weights and settings, in turn, and take turns at being first; the bare loop is
`LocalTarget` alone. How much later the first token comes is asked of many short answers to prompts that are all new;
and of each by itself, how long it was outside of the engine: until its prompt was read in, and from its first token on.
"""

import argparse
import http.client
import json
import random
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from statistics import median, quantiles
from urllib.parse import urlsplit

from harness import MODEL, System, spoken, weights

from twd.bench.prompts import PROMPTS
from twd.chat.template import render_tokens
from twd.engine.load_plan import LoadPlan
from twd.engine.loading import NativeModel, load_native
from twd.process.cores import usable_cores
from twd.wire.job import ChatMessage, Prompt


def bare(native: NativeModel, tokens: list[int], count: int) -> tuple[float, float]:
    """Seconds to the first token and tokens per second after it."""
    began = time.perf_counter()
    times = [time.perf_counter() for _ in spoken(native, tokens, count)]
    return times[0] - began, (count - 1) / (times[-1] - times[0])


def whole(edge: http.client.HTTPConnection, text: str, count: int) -> tuple[float, float, float]:
    """The same through HTTP, streamed, and the seconds to the first token that were not the engine's. What comes is
    only read, and understood when all is there."""
    body = {
        "model": str(MODEL),
        "messages": [{"role": "user", "content": text}],
        "max_tokens": count,
        "temperature": 0,
        "stream": True,
        "ignore_eos": True,
        "twd": {"speculation": "off"},
    }
    began = time.perf_counter()
    edge.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
    answer = edge.getresponse()
    pieces: list[tuple[float, bytes]] = []
    while piece := answer.read1():
        pieces.append((time.perf_counter(), piece))
    chunks = [
        (at, json.loads(line[6:])) for at, piece in pieces for line in piece.split(b"\n") if line.startswith(b"data: {")
    ]
    said = [at for at, chunk in chunks if any(choice["delta"].get("content") for choice in chunk["choices"])]
    read_ms = [chunk["twd"]["prefill_ms"] for _, chunk in chunks if "twd" in chunk]
    if not said or not read_ms:
        raise RuntimeError(f"no text came: HTTP {answer.status} {b''.join(piece for _, piece in pieces)[:200]!r}")
    first = said[0] - began
    return first, (count - 1) / (said[-1] - said[0]), first - read_ms[0] / 1000


class Pair:
    """The bare loop and the whole path, on the same weights."""

    def __init__(self, edge: http.client.HTTPConnection, native: NativeModel) -> None:
        self._edge, self._native = edge, native
        self._bare_first = False

    def measure(self, text: str, count: int) -> tuple[tuple[float, float], tuple[float, float, float]]:
        """What both take for one answer, bare and whole."""
        prompt = Prompt(messages=[ChatMessage(role="user", content=text)])
        tokens = render_tokens(self._native.template, prompt, self._native.model.vocab.tokenize, datetime.now(UTC))
        self._bare_first = not self._bare_first
        if self._bare_first:
            alone = bare(self._native, tokens, count)
            return alone, whole(self._edge, text, count)
        through = whole(self._edge, text, count)
        return bare(self._native, tokens, count), through


def new_prompts(count: int) -> list[str]:
    """Questions of some fifty tokens whose first word differs."""
    dice, words = random.Random(1), " ".join(prompt.messages[0].content for prompt in PROMPTS).split()
    return [f"{number} {' '.join(dice.choices(words, k=20))}. What is it about?" for number in range(count)]


def main(args: argparse.Namespace) -> None:
    home = Path(tempfile.mkdtemp(prefix="twd-overhead-"))
    path = weights(args.target)
    model = {"path": str(path), "ctx_size": 1024, "parallel": 2, "threads": args.threads}
    if args.stream_ms is not None:
        model["stream_ms"] = args.stream_ms
    system = System(home, {"models": {str(MODEL): model}})
    system.start()
    native = load_native(LoadPlan(MODEL, path, ctx_size=1024, parallel=2, threads=args.threads), lambda *_: None)
    texts = [prompt.messages[0].content for prompt in PROMPTS if len(prompt.messages) == 1][: args.prompts]
    try:
        url = urlsplit(system.told["addresses"]["api"])
        pair = Pair(http.client.HTTPConnection(url.hostname or "", url.port, timeout=120), native)
        pair.measure(texts[0], args.max_tokens)
        rows = [pair.measure(text, args.max_tokens) for _ in range(args.rounds) for text in texts]
        firsts = [pair.measure(text, 2) for text in new_prompts(args.firsts)]
    finally:
        system.stop()
        native.close()
    low, ratio, high = quantiles([through[1] / alone[1] for alone, through in rows], n=4)
    alone_rate, whole_rate = (median(row[i][1] for row in rows) for i in (0, 1))
    print(f"bare {alone_rate:.1f} tok/s, through the edge {whole_rate:.1f} tok/s")
    print(f"the whole path reaches {ratio:.3f} of the bare loop (quartiles {low:.3f} and {high:.3f})")
    early, later, late = quantiles([1000 * (through[0] - alone[0]) for alone, through in firsts], n=4)
    first = 1000 * median(alone[0] for alone, _ in firsts)
    print(
        f"first token after {first:.1f} ms, by the whole path {later:.1f} later (quartiles {early:.1f} and {late:.1f})"
    )
    early, outside, late = quantiles([1000 * through[2] for _, through in firsts], n=4)
    print(f"of that, {outside:.1f} ms are outside of the engine (quartiles {early:.1f} and {late:.1f})")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=9)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--firsts", type=int, default=60, help="answers that are measured to their first token")
    parser.add_argument("--target", default="f32")
    parser.add_argument("--stream-ms", type=int, help="as in the settings; 0: every token travels for itself")
    parser.add_argument("--threads", type=int, default=usable_cores(), help="of the engine")
    main(parser.parse_args())
