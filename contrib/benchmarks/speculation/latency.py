"""How far away may a drafter be? Continuous drafting against turns, with delay injected on the drafter's link.

    .venv/bin/python contrib/benchmarks/speculation/latency.py

Target and drafter get one core each, as if they were two machines; the drafter reaches the broker through a
proxy that delays every byte. Turns are windows of a fixed size for which the target waits.
"""

import argparse
import asyncio
import json
import os
import tempfile
from pathlib import Path

from harness import MODEL, System, ask_all, client_of, rate, until, weights

from twd.bench.analytic import SpeculationSetting, best_continuous, plain_rate
from twd.bench.client import BenchClient, BenchRequest
from twd.bench.product.whole_system import give_cores
from twd.bench.prompts import PROMPTS, BenchPrompt
from twd.bench.report import percentile
from twd.bench.session import facts_of, find_speculator
from twd.decoding.cost import CostCurve
from twd.net.delay_proxy import DelayProxy
from twd.wire.job import Speculation


async def main(args: argparse.Namespace) -> None:
    prompts = [prompt for prompt in PROMPTS if prompt.kind in ("reasoning", "factual", "list", "code")][:: args.every]
    home = Path(tempfile.mkdtemp(prefix="twd-latency-"))
    model = {"path": str(weights(args.target)), "ctx_size": 1024, "parallel": 2, "threads": 1}
    system = System(home, {"models": {str(MODEL): model}, "speculation": {"ngram": {"enabled": False}}})
    system.start()
    own, far_core = ({core} for core in sorted(os.sched_getaffinity(0))[:2])
    link = DelayProxy("127.0.0.1", int(system.ctx().with_bus().bus.url.rsplit(":", 1)[1]), 0.0)
    try:
        give_cores(system.pid("speculator"), own)
        port = await link.start()
        token = system.ctx().with_bus().bus.token
        far = {"TWD_BUS_URL": f"nats://127.0.0.1:{port}", "TWD_BUS_TOKEN": token, "TWD_NODE": "far"}
        system.also("run", "drafter", "--model", str(weights(args.draft)), cores=far_core, OMP_NUM_THREADS="1", **far)
        async with client_of(system) as client:
            await until(lambda: attached(client), "the drafter is attached")
            print(json.dumps([await measure(client, link, prompts, ms, args) for ms in args.rtt], indent=1))
    finally:
        await link.close()
        system.stop()


async def attached(client: BenchClient) -> bool:
    paces = facts_of(await find_speculator(client, "")).drafters
    return any(pace.compared for pace in paces)


async def measure(
    client: BenchClient, link: DelayProxy, prompts: list[BenchPrompt], rtt_ms: float, args: argparse.Namespace
) -> dict[str, object]:
    link.delay_s = rtt_ms / 2000
    modes = {"plain": Speculation(enabled=False), "continuous": Speculation()}
    modes |= {f"turns of {k}": Speculation(window=k) for k in args.windows}
    await ask_all(client, prompts[:2], BenchRequest(Speculation(), args.max_tokens))
    rates: dict[str, list[float]] = {name: [] for name in modes}
    texts: dict[str, list[list[int]]] = {}
    for _ in range(args.rounds):
        for name, speculation in modes.items():
            answers = await ask_all(client, prompts, BenchRequest(speculation, args.max_tokens))
            rates[name].append(rate(answers))
            texts[name] = [answer.tokens for answer in answers]
    median = {name: percentile(sorted(values), 0.5) for name, values in rates.items()}
    lease = await find_speculator(client, "")
    (pace,) = facts_of(lease).drafters
    curve = CostCurve(facts_of(lease).cost)
    scale = 1000 / median["plain"] / curve.ms(1)
    setting = SpeculationSetting(lambda rows: scale * curve.ms(rows), pace.token_ms, pace.agreement, rtt_ms)
    best_turns = max(value for name, value in median.items() if name.startswith("turns"))
    row: dict[str, object] = {
        "rtt_ms": rtt_ms,
        "tok_s": {name: round(value, 1) for name, value in median.items()},
        "continuous_over_plain": round(median["continuous"] / median["plain"], 3),
        "continuous_over_best_turns": round(median["continuous"] / best_turns, 3),
        "share_of_ceiling": round(
            median["continuous"] / median["plain"] / (best_continuous(setting) / plain_rate(setting)), 3
        ),
        "token_ms": pace.token_ms,
        "agreement": pace.agreement,
        "texts_equal": all(found == texts["plain"] for found in texts.values()),
    }
    print(row, flush=True)
    return row


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rtt", type=float, nargs="+", default=[0, 5, 20, 50])
    parser.add_argument("--windows", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--every", type=int, default=2, help="use every n-th prompt")
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--target", default="f32")
    parser.add_argument("--draft", default="q8_0")
    assert len(os.sched_getaffinity(0)) > 1, "two cores are needed: one for each side"
    asyncio.run(main(parser.parse_args()))
