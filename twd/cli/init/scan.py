"""Looks round: servers on a network, models in folders, machines on the bus. Bounded in number and in time."""

import asyncio
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from twd.backends.clients.detection import find_kind, open_backend
from twd.backends.clients.openai_compatible import ListedModels
from twd.backends.clients.upstream import UpstreamServer
from twd.cli.common.context import CliContext
from twd.cli.init.proposal import FoundMachine, FoundModel, url_of
from twd.gguf_tools.head_file import HEAD_FILES, own_head_problem
from twd.settings.model import ModelConfig, ServerConfig
from twd.wire.failures import TwdError
from twd.wire.node import ModelFile, read_node

if TYPE_CHECKING:
    from twd.gguf_tools.inspect import GgufInfo

AT_ONCE: Final = 128
CONNECT_S: Final = 1.0
ANSWER_S: Final = 4.0
MODELS_MAX: Final = 16
"""Of one server, those that are asked what they can."""
TEXTLESS: Final = ("embed", "whisper", "rerank")
"""Words in names of models that write no texts."""
USUAL_FOLDERS: Final = (
    "~/models",
    "~/.lmstudio/models",
    "~/.cache/lm-studio/models",
    "~/.cache/llama.cpp",
    "~/.cache/huggingface/hub",
)


async def scan(hosts: Sequence[str], ports: Sequence[int], progress: Callable[[int], None]) -> list[FoundModel]:
    """Every model of every server that answers at these addresses; `progress` hears how many were looked at."""
    places = itertools.product(hosts, ports)
    total = len(hosts) * len(ports)
    found: list[FoundModel] = []
    await asyncio.gather(*(_look(places, found, progress) for _ in range(min(AT_ONCE, total))))
    return sorted(found, key=lambda one: (one.url, one.name))


async def _look(places: Iterator[tuple[str, int]], found: list[FoundModel], progress: Callable[[int], None]) -> None:
    for host, port in places:
        if await _listens(host, port):
            found += await models_at(url_of(host, port))
        progress(1)


async def _listens(host: str, port: int) -> bool:
    try:
        async with asyncio.timeout(CONNECT_S):
            _, writer = await asyncio.open_connection(host, port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True


async def models_at(url: str, kind: str = "auto", name: str = "") -> list[FoundModel]:
    """The models of one server, with what each can do; nothing where no known server answers."""
    try:
        async with asyncio.timeout(ANSWER_S):
            kind, names = await _names(url, kind)
    except (TwdError, TimeoutError):
        return []
    wanted = [name] if name else [one for one in names if not any(word in one.lower() for word in TEXTLESS)]
    return [await _ask(url, kind, one) for one in wanted[:MODELS_MAX]]


async def _names(url: str, kind: str) -> tuple[str, list[str]]:
    upstream = UpstreamServer(url, timeout_s=ANSWER_S)
    try:
        known = await find_kind(upstream) if kind == "auto" else kind
        listed = await upstream.get("/v1/models", ListedModels)
        return known, [model.id for model in listed.data]
    finally:
        await upstream.close()


async def _ask(url: str, kind: str, name: str) -> FoundModel:
    server = ServerConfig(url=url, kind=kind, model_name=name, timeout_s=ANSWER_S)  # type: ignore[arg-type]
    try:
        async with asyncio.timeout(ANSWER_S):
            backend = await open_backend(server)
            try:
                can = await backend.probe()
            finally:
                await backend.close()
    except (TwdError, TimeoutError) as error:
        return FoundModel(name, url=url, kind=kind, problem=str(error) or "it does not answer in time")
    return FoundModel(
        name,
        url=url,
        kind=kind,
        architecture=can.architecture,
        quantization=can.quantization,
        parameters=can.parameters,
        size_bytes=can.size_bytes,
        vocabulary=can.vocabulary,
        context=can.context,
        scores=can.can_verify,
    )


def find_files(folders: Sequence[Path]) -> tuple[list[FoundModel], list[str]]:
    """The model files below some folders, and what was left out."""
    from twd.agent.model_scan import ModelScan

    scanned = ModelScan(tuple(folder for folder in folders if folder.is_dir()))
    listed = scanned.scan()
    heads = [Path(one.path) for one in listed if one.architecture in HEAD_FILES]
    found = [_file(model, heads) for model in listed]
    once = {Path(one.path).resolve(): one for one in reversed(found)}
    return sorted(once.values(), key=lambda one: one.path), scanned.notes


def _file(model: ModelFile, heads: Sequence[Path]) -> FoundModel:
    from twd.gguf_tools.inspect import inspect
    from twd.supervisor.model_weights import weights_of

    if model.problem:
        return FoundModel(model.name, path=model.path, problem=model.problem)
    try:
        info = inspect(Path(model.path))
    except (TwdError, OSError) as error:
        return FoundModel(model.name, path=model.path, problem=str(error))
    return FoundModel(
        model.name,
        path=model.path,
        architecture=model.architecture,
        quantization=model.quantization,
        parameters=model.parameters,
        size_bytes=model.size_bytes,
        needed_bytes=weights_of(model.name, ModelConfig(path=model.path)).needed,
        vocabulary=info.vocabulary,
        context=model.ctx_size,
        own_head=info.head_layers > 0 and not own_head_problem(info),
        heads=tuple(str(head) for head in heads if _fits(head, info)),
        problem=_unfit(info),
    )


def _fits(head: Path, info: "GgufInfo") -> bool:
    from twd.gguf_tools.head_file import head_problem
    from twd.gguf_tools.header import read_header

    try:
        return not head_problem(read_header(head), info)
    except TwdError:
        return False


def _unfit(info: "GgufInfo") -> str:
    from twd.gguf_tools.slice_layout import read_facts

    if read_facts(info.metadata) is not None:
        return "it is a slice of a model"
    if info.architecture in HEAD_FILES:
        return "it holds a trained head, which guesses for another model"
    return "" if info.vocabulary else "it holds no vocabulary, so it writes no texts"


async def find_peers(ctx: CliContext) -> list[FoundMachine]:
    """Other machines with agents, where there is a bus to ask."""
    from twd.coordinator.core.machines.computers import counted_once
    from twd.coordinator.core.machines.device_names import usable
    from twd.kit.service import LEASE_BUCKET, LEASE_TTL_S

    if not ctx.settings.bus.url and ctx.instance() is None:
        return []
    async with ctx.bus("status") as bus:
        entries = await (await bus.leases(LEASE_BUCKET, LEASE_TTL_S)).entries()
    machines = {facts.node: facts for entry in entries if (facts := read_node(entry.value, entry.key)) is not None}
    return [
        FoundMachine(
            one.node, one.memory.available, sum(gpu.free for gpu in usable(one) if not gpu.shared), len(one.models)
        )
        for one in sorted(counted_once(machines, (), [ctx.node]).values(), key=lambda one: one.node)
        if one.node != ctx.node
    ]
