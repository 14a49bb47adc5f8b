"""A model over two RPC workers behind slow links: twd beside llama-server's `--rpc`, same files, prompts and links.

    contrib/benchmarks/build_peers.sh
    .venv/bin/python contrib/benchmarks/speculation/over_rpc.py --programs ~/.cache/twd/peers/0.3.36/build/bin

One system runs at a time. twd is `twd up --demo --rpc 2 --link-rtt MS` with these weights: broker, edge, coordinator,
agents, tunnels and all. llama-server is asked with several draft lengths, and its best setting counts. `--copies` also
asks what the model copies, with no drafts but n-gram.
"""

import argparse
import asyncio
import tempfile
from collections.abc import Sequence
from pathlib import Path

from best_and_worst import COPIES, copied
from harness import System, client_of, rate, weights
from peers import measure_server, server

from twd.bench.client import Ask
from twd.bench.prompts import PROMPTS, BenchPrompt
from twd.bench.rpc_plain import rpc_workers, slow_links
from twd.cli.demo import MODEL
from twd.kit.cores import usable_cores
from twd.kit.ports import free_port
from twd.wire.base import ModelId
from twd.wire.job import Speculation

WORKERS = 2
SERVED = ModelId(MODEL)
COPIED = 0.6
"""The share of an answer's words that continue what stood before, from which on the model copied."""
WITHOUT_DRAFTERS = ("coordinator", "edge", "metrics", "speculator", "agent")


def pooled(target: Path, draft: Path, rtt_ms: float, services: Sequence[str] = ()) -> System:
    """The demo over RPC workers, with weights of our choice."""
    home = Path(tempfile.mkdtemp(prefix="twd-rpc-"))
    (home / "cache").mkdir()
    (home / "cache" / "demo-models").write_text(f"{target}\n{draft}")
    return System(home, {}, ("--demo", f"--rpc={WORKERS}", f"--link-rtt={rtt_ms:g}", *services))


async def measure_twd(args: argparse.Namespace, prompts: Sequence[BenchPrompt], rtt_ms: float) -> dict[str, float]:
    """Plain, and with each kind of draft model."""
    found: dict[str, float] = {}
    for kind in args.drafts:
        system = pooled(weights(args.target), weights(kind), rtt_ms)
        system.start()
        try:
            async with client_of(system) as client:
                texts: list[list[list[int]]] = []
                for name, speculation in (("plain", Speculation(enabled=False)), (kind, Speculation())):
                    if name in found:
                        continue
                    how = Ask(speculation, args.max_tokens)
                    await client.answer(SERVED, prompts[-1], how)
                    answers = [await client.answer(SERVED, prompt, how) for prompt in prompts]
                    found[name] = rate(answers)
                    texts.append([answer.tokens for answer in answers])
        finally:
            system.stop()
        if any(text != texts[0] for text in texts):
            raise SystemExit(f"{kind}: drafts changed a text: that must not be")
        print(f"RTT {rtt_ms:g} ms: twd { ({name: round(one, 1) for name, one in found.items()}) }", flush=True)
    return found


async def measure_copies(args: argparse.Namespace, rtt_ms: float) -> list[float]:
    """How much sooner each copied text is there, prompt and all, with n-gram drafts alone."""
    ratios = []
    system = pooled(weights(args.target), weights(args.drafts[0]), rtt_ms, WITHOUT_DRAFTERS)
    system.start()
    try:
        async with client_of(system) as client:
            for prompt in COPIES:
                plain = await client.answer(SERVED, prompt, Ask(Speculation(enabled=False), args.max_tokens))
                drafted = await client.answer(SERVED, prompt, Ask(Speculation(), args.max_tokens))
                if plain.tokens != drafted.tokens:
                    raise SystemExit("n-gram drafts changed a text: that must not be")
                if copied(prompt, plain.text) >= COPIED:
                    ratios.append(plain.arrivals[-1] / drafted.arrivals[-1])
    finally:
        system.stop()
    print(f"RTT {rtt_ms:g} ms: copies with n-gram: {[round(ratio, 2) for ratio in sorted(ratios)]}", flush=True)
    return sorted(ratios)


async def asked(args: argparse.Namespace, prompts: Sequence[BenchPrompt], extra: list[str]) -> float:
    """llama-server's tokens per second with these settings."""
    async with server(args.programs / "llama-server", weights(args.target), extra, args.threads) as url:
        return await measure_server(url, list(prompts), args.max_tokens)


def measure_them(args: argparse.Namespace, prompts: Sequence[BenchPrompt], rtt_ms: float) -> dict[str, float]:
    """llama-server over workers of the same build, behind the same links."""
    settings: dict[str, list[str]] = {"plain": []}
    for kind in args.drafts:
        draft = ["-md", str(weights(kind)), "--spec-type", "draft-simple", "-ngld", "0", "-devd", "none"]
        settings |= {
            f"-md {kind}, {count} drafts": [*draft, "--spec-draft-n-max", str(count)] for count in args.windows
        }
    found = {}
    for name, extra in settings.items():
        ports = [free_port() for _ in range(WORKERS)]
        with rpc_workers(ports, args.threads), slow_links(ports, rtt_ms) as endpoints:
            over = ["--rpc", ",".join(endpoints), "-ngl", "99", "-ts", "1,1", "-fit", "off"]
            found[name] = asyncio.run(asked(args, prompts, [*over, *extra]))
        print(f"RTT {rtt_ms:g} ms: llama-server {name}: {found[name]:.1f} tok/s", flush=True)
    return found


def main(args: argparse.Namespace) -> None:
    """One table."""
    prompts = [prompt for prompt in PROMPTS if prompt.grammar is None][:: args.every]
    rows = []
    for rtt_ms in args.rtts:
        theirs, ours = measure_them(args, prompts, rtt_ms), asyncio.run(measure_twd(args, prompts, rtt_ms))
        best = max(theirs, key=lambda name: theirs[name])
        drafted = [f"{ours[kind]:.1f} ({ours[kind] / ours['plain']:.2f}x)" for kind in args.drafts]
        least = max(ours.values()) / theirs[best]
        copies = asyncio.run(measure_copies(args, rtt_ms)) if args.copies else []
        share = f"{copies[len(copies) // 2]:.1f}x, least {copies[0]:.1f}x" if copies else "-"
        cells = [f"{rtt_ms:g}", f"{theirs['plain']:.1f}", f"{theirs[best]:.1f} ({best})", f"{ours['plain']:.1f}"]
        rows.append([*cells, *drafted, share, f"{least:.2f}"])
    head = ["RTT ms", "llama-server plain", "its best", "twd plain", *(f"with {kind}" for kind in args.drafts)]
    print(f"\n{args.target} over {WORKERS} RPC workers; tok/s\n")
    for row in ([*head, "copies, n-gram", "twd's best to its best"], ["---"] * (len(head) + 2), *rows):
        print("| " + " | ".join(row) + " |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", type=Path, required=True)
    parser.add_argument("--target", default="f16")
    parser.add_argument("--drafts", nargs="+", default=["q8_0", "q4_0"])
    parser.add_argument("--windows", type=int, nargs="+", default=[4, 8, 16])
    parser.add_argument("--rtts", type=float, nargs="+", default=[2.0, 10.0, 20.0, 50.0])
    parser.add_argument("--every", type=int, default=4, help="use every n-th prompt")
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--threads", type=int, default=usable_cores(), help="of each worker of llama-server's")
    parser.add_argument("--copies", action="store_true")
    main(parser.parse_args())
