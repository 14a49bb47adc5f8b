"""Finds out what kind of server answers at an address, and makes the adapter that speaks to it."""

from typing import Any, Final

import msgspec

from twd.backends.base import Backend
from twd.backends.echo import Echo
from twd.backends.llama_server import LlamaServer
from twd.backends.ollama import Ollama
from twd.backends.openai_compatible import ModelList, OpenAiCompatible
from twd.backends.sglang import Sglang
from twd.backends.upstream import KeyRefused, Upstream
from twd.backends.vllm import Vllm
from twd.kit.settings import Drafter as DrafterSettings
from twd.kit.settings import Server
from twd.wire.failures import FailureCode, TwdError

ADAPTERS: Final[dict[str, type[OpenAiCompatible] | type[Ollama]]] = {
    "llamacpp": LlamaServer,
    "ollama": Ollama,
    "openai": Echo,
    "sglang": Sglang,
    "vllm": Vllm,
}
_OWNERS: Final = {"llamacpp": "llamacpp", "library": "ollama", "sglang": "sglang", "vllm": "vllm"}
"""What servers write as the owner of their models."""
_SIGNS: Final = (("/api/version", "ollama"), ("/props", "llamacpp"), ("/get_model_info", "sglang"))
"""Paths that only one kind has, for servers whose list of models tells nothing."""


async def open_backend(server: Server, *, allow_private: bool = True) -> Backend:
    """The adapter for a configured server; `auto` asks the server what it is. It is not probed yet."""
    upstream = Upstream(server.url, api_key=server.api_key, timeout_s=server.timeout_s, allow_private=allow_private)
    try:
        kind = await find_kind(upstream, server.base_path) if server.kind == "auto" else server.kind
    except TwdError:
        await upstream.close()
        raise
    return ADAPTERS[kind](upstream, server.model_name, server.base_path)


async def find_kind(upstream: Upstream, base_path: str = "") -> str:
    """What answers there. A server that cannot be reached is an error; one that only knows OpenAI's API is that."""
    owners = await _owners(upstream, f"{base_path}/v1/models")
    if owners is None and base_path:
        owners = await _owners(upstream, f"{base_path}/models")
    for owner in owners or ():
        if owner in _OWNERS:
            return _OWNERS[owner]
    for path, kind in _SIGNS:
        if await _has(upstream, f"{base_path}{path}"):
            return kind
    if owners is None:
        raise upstream.broken("is none of the servers that twd knows: set `kind` if it is one after all")
    return "openai"


async def _owners(upstream: Upstream, path: str) -> list[str] | None:
    try:
        listed = await upstream.get(path, ModelList)
    except KeyRefused:
        raise
    except TwdError as error:
        if error.code is not FailureCode.BACKEND_BROKEN:
            raise
        return None
    return [model.owned_by or "" for model in listed.data]


async def _has(upstream: Upstream, path: str) -> bool:
    try:
        return isinstance(await upstream.get(path, dict[str, Any]), dict)
    except TwdError as error:
        if error.code is not FailureCode.BACKEND_BROKEN:
            raise
        return False


def server_of(drafter: DrafterSettings) -> Server:
    """The server behind a drafter that is not ours."""
    return msgspec.convert({name: getattr(drafter, name) for name in Server.__struct_fields__}, Server)
