"""CPU time that each process of a running installation spends on a request, and on a token of a stream.

    TWD_HOME=... twd up -d --demo
    TWD_HOME=... python contrib/benchmarks/edge/cpu.py

CPU time depends far less than the clock on the wall on what else the machine does. A request is a whole answer of
`--short` tokens; a token's share is what a stream of `--long` tokens costs beyond one of `--short`. What a process
spends while nothing is asked is taken off.
"""

import argparse
import asyncio
import time
from typing import Any

import psutil

from twd.cli.api_address import ApiAddress
from twd.cli.chat_client import ChatClient
from twd.cli.context import Ground
from twd.kit.home import Instance

Times = dict[str, float]


def times(instance: Instance) -> Times:
    """Seconds of CPU that each process has used, its children included."""
    return {name: _spent(pid) for name, pid in {"supervisor": instance.pid, **instance.processes}.items()}


def _spent(pid: int) -> float:
    spent = psutil.Process(pid).cpu_times()
    return float(spent.user + spent.system)


async def idle(instance: Instance, seconds: float) -> Times:
    """CPU seconds that each process spends in a second without requests."""
    before = times(instance)
    await asyncio.sleep(seconds)
    after = times(instance)
    return {name: (after[name] - before[name]) / seconds for name in before}


async def cost(
    client: ChatClient, instance: Instance, body: dict[str, Any], count: int, calm: Times
) -> tuple[Times, float]:
    """CPU seconds of each process for so many requests, one after another; and the tokens of one."""
    tokens, began = 0, time.monotonic()
    before = times(instance)
    for number in range(count):
        answer = await client.ask({**body, "seed": number}, lambda text: None)
        tokens += answer.tokens
    after, spent = times(instance), time.monotonic() - began
    return {name: after[name] - before[name] - calm[name] * spent for name in before}, tokens / count


def body_of(options: argparse.Namespace, tokens: int) -> dict[str, Any]:
    """A streamed request that always gives so many tokens."""
    return {
        "model": "default",
        "messages": [{"role": "user", "content": "Tell me about the sea."}],
        "max_tokens": tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0,
        **({"ignore_eos": True} if options.ignore_eos else {}),
        "twd": {"speculation": "auto" if options.drafts else "off"},
    }


async def measure(options: argparse.Namespace) -> None:
    """Both costs of each process, as a table."""
    instance = Ground().home.running()
    if instance is None:
        raise SystemExit("nothing runs in TWD_HOME; start it with: twd up -d --demo")
    client = ChatClient(ApiAddress(instance.addresses["api"]))
    try:
        calm = await idle(instance, options.idle)
        await cost(client, instance, body_of(options, options.short), 10, calm)
        request, few = await cost(client, instance, body_of(options, options.short), options.requests, calm)
        stream, many = await cost(client, instance, body_of(options, options.long), options.streams, calm)
    finally:
        await client.close()
    print(f"{'process':28} us/request ({few:.0f} tokens)   us/token")
    for name in request:
        per_request = 1e6 * request[name] / options.requests
        per_token = (1e6 * stream[name] / options.streams - per_request) / (many - few)
        print(f"{name:28} {per_request:10.0f} {per_token:22.1f}")


def main() -> None:
    """Read the options and measure."""
    parser = argparse.ArgumentParser(description="CPU time for each request and token, process by process.")
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--streams", type=int, default=10)
    parser.add_argument("--short", type=int, default=8)
    parser.add_argument("--long", type=int, default=500)
    parser.add_argument("--idle", type=float, default=10.0, help="seconds that idle processes are watched")
    parser.add_argument("--drafts", action="store_true", help="with drafts; without, otherwise")
    parser.add_argument("--ignore-eos", action="store_true", help="never end early; for a model of twd's own")
    asyncio.run(measure(parser.parse_args()))


if __name__ == "__main__":
    main()
