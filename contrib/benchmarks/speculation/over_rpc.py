"""A model over two RPC workers behind slow links: twd beside llama-server's `--rpc`, same files, prompts and links.

    contrib/benchmarks/build_peers.sh
    .venv/bin/python contrib/benchmarks/speculation/over_rpc.py --programs ~/.cache/twd/peers/0.3.36/build/bin

One system runs at a time. twd is all of it, as with `twd up --demo --rpc 2 --link-rtt MS`: broker, edge, coordinator,
agents, tunnels. llama-server is asked with several draft lengths, and its best setting counts. `--copies` also
asks what the model copies, with no drafts but n-gram.

`--own-cores` plays machines more truly: the workers share one core, for only one of them computes at a time, and
everything else has another one, the draft model of either system included. `--draft-away` plays twd's drafter on a
machine of its own, as twd would have it: its guesses are made beforehand, and given out at the pace of all cores
(away.py). llama-server's draft model always runs where llama-server does.
"""

import argparse
import asyncio
import os
import tempfile
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import psutil
from away import RecordedDrafts, drafting, recorded
from best_and_worst import COPIES, copied
from harness import System, client_of, give_cores, rate, until, weights
from peers import measure_server, server

from twd.bench.client import BenchClient, BenchRequest
from twd.bench.prompts import PROMPTS, BenchPrompt
from twd.bench.rpc_plain import rpc_workers, slow_links
from twd.bench.session import find_speculator
from twd.kit.service import LEASE_BUCKET, LEASE_TTL_S
from twd.net.ports import free_port
from twd.process.cores import usable_cores
from twd.wire.base import ModelId
from twd.wire.draft import read_paces
from twd.wire.failures import TwdError
from twd.wire.job import Speculation

WORKERS = 2
SERVED = ModelId("target")
COPIED = 0.6
"""The share of an answer's words that continue what stood before, from which on the model copied."""
WORKER = "twd.engine.rpc.worker"
SERVICES = ("edge", "metrics", "agent")
"""The others come when all machines are there, so that the first decision is the last."""
PATIENCE_S = 120.0


def pooled(target: Path, drafts: Sequence[Path], rtt_ms: float) -> System:
    """A model over RPC workers of played machines; nobody spreads it over them yet."""
    settings = {
        "mode": "combined",
        "pool": {"engine": "rpc", "split": "even", "layers_at_home": False},
        "models": {str(SERVED): {"path": str(target), "ctx_size": 2048, "parallel": 4}},
        "drafters": [{"path": str(draft)} for draft in drafts],
        "agent": {"model_dirs": [str(target.parent)]},
    }
    system = System(Path(tempfile.mkdtemp(prefix="twd-rpc-")), settings, SERVICES)
    system.start()
    for number in range(WORKERS):
        system.also("run", "agent", "--node", f"node-{number}", f"--link-rtt={rtt_ms:g}")
    return system


def give_workers(core: int, below: Iterable[int]) -> None:
    """Keep the RPC workers that run below these processes on one core."""
    for pid in below:
        for child in psutil.Process(pid).children(recursive=True):
            if WORKER in child.cmdline():
                give_cores(child.pid, {core})


@asynccontextmanager
async def measured(
    args: argparse.Namespace, rtt_ms: float, kind: str = "", away: RecordedDrafts | None = None
) -> AsyncIterator[BenchClient]:
    """Somebody who asks the whole system, when the model is loaded and the drafter, if any, is attached."""
    drafts = [weights(kind)] if kind else []
    system = pooled(weights(args.target), [] if args.own_cores or away else drafts, rtt_ms)
    try:
        async with client_of(system) as client, AsyncExitStack() as others:
            await until(lambda: all_there(client), "the machines are on the bus")
            system.also("run", "coordinator")
            system.also("run", "speculator", "--model", SERVED)
            await until(lambda: has_drafters(client, 0), "the model is loaded over its workers", PATIENCE_S)
            if args.own_cores:
                give_workers(args.worker_core, system.pids())
            if away is not None:
                await others.enter_async_context(drafting(system, kind, away))
            elif args.own_cores:
                for draft in drafts:
                    system.also("run", "drafter", "--model", str(draft), TWD_NODE="far")
            await until(lambda: has_drafters(client, len(drafts)), "the drafter is attached")
            yield client
    finally:
        system.stop()


async def all_there(client: BenchClient) -> bool:
    """Whether the agents of all machines are."""
    leases = await client.bus.leases(LEASE_BUCKET, LEASE_TTL_S)
    return sum(entry.key.startswith("agent.") for entry in await leases.entries()) > WORKERS


async def has_drafters(client: BenchClient, count: int) -> bool:
    """Whether the model answers, and so many drafters are known well enough."""
    try:
        lease = await find_speculator(client, "")
    except TwdError:
        return False
    return sum(bool(pace.compared) for pace in read_paces(lease.facts)) >= count


