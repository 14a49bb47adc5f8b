"""Collects the facts for the checks from programs, ports, the bus, the API and other servers, with timeouts."""

import asyncio
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Final

import aiohttp

from twd.cli.common.api_address import ApiAddress
from twd.cli.common.context import BUS_WAIT_S
from twd.cli.doctor.live import ApiProbe, BusProbe, ServerProbe
from twd.cli.doctor.programs import EngineBuild, NeededPort
from twd.net.addresses import bare_host, is_loopback
from twd.net.ports import bindable_port
from twd.settings.model import PoolConfig, ServerConfig, Settings, WorkerConfig
from twd.wire.failures import TwdError
from twd.wire.node import NodeFacts

PROGRAM_S: Final = 60.0
ANSWER_S: Final = 5.0
PINGS: Final = 5
LINK_SLOW_MS: Final = 10.0
ASK_LLAMA: Final = """
import json
from twd.engine.build import has_amx, lacks_kernels
from twd.engine.library import devices, supports_rpc
found = devices()
named = [d.name + (" (" + d.description + ")" if d.description != d.name else "") for d in found]
accelerated = any(d.is_gpu for d in found)
told = {"rpc": supports_rpc(), "amx": has_amx(), "kernels": not lacks_kernels()}
print(json.dumps({"devices": named, "accelerated": accelerated, **told}))
"""


def nats_version() -> str:
    """Return the version of the broker's program, or why it cannot be asked."""
    from twd.bus.broker import server_binary

    try:
        argv = [str(server_binary()), "--version"]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=ANSWER_S, check=False)
    except (TwdError, OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return (done.stdout or done.stderr).strip()[:200]


def llama_build() -> EngineBuild:
    """Return what llama.cpp can do; asked in another process, as a build for another CPU would crash this one."""
    try:
        version = importlib.metadata.version("llama-cpp-python")
        argv = [sys.executable, "-P", "-c", ASK_LLAMA]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=PROGRAM_S, check=False)
    except importlib.metadata.PackageNotFoundError as error:
        return EngineBuild(problem=str(error))
    except subprocess.TimeoutExpired:
        return EngineBuild(version=version, problem=f"no answer within {PROGRAM_S:g} s; a device's driver may hang")
    if done.returncode:
        words = done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"]
        return EngineBuild(version=version, problem=words[-1][:300])
    return EngineBuild(version=version, **json.loads(done.stdout.strip().splitlines()[-1]))


def wanted_llama() -> str:
    """The version of llama-cpp-python that this twd names."""
    for line in importlib.metadata.requires("twd") or ():
        if match := re.match(r"llama[-_]cpp[-_]python==([\w.]+)", line):
            return match[1]
    return ""


# -- ports -------------------------------------------------------------------------------------


def needed_ports(settings: Settings, broker: bool) -> list[NeededPort]:
    """The ports that this machine's services listen on, and who has them now."""
    edge, bus = settings.edge, settings.bus
    ports = [look_at_port("API port", "TWD_EDGE_PORT", edge.host, edge.port)] if edge.port else []
    if broker:
        ports.append(look_at_port("broker port", "TWD_BUS_PORT", bus.host, bus.port, can_move=True))
    if settings.agent.port:
        agent = settings.agent
        moves = is_loopback(agent.host)
        ports.append(look_at_port("agent port", "TWD_AGENT_PORT", agent.host, agent.port, can_move=moves))
    if settings.pool.engine == "llama-server":
        server = settings.pool.llama_server
        for number in range(len(settings.models)):
            variable = "TWD_POOL_LLAMA_SERVER_PORT"
            ports.append(look_at_port("llama-server port", variable, server.host, server.port + number))
    return ports


def program_versions(settings: Settings) -> dict[str, str]:
    """What the pool's programs say of their version."""
    if settings.pool.engine != "llama-server":
        return {}
    program = settings.agent.binaries.llama_server
    try:
        argv = [os.path.expanduser(program), "--version"]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=ANSWER_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return {program: f"it does not tell its version: {error}"}
    told = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("version")]
    return {program: (told[0] if told else "it does not tell its version")[:200]}


