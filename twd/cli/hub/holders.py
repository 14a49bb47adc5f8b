"""Who has a model: machines of the bus, as their agents list their files."""

import asyncio
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from twd.cli.common.context import CliContext
from twd.cli.common.local_stores import local_stores
from twd.kit.errors import CommandError
from twd.wire.failures import TwdError

if TYPE_CHECKING:
    from twd.models.remote_file import RemoteFile
    from twd.wire.node import ModelFile, NodeFacts


class ModelHolder(msgspec.Struct, frozen=True, omit_defaults=True):
    """One copy of a model."""

    where: str
    """The machine, or the store on this one."""
    path: str
    same: str = "hash"
    """By what it is known to be the same: its hash, or only its name or size."""


def holders_of(ctx: CliContext, path: Path, remote: "Sequence[RemoteFile]") -> list[ModelHolder]:
    """Return the copies that are known; nothing where no bus runs."""
    return [*_in_stores(ctx, remote), *on_machines(_nodes(ctx), path, remote)]


def _in_stores(ctx: CliContext, remote: "Sequence[RemoteFile]") -> list[ModelHolder]:
    """The copies on this machine of a model that is on a hub, by its SHA-256."""
    from twd.models.stores import whole_copies

    stores = local_stores(ctx) if remote else []
    copies = [copy for file in remote for copy in whole_copies(stores, file.sha256, file.size)]
    return [ModelHolder(one.store, str(one.path), "hash" if one.known else "size") for one in copies]


def _nodes(ctx: CliContext) -> "list[NodeFacts]":
    if not ctx.settings.bus.url and ctx.instance() is None:
        return []
    try:
        return asyncio.run(_on_the_bus(ctx))
    except (CommandError, TwdError):
        return []


async def _on_the_bus(ctx: CliContext) -> "list[NodeFacts]":
    from twd.kit.service import LEASE_BUCKET, LEASE_TTL_S
    from twd.supervisor.pool_registry import nodes_of

    async with ctx.bus("status") as bus:
        return nodes_of(await (await bus.leases(LEASE_BUCKET, LEASE_TTL_S)).entries())


def on_machines(nodes: "Iterable[NodeFacts]", path: Path, remote: "Sequence[RemoteFile]") -> list[ModelHolder]:
    """Return the machines with a model: with the same quick hash, or of one on a hub with the same name and size."""
    from twd.gguf_tools.model_file import file_hash

    listed = [(facts.node, model) for facts in nodes for model in facts.models if not model.problem]
    if remote:
        return [ModelHolder(node, model.path, "name and size") for node, model in listed if _alike(model, remote)]
    own = file_hash(path) if listed else ""
    return [ModelHolder(node, model.path) for node, model in listed if model.hash == own]


def _alike(model: "ModelFile", remote: "Sequence[RemoteFile]") -> bool:
    return Path(model.path).name == remote[0].name and model.size_bytes == sum(one.size for one in remote)