async def measure_twd(args: argparse.Namespace, prompts: Sequence[BenchPrompt], rtt_ms: float) -> dict[str, float]:
    """Plain, and with each kind of draft model."""
    found: dict[str, float] = {}
    texts: list[list[list[int]]] = []
    for kind in args.drafts:
        away = recorded(weights(args.target), weights(kind), prompts, args.max_tokens) if args.draft_away else None
        if away is not None:
            print(f"{kind}, on a machine like this one: {away.cost.ms(1):.1f} ms a guess", flush=True)
        async with measured(args, rtt_ms, kind, away) as client:
            for name, speculation in (("plain", Speculation(enabled=False)), (kind, Speculation())):
                if name in found:
                    continue
                how = BenchRequest(speculation, args.max_tokens)
                for prompt in prompts:  # paces and costs are learned from what is done; what counts comes after that
                    await client.answer(SERVED, prompt, how)
                answers = [await client.answer(SERVED, prompt, how) for prompt in prompts]
                found[name] = rate(answers)
                texts.append([answer.tokens for answer in answers])
        if any(text != texts[0] for text in texts):
            raise SystemExit(f"{kind}: drafts changed a text: that must not be")
        print(f"RTT {rtt_ms:g} ms: twd { ({name: round(one, 1) for name, one in found.items()}) }", flush=True)
    return found


async def measure_copies(args: argparse.Namespace, rtt_ms: float) -> list[float]:
    """How much sooner each copied text is there, prompt and all, with n-gram drafts alone."""
    ratios = []
    async with measured(args, rtt_ms) as client:
        for prompt in COPIES:
            plain = await client.answer(SERVED, prompt, BenchRequest(Speculation(enabled=False), args.max_tokens))
            drafted = await client.answer(SERVED, prompt, BenchRequest(Speculation(), args.max_tokens))
            if plain.tokens != drafted.tokens:
                raise SystemExit("n-gram drafts changed a text: that must not be")
            if copied(prompt, plain.text) >= COPIED:
                ratios.append(plain.arrivals[-1] / drafted.arrivals[-1])
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
            if args.own_cores:
                give_workers(args.worker_core, [os.getpid()])
            over = ["--rpc", ",".join(endpoints), "-ngl", "99", "-ts", "1,1", "-fit", "off"]
            found[name] = asyncio.run(asked(args, prompts, [*over, *extra]))
        print(f"RTT {rtt_ms:g} ms: llama-server {name}: {found[name]:.1f} tok/s", flush=True)
    return found


def beside(theirs: Mapping[str, float], our_best: float) -> tuple[str, str, str]:
    """What llama-server did plain, at its best, and how far ahead of that twd is; dashes where it was not asked."""
    if not theirs:
        return "-", "-", "-"
    best = max(theirs, key=lambda name: theirs[name])
    return f"{theirs['plain']:.1f}", f"{theirs[best]:.1f} ({best})", f"{our_best / theirs[best]:.2f}"


def main(args: argparse.Namespace) -> None:
    """One table."""
    if args.own_cores:
        args.worker_core, own, *_ = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {own})
        args.threads = 1
    prompts = [prompt for prompt in PROMPTS if prompt.grammar is None][:: args.every]
    rows = []
    for rtt_ms in args.rtts:
        theirs = measure_them(args, prompts, rtt_ms) if args.programs else {}
        ours = asyncio.run(measure_twd(args, prompts, rtt_ms))
        drafted = [f"{ours[kind]:.1f} ({ours[kind] / ours['plain']:.2f}x)" for kind in args.drafts]
        copies = asyncio.run(measure_copies(args, rtt_ms)) if args.copies else []
        share = f"{copies[len(copies) // 2]:.1f}x, least {copies[0]:.1f}x" if copies else "-"
        plain, best, ratio = beside(theirs, max(ours.values()))
        rows.append([f"{rtt_ms:g}", plain, best, f"{ours['plain']:.1f}", *drafted, share, ratio])
    head = ["RTT ms", "llama-server plain", "its best", "twd plain", *(f"with {kind}" for kind in args.drafts)]
    print(f"\n{args.target} over {WORKERS} RPC workers; tok/s\n")
    for row in ([*head, "copies, n-gram", "twd's best to its best"], ["---"] * (len(head) + 2), *rows):
        print("| " + " | ".join(row) + " |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", type=Path, help="where llama-server is; without, twd is measured alone")
    parser.add_argument("--target", default="f16")
    parser.add_argument("--drafts", nargs="+", default=["q8_0", "q4_0"])
    parser.add_argument("--windows", type=int, nargs="+", default=[4, 8, 16])
    parser.add_argument("--rtts", type=float, nargs="+", default=[2.0, 10.0, 20.0, 50.0])
    parser.add_argument("--every", type=int, default=4, help="use every n-th prompt")
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--threads", type=int, default=usable_cores(), help="of each worker of llama-server's")
    parser.add_argument("--copies", action="store_true")
    parser.add_argument("--draft-away", action="store_true", help="twd's drafter is played on a machine of its own")
    parser.add_argument("--own-cores", action="store_true", help="one core for the workers, one for all else")
    main(parser.parse_args())