def look_at_port(name: str, variable: str, host: str, number: int, can_move: bool = False) -> NeededPort:
    """Whether a port can be had, and who has it otherwise."""
    free = bool(_bindable(host, number))
    pid, owner = (0, "") if free else owner_of(number)
    return NeededPort(name, variable, host, number, free, pid, owner, 0 if free else _bindable(host, 0), can_move)


def _bindable(host: str, number: int) -> int:
    """The port that can be had; 0 where none can."""
    try:
        return bindable_port(host, number)
    except OSError:
        return 0


def owner_of(port: int) -> tuple[int, str]:
    """Return pid and name of the process that listens on a port, if the system tells it."""
    import psutil

    try:
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr[1:] == (port,) and connection.pid:
                return connection.pid, " ".join(psutil.Process(connection.pid).cmdline()).strip()[:120]
    except psutil.Error:
        return 0, ""
    return 0, ""


# -- the bus and the API -----------------------------------------------------------------------


async def look_at_bus(settings: Settings, node: str) -> BusProbe:
    """Connect to the bus; returns the round trip time and the services there."""
    from twd.kit.connect import connect
    from twd.kit.service import LEASE_BUCKET, LEASE_TTL_S
    from twd.wire.node import read_node
    from twd.wire.service import read_lease

    try:
        bus = await connect(settings, "status", node, BUS_WAIT_S)
    except TwdError as error:
        return BusProbe(problem=str(error))
    try:
        rtt_s = min([await _flushed(bus.flush) for _ in range(PINGS)])
        entries = await (await bus.leases(LEASE_BUCKET, LEASE_TTL_S)).entries()
    except TwdError as error:
        return BusProbe(problem=str(error))
    finally:
        await bus.close()
    leases = [(lease, entry.age_s) for entry in entries if (lease := read_lease(entry.value, entry.key)) is not None]
    nodes = [facts for entry in entries if (facts := read_node(entry.value, entry.key)) is not None]
    return BusProbe(
        rtt_s * 1000,
        sorted(leases, key=lambda pair: (pair[0].node, pair[0].service)),
        nodes=sorted(nodes, key=lambda facts: facts.node),
    )


async def _flushed(flush: Callable[[], Awaitable[None]]) -> float:
    began = time.perf_counter()
    await flush()
    return time.perf_counter() - began


async def look_at_api(api: ApiAddress) -> ApiProbe:
    """Ask the API whether it works and would answer."""
    timeout = aiohttp.ClientTimeout(total=ANSWER_S)
    try:
        async with aiohttp.ClientSession(timeout=timeout, headers=api.headers) as session:
            async with session.get(f"{api.url}/healthz", ssl=api.tls or True) as response:
                if response.status != 200:
                    return ApiProbe(api.url, problem=f"answers with status {response.status}; is it twd?")
            async with session.get(f"{api.url}/readyz", ssl=api.tls or True) as response:
                told = json.loads(await response.content.read(65536))
                if response.status == 200:
                    return ApiProbe(api.url)
    except TimeoutError:
        return ApiProbe(api.url, problem=f"no answer within {ANSWER_S:g} s")
    except (aiohttp.ClientError, OSError, ValueError) as error:
        return ApiProbe(api.url, problem=f"cannot be reached: {error}")
    reasons = told.get("reasons") if isinstance(told, dict) else None
    return ApiProbe(api.url, reasons=[str(reason) for reason in reasons or ["it does not say why"]])


# -- elsewhere ---------------------------------------------------------------------------------


async def look_elsewhere(settings: Settings, nodes: Sequence[NodeFacts] = ()) -> list[ServerProbe]:
    """Ask every configured server and machine, all at once; `nodes` are the machines on the bus."""
    from twd.backends.clients.detection import server_of

    allowed = settings.edge.allow_private_upstream
    visits = [_ask_server(f"backends.{name}", server, True, allowed) for name, server in settings.backends.items()]
    needed = not settings.speculation.fallback_on_draft_failure
    for drafter in settings.drafters:
        if drafter.url:
            visits.append(_ask_server(f"drafter {drafter.name or drafter.url}", server_of(drafter), needed, allowed))
    guests = {facts.hostname: facts for facts in nodes if facts.guest}
    told = [guest_look(guest) for guest in guests.values()]
    visits += [_ask_peer(worker, settings.pool) for worker in settings.pool.workers if worker.host not in guests]
    return [*await asyncio.gather(*visits), *told]


