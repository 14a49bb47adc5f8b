#!/usr/bin/env python3
"""Tokens a second of a mixture in memory for a part of its file: limits.py MODEL.gguf [--server LLAMA_SERVER]

Ways: `stream` reads experts as twd does; `whole` loads as usual, which a limit (other than 0: none) may not allow;
`mapped` maps the file and reads nothing ahead; `server` is llama-server with its defaults, from the same source. Each
runs alone in a memory cgroup of its own, and writes random text.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np

from twd.bench.memory_group import memory_group

CTX = 1024
PROMPT = "Once upon a time there was a small machine that wanted to be a large one, and so it"


def enter(procs: str) -> None:
    """This process goes into the cgroup."""
    if procs:
        Path(procs).write_text(str(os.getpid()))


def major_faults() -> int:
    """Of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_majflt


def ours(args: argparse.Namespace) -> dict[str, Any]:
    """Load with our engine, and write tokens one by one."""
    from twd.engine.context import BatchTokens, Context, ContextSettings
    from twd.engine.experts.budget import ExpertWish
    from twd.engine.experts.choose import experts_in_memory
    from twd.engine.model import LoadedGguf, ModelLoadOptions

    began = time.monotonic()
    experts = 0
    if args.way == "stream":
        wish = ExpertWish("on", args.experts << 20)
        experts = experts_in_memory(args.model, wish, tokens=CTX, sessions=1, types=("f16", "f16"))
    options = ModelLoadOptions(args.model, expert_bytes=experts, from_disk=args.way == "mapped", use_extra_bufts=False)
    with LoadedGguf.load(options) as model, Context(model, ContextSettings(ctx_size=CTX, type_k="f16")) as context:
        loaded = time.monotonic() - began
        if args.way == "mapped":
            unread(args.model)
        dice = np.random.default_rng(args.seed)
        feed = model.vocab.tokenize(PROMPT, parse_special=False, add_bos=True)
        at = 0

        def steps(count: int) -> None:
            nonlocal at, feed
            for _ in range(count):
                rows = BatchTokens()
                rows.add(0, at, feed, output_from=len(feed) - 1)
                context.decode(rows)
                logits = context.logits(len(feed) - 1)
                at += len(feed)
                chances = np.exp((logits - logits.max()).astype(np.float64) / args.temperature)
                feed = [int(dice.choice(len(chances), p=chances / chances.sum()))]

        steps(args.warmup)
        numbers = model.experts.numbers() if model.experts else None
        faults, began = major_faults(), time.monotonic()
        steps(args.tokens)
        spent = time.monotonic() - began
        told: dict[str, Any] = {
            "tok_s": args.tokens / spent,
            "load_s": loaded,
            "major_faults": (major_faults() - faults) / args.tokens,
            "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }
        if model.experts and numbers:
            now = model.experts.numbers()
            told |= {
                "hits": (now.hits - numbers.hits) / max(1, now.asked - numbers.asked),
                "read_mib": (now.read_bytes - numbers.read_bytes) / args.tokens / 2**20,
                "waited_ms": (now.waited_ns - numbers.waited_ns) / args.tokens / 1e6,
                "experts_mib": experts / 2**20,
                "half_life": model.experts.half_life,
            }
        return told


def unread(model: Path) -> None:
    """Tell the system to read nothing ahead, and to forget what it has mapped."""
    from twd.engine.host_memory.page_cache import _libc, _mappings, drop, release_mapped

    for start, end in _mappings({str(model.resolve())}):
        _libc().madvise(start, end - start, 1)  # MADV_RANDOM
    release_mapped([model])
    drop([model])


def forget(model: Path) -> None:
    """Drop the file from the page cache, which counts where it was read first: outside of the cgroup."""
    with model.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def server(args: argparse.Namespace) -> dict[str, Any]:
    """The same with llama-server."""
    port = 18200 + os.getpid() % 800
    threads = str(len(os.sched_getaffinity(0)))
    command = [args.server, "-m", str(args.model), "-c", str(CTX), "-np", "1", "-t", threads, "--port", str(port)]
    began = time.monotonic()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(f"http://127.0.0.1:{port}/health", child)
        loaded = time.monotonic() - began
        ask(port, args, args.warmup)
        told = ask(port, args, args.tokens)
        return {"tok_s": told["timings"]["predicted_per_second"], "load_s": loaded}
    finally:
        child.kill()
        child.wait()


def wait_for(url: str, child: "subprocess.Popen[bytes]") -> None:
    """Until the server answers."""
    while child.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=1).close()
            return
        except OSError:
            time.sleep(0.2)
    raise SystemExit(f"llama-server ended with {child.returncode}")


def ask(port: int, args: argparse.Namespace, tokens: int) -> Any:
    """One completion of random text."""
    body = {
        "prompt": PROMPT, "n_predict": tokens, "temperature": args.temperature, "top_k": 0, "top_p": 1.0, "min_p": 0.0,
        "seed": args.seed, "ignore_eos": True, "cache_prompt": False,
    }  # fmt: skip
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/completion", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=600) as answer:
        return json.load(answer)


def measured(args: argparse.Namespace, way: str, share: float) -> dict[str, Any]:
    """One way in one cgroup, as a process of its own."""
    size = int(args.model.stat().st_size * share) if share else 1 << 44
    command = [sys.executable, __file__, str(args.model), "--way", way, "--server", args.server]
    for name in ("tokens", "warmup", "temperature", "seed", "experts"):
        command += [f"--{name}", str(getattr(args, name))]
    forget(args.model)
    with memory_group(size) as procs:
        done = subprocess.run([*command, "--procs", str(procs)], capture_output=True, text=True, check=False)
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or ["no reason"])[-1][:200], "code": done.returncode}
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """All ways at all shares, or one way in this process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--server", default="")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.8, 0.6, 0.45], help="of the file; 0: no limit")
    parser.add_argument("--ways", nargs="+", default=["stream", "mapped", "server"])
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--warmup", type=int, default=32)
    parser.add_argument("--temperature", type=float, default=1000.0)
    parser.add_argument("--experts", type=int, default=0, help="MiB for experts; 0: what the cgroup leaves")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--way", default="")
    parser.add_argument("--procs", default="")
    args = parser.parse_args()
    if args.way:
        enter(args.procs)
        print(json.dumps(server(args) if args.way == "server" else ours(args)))
        return
    for share in args.shares:
        for way in args.ways:
            told = measured(args, way, share)
            print(json.dumps({"share": share, "way": way} | told), flush=True)


if __name__ == "__main__":
    main()
