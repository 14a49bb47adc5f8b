"""twd beside llama-server's own speculation: same source, same files, same prompts, in one run.

    contrib/benchmarks/build_peers.sh
    .venv/bin/python contrib/benchmarks/speculation/peers.py --programs ~/.cache/twd/peers/0.3.36/build/bin

One server runs at a time. llama-server is asked with several draft lengths and with its n-gram drafts, and its
best setting counts.
"""

import argparse
import asyncio
import json
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
from harness import MODEL, System, client_of, rate, until, weights

from twd.bench.client import BenchRequest
from twd.bench.prompts import PROMPTS, BenchPrompt
from twd.process.cores import usable_cores
from twd.wire.job import Speculation

PORT = 18_777


@asynccontextmanager
async def server(program: Path, target: Path, extra: list[str], threads: int) -> AsyncIterator[str]:
    """llama-server with some settings, ready to answer."""
    command = [str(program), "-m", str(target), "-c", "2048", "-np", "1", "-t", str(threads), "-fa", "on"]
    command += ["--host", "127.0.0.1", "--port", str(PORT), "--no-webui", *extra]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{PORT}"
    try:

        async def healthy() -> bool:
            if process.poll() is not None:
                raise SystemExit(f"llama-server ended with {process.returncode}: {' '.join(command)}")
            try:
                async with aiohttp.ClientSession() as session, session.get(f"{url}/health") as answer:
                    return answer.status == 200
            except aiohttp.ClientError:
                return False

        await until(healthy, "llama-server is ready")
        yield url
    finally:
        process.terminate()
        process.wait(30)


async def measure_server(url: str, prompts: list[BenchPrompt], max_tokens: int) -> float:
    """Tokens per second by the server's own clock."""
    tokens, spent = 0, 0.0
    async with aiohttp.ClientSession() as session:
        for number, prompt in enumerate(prompts[:1] + prompts):
            messages = [{"role": turn.role, "content": turn.content} for turn in prompt.messages]
            body = {"messages": messages, "max_tokens": max_tokens, "temperature": 0, "ignore_eos": True}
            async with session.post(f"{url}/v1/chat/completions", json=body) as answer:
                timings = (await answer.json())["timings"]
            if number:
                tokens += timings["predicted_n"]
                spent += timings["predicted_ms"]
    return 1000 * tokens / spent


async def measure_twd(
    target: Path, draft: Path, prompts: list[BenchPrompt], args: argparse.Namespace
) -> dict[str, float]:
    """Plain, n-gram alone, and with the draft model."""
    max_tokens = args.max_tokens
    found = {}
    for name, drafters in (("n-gram", []), ("draft model and n-gram", [{"path": str(draft), "threads": args.threads}])):
        home = Path(tempfile.mkdtemp(prefix="twd-peers-"))
        model = {"path": str(target), "ctx_size": 2048, "parallel": 1, "threads": args.threads}
        system = System(home, {"models": {str(MODEL): model}, "drafters": drafters})
        system.start()
        try:
            async with client_of(system) as client:
                for mode, speculation in (("plain", Speculation(enabled=False)), (name, Speculation())):
                    how = BenchRequest(speculation, max_tokens)
                    await client.answer(MODEL, prompts[0], how)
                    found[f"twd, {mode}"] = rate([await client.answer(MODEL, prompt, how) for prompt in prompts])
        finally:
            system.stop()
    return found


async def main(args: argparse.Namespace) -> None:
    prompts = [prompt for prompt in PROMPTS if prompt.grammar is None][:: args.every]
    target, draft = args.model or weights(args.target), weights(args.draft)
    program = args.programs / "llama-server"
    settings: dict[str, list[str]] = {"plain": []}
    settings |= {
        f"-md, {n} drafts": ["-md", str(draft), "--spec-type", "draft-simple", "--spec-draft-n-max", str(n)]
        for n in args.windows
    }
    settings |= {f"{kind}": ["--spec-type", kind] for kind in args.ngram}
    devices = ["-ngl", "99", "-ngld", "99"] if args.gpu else []
    result: dict[str, float] = {}
    for name, extra in settings.items():
        async with server(program, target, [*extra, *devices], args.threads) as url:
            result[f"llama-server, {name}"] = await measure_server(url, prompts, args.max_tokens)
        print(f"llama-server, {name}: {result[f'llama-server, {name}']:.1f} tok/s", flush=True)
    result |= await measure_twd(target, draft, prompts, args)
    best = max(value for name, value in result.items() if name.startswith("llama-server"))
    ours = max(value for name, value in result.items() if name.startswith("twd"))
    print(json.dumps({name: round(value, 1) for name, value in result.items()}, indent=1))
    print(f"{target.stem} with {args.draft}: twd's best is {ours / best:.2f} of llama-server's best setting")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", type=Path, required=True)
    parser.add_argument("--target", default="f32")
    parser.add_argument("--model", type=Path, help="another target, with the same tokens")
    parser.add_argument("--draft", default="q8_0")
    parser.add_argument("--windows", type=int, nargs="+", default=[3, 8, 16])
    parser.add_argument("--ngram", nargs="*", default=["ngram-simple", "ngram-mod"])
    parser.add_argument("--every", type=int, default=2, help="use every n-th prompt")
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--threads", type=int, default=usable_cores(), help="of every engine")
    parser.add_argument("--gpu", action="store_true", help="llama-server has all layers on the GPU, as twd would")
    asyncio.run(main(parser.parse_args()))
