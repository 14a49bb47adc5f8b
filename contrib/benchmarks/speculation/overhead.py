"""What the whole path costs: edge, bus and speculator without drafts, against the bare engine loop.

    .venv/bin/python contrib/benchmarks/speculation/overhead.py

Both run the same prompts on the same weights and settings, in turn; the bare loop is `LocalTarget` alone.
"""

import argparse
import http.client
import json
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from urllib.parse import urlsplit

from harness import MODEL, System, weights

from twd.bench.prompts import PROMPTS
from twd.engine.chat_template import render_tokens
from twd.engine.loading import LoadPlan, NativeModel, load_native
from twd.engine.window import Window
from twd.kit.cores import usable_cores
from twd.wire.job import ChatMessage, Prompt, Sampling


def bare(native: NativeModel, tokens: list[int], count: int) -> tuple[float, float]:
    """Seconds to the first token and tokens per second after it."""
    began = time.perf_counter()
    picker = native.pickers.picker(Sampling(), 0, prompt_len=len(tokens), ignore_eos=True)
    slot, at = native.target.open(tokens, picker)
    made: list[int] = []
    feed = tuple(tokens[at:])
    first = 0.0
    while len(made) < count:
        native.target.submit([Window(slot, 0, at, feed, None, committed=len(feed))])
        (verdict,) = native.target.collect()
        made += verdict.tokens
        at, feed = at + len(feed), (made[-1],)
        first = first or time.perf_counter()
    ended = time.perf_counter()
    native.target.close(slot)
    return first - began, (count - 1) / (ended - first)


def whole(edge: http.client.HTTPConnection, text: str, count: int) -> tuple[float, float]:
    """The same through HTTP, streamed; what comes is only read, and understood when all is there."""
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
    spoken = [at for at, piece in pieces for line in piece.split(b"\n") if _speaks(line)]
    if not spoken:
        raise RuntimeError(f"no text came: HTTP {answer.status} {b''.join(piece for _, piece in pieces)[:200]!r}")
    return spoken[0] - began, (count - 1) / (spoken[-1] - spoken[0])


def _speaks(line: bytes) -> bool:
    if not line.startswith(b"data: {"):
        return False
    return any(choice["delta"].get("content") for choice in json.loads(line[6:])["choices"])


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
    rows = []
    try:
        url = urlsplit(system.told["addresses"]["api"])
        edge = http.client.HTTPConnection(url.hostname or "", url.port, timeout=120)
        for text in texts[:1] + texts:
            prompt = Prompt(messages=[ChatMessage(role="user", content=text)])
            tokens = render_tokens(native.template, prompt, native.model.vocab.tokenize, datetime.now(UTC))
            rows.append((bare(native, tokens, args.max_tokens), whole(edge, text, args.max_tokens)))
    finally:
        system.stop()
        native.close()
    rows = rows[1:]
    ratio = median(through[1] / alone[1] for alone, through in rows)
    first = median(1000 * (through[0] - alone[0]) for alone, through in rows)
    alone_rate, whole_rate = (median(row[i][1] for row in rows) for i in (0, 1))
    print(f"bare {alone_rate:.1f} tok/s, through the edge {whole_rate:.1f} tok/s")
    print(f"the whole path reaches {ratio:.3f} of the bare loop; the first token comes {first:.1f} ms later")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=9)
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--target", default="f32")
    parser.add_argument("--stream-ms", type=int, help="as in the settings; 0: every token travels for itself")
    parser.add_argument("--threads", type=int, default=usable_cores(), help="of the engine")
    main(parser.parse_args())
