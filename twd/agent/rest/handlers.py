"""The peer REST API: what this machine is, and RPC workers on it."""

import asyncio
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import psutil
from aiohttp import web
from msgspec import Meta

import twd
from twd.agent.digests import FileDigests
from twd.agent.log_tail import LINES_MAX, log_names, log_path, tail
from twd.agent.moe_profile import profile_of
from twd.agent.processes import ManagedProcesses, rpc_wanted
from twd.agent.rest.server import json_reply, read_json, read_query
from twd.kit.clock import Clock
from twd.wire.failures import FailureCode, TwdError
from twd.wire.node import NodeFacts, ProcessFacts, ProcessKind, ProcessWanted

GIB: Final = 1024**3
MIB: Final = 1024**2
PORT_LEAST: Final = 1024
Port = Annotated[int, Meta(ge=PORT_LEAST, le=65535)]


class RpcStart(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Parameters of `rpc/start`. Port 0 takes a free one; without `binary`, the program of this machine's settings,
    else ours."""

    port: Annotated[int, Meta(ge=0, le=65535)] = 50052
    binary: Annotated[str, Meta(max_length=256)] = ""
    threads: Annotated[int, Meta(ge=0, le=1024)] = 0

    def __post_init__(self) -> None:
        if 0 < self.port < PORT_LEAST:
            raise ValueError(f"Expected 0, which takes a free one, or `int` >= {PORT_LEAST} - at `$.port`")


class RpcStop(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Parameters of `rpc/stop`."""

    port: Port = 50052


class LogQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Parameters of `logs`."""

    service: Annotated[str, Meta(min_length=1, max_length=128)] = "agent"
    lines: Annotated[int, Meta(ge=1, le=LINES_MAX)] = 100


class ModelQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Parameters of `models`."""

    sha256: Annotated[str, Meta(max_length=256)] = ""


class ProfileQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Parameters of `moe/profile`: a process, by its port or by its name."""

    port: Annotated[int, Meta(ge=0, le=65535)] = 0
    service: Annotated[str, Meta(max_length=128)] = ""


@dataclass
class PeerApi:
    """The handlers; `facts` returns the machine's latest facts."""

    facts: Callable[[], NodeFacts]
    start: Callable[[ProcessWanted], Any]
    stop: Callable[[str, str], Any]
    processes: ManagedProcesses
    digests: FileDigests
    logs: Path
    model_dirs: Sequence[Path]
    clock: Clock
    began: float

    def routes(self) -> list[web.RouteDef]:
        """Return all routes of the API."""
        return [
            web.get("/v1/peer/version", self.version),
            web.get("/v1/peer/health", self.health),
            web.get("/v1/peer/gpu", self.gpu),
            web.get("/v1/peer/models", self.models),
            web.get("/v1/peer/processes", self.list_processes),
            web.get("/v1/peer/logs", self.tail_log),
            web.get("/v1/peer/moe/profile", self.moe_profile),
            web.post("/v1/peer/rpc/start", self.rpc_start),
            web.post("/v1/peer/rpc/stop", self.rpc_stop),
        ]

    async def version(self, request: web.Request) -> web.Response:
        """Return the versions of twd, of our engine and of every other build on this machine."""
        facts = self.facts()
        server = next((build.version for build in facts.builds if build.name == "llama-server"), "")
        told = {
            "twd_version": twd.__version__,
            "llama_server_version": server,
            "platform": platform.system(),
            "machine": platform.machine(),
            "hostname": platform.node(),
            "node": facts.node,
            "builds": facts.builds,
        }
        return json_reply(told)

    async def health(self, request: web.Request) -> web.Response:
        """Return the machine's state: uptime, load, memory, disk and notes."""
        told = {
            "status": "starting" if self.facts().looking else "ok",
            "node": self.facts().node,
            "uptime_seconds": round(self.clock.now() - self.began, 1),
            "load_avg": [round(value, 2) for value in psutil.getloadavg()],
            "memory": _memory_told(),
            "disk": _disk_told(self.logs),
            "notes": self.facts().notes,
        }
        return json_reply(told)

    async def gpu(self, request: web.Request) -> web.Response:
        """Return the GPUs as they were last detected."""
        told = [
            {**msgspec.to_builtins(gpu), "index": gpu.index, "vram_mb": gpu.total // MIB, "free_mb": gpu.free // MIB}
            for gpu in self.facts().gpus
        ]
        return json_reply({"gpus": told})

    async def models(self, request: web.Request) -> web.Response:
        """Return the models on disk; `?sha256=NAME` reads a whole model file and returns its digest."""
        asked = read_query(request, ModelQuery)
        if asked.sha256:
            digest = await self.digests.of(asked.sha256)
            return json_reply({"name": asked.sha256, "sha256": digest})
        told = [
            {**msgspec.to_builtins(model), "size_gb": round(model.size_bytes / GIB, 2)} for model in self.facts().models
        ]
        return json_reply({"models": told, "model_dirs": [str(folder) for folder in self.model_dirs]})

    async def list_processes(self, request: web.Request) -> web.Response:
        """Return the processes that this agent keeps alive."""
        return json_reply({"processes": self.processes.facts()})

    async def tail_log(self, request: web.Request) -> web.Response:
        """Return the last lines of one log."""
        asked = read_query(request, LogQuery)
        path = log_path(self.logs, asked.service)
        lines = await asyncio.to_thread(tail, path, asked.lines)
        return json_reply({"service": asked.service, "lines": lines, "services": log_names(self.logs)})

    async def moe_profile(self, request: web.Request) -> web.Response:
        """Return which experts were used, counted from a process's log."""
        asked = read_query(request, ProfileQuery)
        name = asked.service or self.processes.find(asked.port) or ""
        if not name:
            text = f"nothing that this agent started listens on port {asked.port}; give a port of /v1/peer/processes"
            raise TwdError(FailureCode.BAD_REQUEST, text, "port")
        path = log_path(self.logs, name)
        counted = await asyncio.to_thread(profile_of, path)
        if counted is None:
            text = f"the log of {name!r} tells of no experts; its program must write them (LLAMA_LOG_MOE=1)"
            raise TwdError(FailureCode.MODEL_NOT_FOUND, text, "service")
        return json_reply({"port": asked.port, "source": name, **counted})

    async def rpc_start(self, request: web.Request) -> web.Response:
        """Start an RPC worker; if it already runs, return its facts."""
        asked = await read_json(request, RpcStart)
        port = asked.port or self.processes.free_port()
        facts: ProcessFacts = await self.start(rpc_wanted(self.facts().node, port, asked.binary, asked.threads))
        told = {"status": "running", "pid": facts.pid, "host": facts.host, "port": facts.port, "process": facts.process}
        return json_reply({**told, "program": facts.program, "rpc_version": facts.version})

    async def rpc_stop(self, request: web.Request) -> web.Response:
        """End an RPC worker."""
        asked = await read_json(request, RpcStop)
        name = self.processes.find(asked.port, ProcessKind.RPC)
        if name is None:
            text = f"no RPC worker of this agent listens on port {asked.port}"
            raise TwdError(FailureCode.MODEL_NOT_FOUND, text, "port")
        await self.stop(name, f"asked for by {request.remote or 'somebody'}")
        return json_reply({"status": "stopped", "port": asked.port})


def _memory_told() -> dict[str, int]:
    memory = psutil.virtual_memory()
    return {
        "total_mb": memory.total // MIB,
        "available_mb": memory.available // MIB,
        "free_mb": memory.free // MIB,
    }


def _disk_told(folder: Path) -> dict[str, float]:
    disk = psutil.disk_usage(str(folder))
    return {
        "total_gb": round(disk.total / GIB, 1),
        "used_gb": round(disk.used / GIB, 1),
        "free_gb": round(disk.free / GIB, 1),
    }
