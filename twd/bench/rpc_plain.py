"""Plain decoding over llama.cpp's own RPC, the baseline of a ring: same number of workers, same link delays.

The client is a separate process, because a worker that fails ends it: `python -m twd.bench.rpc_plain`, one JSON object
on stdin, one on stdout.
"""

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from twd.decoding.window import FIRST_EPOCH, Window
from twd.engine.load_plan import LoadPlan
from twd.engine.loading import NativeModel, load_native
from twd.engine.rpc.pool import LayerShare, PoolPlan
from twd.engine.rpc.probe import RpcUnusable, probe
from twd.net.delay_proxy import DelayProxy
from twd.net.ports import free_ports
from twd.wire.base import ModelId
from twd.wire.failures import FailureCode, TwdError
from twd.wire.job import Sampling

_HOST: Final = "127.0.0.1"
_READY_S: Final = 60.0
_RUN_S: Final = 600.0
_CHUNK: Final = 32
_WARM: Final = 4


class RpcRequest(msgspec.Struct, frozen=True):
    """What the client should decode."""

    source: str
    layers: int
    endpoints: list[str]
    prompts: list[list[int]]
    tokens: int
    ctx_size: int
    head_here: bool


class RpcMeasurement(msgspec.Struct, frozen=True):
    """What it measured."""

    rate: float
    """Tokens per second after the first ones."""


class RpcBaseline:
    """RPC workers with this machine's own engine; each call of `rate` uses links with a given delay."""

    def __init__(self, source: Path, layers: int, workers: int, threads: int, ctx_size: int = 1024) -> None:
        self._source, self._layers, self._ctx_size = source, layers, ctx_size
        self._ports = free_ports(workers)
        self._threads = threads

    def rate(self, rtt_ms: float, prompts: Sequence[Sequence[int]], tokens: int) -> float:
        """Return tokens per second, with the output head on the last worker or here, whichever is faster."""
        return max(self._rate(rtt_ms, prompts, tokens, head_here) for head_here in (True, False))

    def _rate(self, rtt_ms: float, prompts: Sequence[Sequence[int]], tokens: int, head_here: bool) -> float:
        with rpc_workers(self._ports, self._threads), slow_links(self._ports, rtt_ms) as endpoints:
            asked = RpcRequest(
                source=str(self._source),
                layers=self._layers,
                endpoints=endpoints,
                prompts=[list(prompt) for prompt in prompts],
                tokens=tokens,
                ctx_size=self._ctx_size,
                head_here=head_here,
            )
            command = [sys.executable, "-m", "twd.bench.rpc_plain"]
            told = subprocess.run(command, input=msgspec.json.encode(asked), stdout=subprocess.PIPE, timeout=_RUN_S)
        if told.returncode:
            raise TwdError(FailureCode.WORKER_LOST, "the client of the RPC workers ended; its words are above")
        return msgspec.json.decode(told.stdout, type=RpcMeasurement).rate


@contextmanager
def rpc_workers(ports: Sequence[int], threads: int) -> Iterator[None]:
    """Run RPC workers with this machine's own engine on these ports."""
    quiet = subprocess.DEVNULL
    command = [sys.executable, "-m", "twd.engine.rpc.worker", "--threads", str(threads), "--port"]
    started = [subprocess.Popen([*command, str(port)], stdout=quiet, stderr=quiet) for port in ports]
    try:
        for port in ports:
            _wait_for(port)
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


@contextmanager
def slow_links(ports: Sequence[int], rtt_ms: float) -> Iterator[list[str]]:
    """Yield endpoints with this round trip time in ms."""
    if not rtt_ms:
        yield [f"{_HOST}:{port}" for port in ports]
        return
    proxies = [DelayProxy(_HOST, port, rtt_ms / 2000) for port in ports]
    try:
        yield [f"{_HOST}:{asyncio.run(proxy.start())}" for proxy in proxies]
    finally:
        for proxy in proxies:
            asyncio.run(proxy.close())


def _wait_for(port: int) -> None:
    give_up = time.monotonic() + _READY_S
    while True:
        try:
            asyncio.run(probe(_HOST, port, 1.0))
        except RpcUnusable:
            if time.monotonic() > give_up:
                raise
            time.sleep(0.1)
        else:
            return


def _plan(asked: RpcRequest) -> LoadPlan:
    """The model with its layers over all workers alike."""
    share, rest = divmod(asked.layers, len(asked.endpoints))
    shares = tuple(LayerShare(share + (i < rest), endpoint) for i, endpoint in enumerate(asked.endpoints))
    return LoadPlan(
        ModelId("bench"),
        Path(asked.source),
        ctx_size=asked.ctx_size,
        parallel=1,
        threads=1,
        exact=False,
        test=False,
        pool=PoolPlan(shares, head_here=asked.head_here),
    )


def measure(asked: RpcRequest) -> RpcMeasurement:
    """Load the model over the workers, decode all prompts one after the other, and return the rate."""
    native = load_native(_plan(asked), lambda share, stage: None)
    try:
        _decode(native, asked.prompts[0], _WARM)
        spent = sum(_decode(native, prompt, asked.tokens) for prompt in asked.prompts)
    finally:
        native.close()
    return RpcMeasurement((asked.tokens - 1) * len(asked.prompts) / spent)


def _read(native: NativeModel, slot: int, prompt: Sequence[int], at: int) -> int:
    """Compute a prompt up to its last token; returns the position of that one."""
    while at < len(prompt) - 1:
        chunk = tuple(prompt[at : min(at + _CHUNK, len(prompt) - 1)])
        native.target.submit([Window(slot, FIRST_EPOCH, at, chunk, picks=False, committed=len(chunk))])
        native.target.collect()
        at += len(chunk)
    return at


def _decode(native: NativeModel, prompt: Sequence[int], count: int) -> float:
    """Decode one prompt; returns the seconds from the first token to the last."""
    target = native.target
    sampler = native.samplers.sampler(Sampling(), 0, prompt_len=len(prompt), ignore_eos=True)
    slot, at = target.open(prompt, sampler)
    at = _read(native, slot, prompt, at)
    token, began = prompt[-1], 0.0
    for number in range(count):
        target.submit([Window(slot, FIRST_EPOCH, at + number, (token,))])
        (verdict,) = target.collect()
        if verdict.failure is not None:
            raise TwdError(verdict.failure.code, verdict.failure.message)
        token = verdict.tokens[-1]
        began = began or time.perf_counter()
    target.close(slot)
    return time.perf_counter() - began


if __name__ == "__main__":
    sys.stdout.buffer.write(msgspec.json.encode(measure(msgspec.json.decode(sys.stdin.buffer.read(), type=RpcRequest))))
