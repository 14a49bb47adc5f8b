"""Our ring beside llama-server over llama.cpp's RPC: same source, same files, same prompts, same links, in one run.

    contrib/benchmarks/build_peers.sh
    .venv/bin/python contrib/benchmarks/ring/beside.py --programs ~/.cache/twd/peers/0.3.36/build/bin

Both spread the target over two workers of one thread each, behind links with the same round trip; the draft model
runs beside, with one thread. llama-server is asked plain, with several draft lengths, and with its n-gram drafts, and
its best setting counts. Figures are tokens per second after the first token, by each program's own clock.
"""

import argparse
import asyncio
import json
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from twd.bench.ring import RingBench, RingBenchRun, rendered_prompts
from twd.engine.demo_model import demo_model
from twd.engine.model import LoadedGguf, ModelLoadOptions
from twd.net.delay_proxy import DelayProxy
from twd.net.ports import free_port

CACHE = Path.home() / ".cache" / "twd-bench"
READY_S, ANSWER_S = 60.0, 300.0


@contextmanager
def workers(programs: Path, count: int, rtt_ms: float) -> Iterator[str]:
    """RPC workers behind slow links, as llama-server's `--rpc` wants them."""
    ports = [free_port() for _ in range(count)]
    command = [str(programs / "ggml-rpc-server"), "-H", "127.0.0.1", "-t", "1", "-p"]
    started = [
        subprocess.Popen([*command, str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for port in ports
    ]
    proxies = [DelayProxy("127.0.0.1", port, rtt_ms / 2000) for port in ports]
    try:
        for port in ports:
            wait_for(lambda port=port: socket.create_connection(("127.0.0.1", port), 1).close())
        yield ",".join(f"127.0.0.1:{asyncio.run(proxy.start())}" for proxy in proxies)
    finally:
        for proxy in proxies:
            asyncio.run(proxy.close())
        for process in started:
            process.kill()
            process.wait()


def wait_for(attempt: object) -> None:
    """Try until it works."""
    assert callable(attempt)
    give_up = time.monotonic() + READY_S
    while True:
        try:
            attempt()
        except OSError:
            if time.monotonic() > give_up:
                raise
            time.sleep(0.1)
        else:
            return


def ask(url: str, body: dict[str, object]) -> dict[str, object]:
    """One answer of llama-server."""
    data = json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=ANSWER_S) as answer:
        return dict(json.load(answer))


def their_rate(command: Sequence[str], prompts: Sequence[Sequence[int]], tokens: int) -> tuple[float, int]:
    """Tokens per second of llama-server with these settings, and how many drafts it checked."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    process = subprocess.Popen(
        [*command, "--host", "127.0.0.1", "--port", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        wait_for(lambda: urllib.request.urlopen(f"{url}/health", timeout=2).close())
        count, spent_ms, drafted = 0, 0.0, 0
        for number, prompt in enumerate([prompts[0], *prompts]):
            body = {"prompt": list(prompt), "n_predict": tokens if number else 8, "temperature": 0, "ignore_eos": True}
            timings = ask(f"{url}/completion", {**body, "cache_prompt": False})["timings"]
            assert isinstance(timings, dict)
            if number:
                count += timings["predicted_n"] - 1
                spent_ms += timings["predicted_ms"]
                drafted += timings.get("draft_n", 0)
        return 1000 * count / spent_ms, drafted
    finally:
        process.terminate()
        process.wait(30)


def their_settings(draft: Path, windows: Sequence[int]) -> dict[str, list[str]]:
    """What llama-server is tried with."""
    model = ["-md", str(draft), "-td", "1", "-ngld", "0", "-devd", "none", "--spec-type", "draft-simple"]
    settings: dict[str, list[str]] = {"plain": []}
    settings |= {f"-md, {count} drafts": [*model, "--spec-draft-n-max", str(count)] for count in windows}
    settings["ngram-simple"] = ["--spec-type", "ngram-simple"]
    return settings


def measure_them(args: argparse.Namespace, rtt_ms: float, prompts: Sequence[Sequence[int]]) -> dict[str, float]:
    """Every setting over the same slow links."""
    target, draft = demo_model(CACHE, args.target), demo_model(CACHE, args.draft)
    found: dict[str, float] = {}
    for name, extra in their_settings(draft, args.windows).items():
        with workers(args.programs, 2, rtt_ms) as endpoints:
            command = [str(args.programs / "llama-server"), "-m", str(target), "-c", "2048", "-np", "1", "-t", "1"]
            command += [
                "-fa",
                "on",
                "--no-webui",
                "--rpc",
                endpoints,
                "-ngl",
                "99",
                "-ts",
                "1,1",
                "-fit",
                "off",
                *extra,
            ]
            found[name], drafted = their_rate(command, prompts, args.tokens)
        print(f"RTT {rtt_ms:g} ms: llama-server {name}: {found[name]:.1f} tok/s ({drafted} drafts)", flush=True)
    return found


def measure_us(args: argparse.Namespace, rtt_ms: float) -> dict[str, float]:
    """The ring with the same draft model, and its plain decoding."""
    plan = RingBench(
        source=demo_model(CACHE, args.target),
        folder=Path(tempfile.gettempdir()) / "twd-bench-slices",
        stages=2,
        rtts=(rtt_ms,),
        wrong=(),
        windows=(),
        sessions=(1,),
        texts=args.texts,
        tokens=args.tokens,
        draft=demo_model(CACHE, args.draft),
    )
    figures = RingBenchRun(plan, lambda line: print(f"  ring: {line}", flush=True)).run()
    if not figures.equal:
        raise SystemExit("the ring's texts differ: that must not be")
    at = figures.distances[0]
    return {"plain": at.plain, "one in flight": at.drafted[0].one, "several in flight": at.drafted[0].several}


def main(args: argparse.Namespace) -> None:
    """One table."""
    with LoadedGguf.load(ModelLoadOptions(path=demo_model(CACHE, args.target), vocab_only=True)) as model:
        prompts = rendered_prompts(model, args.texts)
    rows = []
    for rtt_ms in args.rtts:
        theirs, ours = measure_them(args, rtt_ms, prompts), measure_us(args, rtt_ms)
        best = max(theirs, key=lambda name: theirs[name])
        mine = max(ours, key=lambda name: ours[name])
        rows.append((rtt_ms, theirs["plain"], best, theirs[best], ours["plain"], mine, ours[mine]))
    print(f"\n{args.target} over 2 workers, {args.draft} drafts; tok/s\n")
    print("| RTT ms | llama-server plain | its best | | ring plain | ring's best | | ratio |")
    print("|---|---|---|---|---|---|---|---|")
    for rtt_ms, plain, best, rate, own, mine, own_best in rows:
        print(
            f"| {rtt_ms:g} | {plain:.1f} | {best} | {rate:.1f} | {own:.1f} | {mine} | {own_best:.1f} "
            f"| {own_best / rate:.2f} |"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", type=Path, required=True)
    parser.add_argument("--target", default="f16")
    parser.add_argument("--draft", default="q8_0")
    parser.add_argument("--windows", type=int, nargs="+", default=[4, 8, 16])
    parser.add_argument("--rtts", type=float, nargs="+", default=[0.0, 10.0, 20.0, 50.0])
    parser.add_argument("--texts", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=96)
    main(parser.parse_args())