async def _ask_server(name: str, server: ServerConfig, needed: bool, allow_private: bool) -> ServerProbe:
    from twd.backends.clients.detection import open_backend

    look = ServerProbe(name, server.url, needed=needed, mend=f"curl -sS {server.url}/v1/models")
    try:
        async with asyncio.timeout(ANSWER_S):
            backend = await open_backend(server, allow_private=allow_private)
            try:
                found = await backend.probe()
                began = time.perf_counter()
                await backend.probe()
                answer_ms = (time.perf_counter() - began) * 1000
            finally:
                await backend.close()
    except TimeoutError:
        return replace(look, problem=f"{server.url} does not answer within {ANSWER_S:g} s")
    except TwdError as error:
        return replace(look, problem=error.failure.with_advice)
    return replace(look, use=found.use, answer_ms=answer_ms, architecture=found.architecture)


def guest_look(guest: NodeFacts) -> ServerProbe:
    """What the coordinator knows of a machine without an agent: its worker serves one client, and that is not us."""
    workers = ", ".join(f"port {one.port} ({one.version})" for one in guest.processes if not one.note)
    where = next((f"{one.host}:{one.port}" for one in guest.processes), guest.hostname)
    return ServerProbe(
        f"machine {guest.hostname}",
        where,
        use=f"without an agent; its RPC workers are used: {workers}",
        answer_ms=guest.link_ms,
        problem="; ".join(one.note for one in guest.processes if one.note),
        needed=False,
        mend=f"twd run agent  # on {guest.hostname}; or mend its rpc-server",
        slow_ms=LINK_SLOW_MS,
    )


async def _ask_peer(worker: WorkerConfig, pool: PoolConfig) -> ServerProbe:
    """Whether a machine of the pool can be reached, and how far it is: by its agent, or by its RPC worker alone."""
    from twd.coordinator.core.machines.agentless_hosts import barred

    look = await _ask_agent(worker)
    if not look.problem or pool.engine == "ring":
        return look
    if pool.engine == "rpc" and (why := barred(worker.host, pool)):
        return replace(look, problem=f"{look.problem}; {why}")
    port = next((gpu.rpc_port for gpu in worker.gpus if gpu.rpc_port), worker.rpc_port)
    direct = await _ask_worker(worker.host, port)
    return replace(direct, problem=f"{look.problem}; {direct.problem}") if direct.problem else direct


async def _ask_worker(host: str, port: int) -> ServerProbe:
    from twd.engine.rpc.probe import OURS, probe

    where = f"{host}:{port}"
    mend = f"rpc-server -H {host} -p {port}  # on that machine, or twd-agent"
    look = ServerProbe(f"machine {host}", where, mend=mend, slow_ms=LINK_SLOW_MS)
    began = time.perf_counter()
    try:
        version = await probe(bare_host(host), port, ANSWER_S)
    except TwdError as error:
        return replace(look, problem=str(error))
    answer_ms = (time.perf_counter() - began) * 1000
    if not OURS.can_talk_to(version):
        return replace(look, problem=f"its RPC worker speaks {version}, and our engine {OURS}: take the same llama.cpp")
    return replace(look, use=f"its RPC worker answers ({version})", answer_ms=answer_ms)


async def _ask_agent(worker: WorkerConfig) -> ServerProbe:
    where = f"{worker.host}:{worker.peer_port}"
    mend = "twd-agent  # on that machine"
    look = ServerProbe(f"machine {worker.host}", where, "its agent answers", mend=mend, slow_ms=LINK_SLOW_MS)
    began = time.perf_counter()
    try:
        async with asyncio.timeout(ANSWER_S):
            _, writer = await asyncio.open_connection(bare_host(worker.host), worker.peer_port)
    except (TimeoutError, OSError) as error:
        return replace(look, problem=f"nobody answers at {where} ({error or 'no answer in time'})")
    answer_ms = (time.perf_counter() - began) * 1000
    writer.close()
    return replace(look, answer_ms=answer_ms)
