"""What an endpoint adds to a server that answers at once: twd, LiteLLM's proxy, and PyPI's tightwad, one after another.

    contrib/benchmarks/edge/run.sh

For each: the time of a whole answer of 8 tokens (one client), the time that each token of a stream of 200 takes beyond
what the upstream alone takes, and the requests a second of 1, 4 and 64 clients.
"""

import argparse
import asyncio
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from twd.net.ports import free_port

HERE = Path(__file__).parent
TALK = [{"role": "user", "content": "hello"}]
WHOLE_TOKENS, STREAM_TOKENS = 8, 200
READY_S = 120
UVICORN = (
    "import os, uvicorn; from tightwad.config import load_proxy_from_env; from tightwad.proxy import create_app; "
    "uvicorn.run(create_app(load_proxy_from_env()), host='127.0.0.1', port=int(os.environ['TIGHTWAD_PORT']), "
    "log_level='error')"
)


@dataclass
class Figures:
    """What was measured of one endpoint."""

    whole_ms: float
    stream_ms: float
    rates: dict[int, float]
    errors: int = 0


@contextmanager
def process(argv: list[str], log: Path, **env: str) -> Iterator[None]:
    """A process that is ended afterwards."""
    with log.open("ab") as out:
        started = subprocess.Popen(argv, stdout=out, stderr=out, env={**os.environ, **env}, start_new_session=True)
    try:
        yield
    finally:
        os.killpg(started.pid, signal.SIGTERM)
        try:
            started.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(started.pid, signal.SIGKILL)
            started.wait()


@contextmanager
def twd(upstream: str, folder: Path) -> Iterator[str]:
    """Broker, edge, metrics and a relay."""
    port = free_port()
    env = {"TWD_HOME": str(folder / "home"), "TWD_EDGE_PORT": str(port), "TWD_BUS_PORT": str(free_port())}
    backend = {"url": upstream, "kind": "openai", "model_name": "fake"}
    (folder / "twd.yaml").write_text(json.dumps({"models": {}, "backends": {"fake": backend}}))
    command = [sys.executable, "-P", "-m", "twd", "-c", str(folder / "twd.yaml")]
    subprocess.run([*command, "up", "-d"], env={**os.environ, **env}, check=True, stdout=subprocess.DEVNULL)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        subprocess.run([*command, "down"], env={**os.environ, **env}, check=False, stdout=subprocess.DEVNULL)


@contextmanager
def litellm(upstream: str, folder: Path, environment: Path) -> Iterator[str]:
    """LiteLLM's proxy with one model and nothing else."""
    port = free_port()
    params = {"model": "openai/fake", "api_base": f"{upstream}/v1", "api_key": "none"}
    config = {"model_list": [{"model_name": "fake", "litellm_params": params}]}
    (folder / "litellm.json").write_text(json.dumps(config))
    argv = [str(environment / "bin/litellm"), "--config", str(folder / "litellm.json"), "--port", str(port)]
    quiet = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_TELEMETRY": "False", "LITELLM_LOG": "ERROR"}
    quiet["LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY"] = "true"
    with process([*argv, "--host", "127.0.0.1"], folder / "litellm.log", **quiet):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def tightwad(upstream: str, folder: Path, environment: Path) -> Iterator[str]:
    """The upstream as its target and as its drafter: one round, which is two of its requests, makes the answer."""
    port = free_port()
    env = {"TIGHTWAD_PORT": str(port), "TIGHTWAD_HOST": "127.0.0.1", "TIGHTWAD_ALLOW_UNAUTHENTICATED": "true"}
    for part in ("DRAFT", "TARGET"):
        env |= {f"TIGHTWAD_{part}_URL": upstream, f"TIGHTWAD_{part}_BACKEND": "llamacpp"}
    with process([str(environment / "bin/python"), "-c", UVICORN], folder / "tightwad.log", **env):
        yield f"http://127.0.0.1:{port}"


