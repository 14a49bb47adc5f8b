"""CPU time that each process of a running installation spends on a request, and on a token of a stream.

    TWD_HOME=... twd up -d --demo
    TWD_HOME=... python contrib/benchmarks/edge/cpu.py
    TWD_HOME=... python contrib/benchmarks/edge/cpu.py --whole 1,4,64

CPU time depends far less than the clock on the wall on what else the machine does. A request is a whole answer of
`--short` tokens; a token's share is what a stream of `--long` tokens costs beyond one of `--short`. What a process
spends while nothing is asked is taken off. With `--whole` answers come whole, to so many clients at once over kept
connections. For `--drafts`, start with TWD_SPECULATION_NGRAM_RECALL_TOKENS=0: the same is asked again and again.
"""

import argparse
import asyncio
import time
from typing import Any

import aiohttp
import psutil

from twd.cli.chat.client import ChatClient
from twd.cli.common.api_address import ApiAddress
from twd.cli.common.context import CliContext
from twd.process.home import RunningInstance

Times = dict[str, float]


def times(instance: RunningInstance) -> Times:
    """Seconds of CPU that each process has used, its children included."""
    return {name: _spent(pid) for name, pid in {"supervisor": instance.pid, **instance.processes}.items()}


def _spent(pid: int) -> float:
    spent = psutil.Process(pid).cpu_times()
    return float(spent.user + spent.system)


def running() -> RunningInstance:
    """The installation in TWD_HOME."""
    instance = CliContext().home.running()
    if instance is None:
        raise SystemExit("nothing runs in TWD_HOME; start it with: twd up -d --demo")
    return instance


async def idle(instance: RunningInstance, seconds: float) -> Times:
    """CPU seconds that each process spends in a second without requests."""
    before = times(instance)
    await asyncio.sleep(seconds)
    after = times(instance)
    return {name: (after[name] - before[name]) / seconds for name in before}


async def cost(
    client: ChatClient, instance: RunningInstance, body: dict[str, Any], count: int, calm: Times
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
    instance = running()
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


async def whole_cost(api: str, body: dict[str, Any], instance: RunningInstance, count: int, clients: int) -> Times:
    """CPU seconds of each process for so many whole answers, asked for by so many clients."""
    left = count

    async def ask(session: aiohttp.ClientSession) -> None:
        nonlocal left
        while left > 0:
            left -= 1
            async with session.post(f"{api}/v1/chat/completions", json=body) as response:
                assert (await response.json())["choices"], "no answer"

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        before = times(instance)
        await asyncio.gather(*(ask(session) for _ in range(clients)))
        after = times(instance)
    return {name: after[name] - before[name] for name in before}


async def measure_whole(options: argparse.Namespace) -> None:
    """A row for each process, a column for each number of clients."""
    instance = running()
    body = body_of(options, options.short) | {"stream": False}
    del body["stream_options"]
    columns: dict[int, Times] = {}
    calm = await idle(instance, options.idle)
    for clients in map(int, options.whole.split(",")):
        await whole_cost(instance.addresses["api"], body, instance, 2 * clients + 20, clients)
        began = time.monotonic()
        spent = await whole_cost(instance.addresses["api"], body, instance, options.requests, clients)
        passed = time.monotonic() - began
        columns[clients] = {name: spent[name] - calm[name] * passed for name in spent}
    print(f"{'us/request, clients:':28}" + "".join(f"{clients:8}" for clients in columns))
    for name in calm:
        print(f"{name:28}" + "".join(f"{1e6 * spent[name] / options.requests:8.0f}" for spent in columns.values()))
    print(f"{'all':28}" + "".join(f"{1e6 * sum(spent.values()) / options.requests:8.0f}" for spent in columns.values()))


def main() -> None:
    """Read the options and measure."""
    parser = argparse.ArgumentParser(description="CPU time for each request and token, process by process.")
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--streams", type=int, default=10)
    parser.add_argument("--short", type=int, default=8)
    parser.add_argument("--long", type=int, default=500)
    parser.add_argument("--idle", type=float, default=10.0, help="seconds that idle processes are watched")
    parser.add_argument("--drafts", action="store_true", help="with drafts; without, otherwise")
    parser.add_argument("--whole", default="", metavar="CLIENTS", help="whole answers, by so many clients: 1,4,64")
    parser.add_argument("--ignore-eos", action="store_true", help="never end early; for a model of twd's own")
    options = parser.parse_args()
    asyncio.run(measure_whole(options) if options.whole else measure(options))


if __name__ == "__main__":
    main()