class Client:
    """Asks one endpoint."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = f"{url}/v1/chat/completions"
        self.errors = 0

    async def whole(self) -> float:
        """Milliseconds of one whole answer."""
        began = time.perf_counter()
        await self._ask({"max_tokens": WHOLE_TOKENS, "stream": False})
        return (time.perf_counter() - began) * 1000

    async def stream(self) -> float:
        """Milliseconds of one stream from its first byte to its end."""
        body = {"model": "fake", "messages": TALK, "max_tokens": STREAM_TOKENS, "stream": True}
        async with self._session.post(self._url, json=body) as response:
            await response.content.readany()
            began = time.perf_counter()
            while await response.content.readany():
                pass
        return (time.perf_counter() - began) * 1000

    async def _ask(self, fields: dict[str, object]) -> None:
        async with self._session.post(self._url, json={"model": "fake", "messages": TALK, **fields}) as response:
            answer = await response.json(content_type=None)
            self.errors += response.status != 200 or "choices" not in answer

    async def rate(self, clients: int, seconds: float) -> float:
        """Requests a second of so many clients at once."""
        end = time.perf_counter() + seconds
        done = 0

        async def ask() -> None:
            nonlocal done
            while time.perf_counter() < end:
                await self.whole()
                done += 1

        began = time.perf_counter()
        await asyncio.gather(*(ask() for _ in range(clients)))
        return done / (time.perf_counter() - began)

    async def ready(self) -> None:
        """Wait until it answers well."""
        end = time.monotonic() + READY_S
        while True:
            try:
                before = self.errors
                await self.whole()
                if self.errors == before:
                    return
            except (aiohttp.ClientError, ValueError) as error:
                if time.monotonic() > end:
                    raise SystemExit(f"{self._url} does not answer: {error}") from None
            if time.monotonic() > end:
                raise SystemExit(f"{self._url} answers with errors only")
            await asyncio.sleep(0.2)


async def measure(url: str, seconds: float) -> Figures:
    """All figures of one endpoint."""
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(60)) as session:
        client = Client(session, url)
        await client.ready()
        client.errors = 0
        for _ in range(20):
            await client.whole()
        whole = statistics.median([await client.whole() for _ in range(200)])
        stream = statistics.median([await client.stream() for _ in range(30)])
        rates = {clients: await client.rate(clients, seconds) for clients in (1, 4, 64)}
        return Figures(whole, stream, rates, client.errors)


def show(name: str, figures: Figures, alone: Figures) -> None:
    """One row of the table."""
    added = figures.whole_ms - alone.whole_ms
    token = (figures.stream_ms - alone.stream_ms) * 1000 / STREAM_TOKENS
    rates = " ".join(f"{figures.rates[clients]:8.0f}" for clients in (1, 4, 64))
    print(f"{name:10} {figures.whole_ms:8.2f} {added:8.2f} {token:9.1f} {rates} {figures.errors:7}", flush=True)


def main() -> None:
    """Measure all, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=4.0, help="how long each rate is measured")
    parser.add_argument("--litellm", type=Path, help="an environment with litellm[proxy]")
    parser.add_argument("--tightwad", type=Path, help="an environment with tightwad")
    options = parser.parse_args()
    load, cores = os.getloadavg()[0], os.cpu_count()
    print(f"{cores} cores, load average {load:.1f} before the start")
    print("endpoint   whole ms added ms us/token   1/s of 1     of 4    of 64  errors")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="twd-edge-bench-")))
        upstream = f"http://127.0.0.1:{(port := free_port())}"
        stack.enter_context(process([sys.executable, str(HERE / "upstream.py"), str(port)], folder / "upstream.log"))
        alone = asyncio.run(measure(upstream, options.seconds))
        show("alone", alone, alone)
        with twd(upstream, folder) as url:
            show("twd", asyncio.run(measure(url, options.seconds)), alone)
        if options.litellm:
            with litellm(upstream, folder, options.litellm) as url:
                show("litellm", asyncio.run(measure(url, options.seconds)), alone)
        if options.tightwad:
            with tightwad(upstream, folder, options.tightwad) as url:
                show("tightwad", asyncio.run(measure(url, options.seconds)), alone)


if __name__ == "__main__":
    main()
