"""Finds out what kind of server answers at an address, and makes the adapter that speaks to it."""

from typing import Any, Final

import msgspec

from twd.backends.clients.base import Backend
from twd.backends.clients.echo import EchoClient
from twd.backends.clients.llama_server import LlamaServerClient
from twd.backends.clients.ollama import OllamaClient
from twd.backends.clients.openai_compatible import ListedModels, OpenAiClient
from twd.backends.clients.sglang import SglangClient
from twd.backends.clients.upstream import KeyRefused, UpstreamServer
from twd.backends.clients.vllm import VllmClient
from twd.settings.model import DrafterConfig, ServerConfig
from twd.wire.failures import FailureCode, TwdError

ADAPTERS: Final[dict[str, type[OpenAiClient] | type[OllamaClient]]] = {
    "llamacpp": LlamaServerClient,
    "ollama": OllamaClient,
    "openai": EchoClient,
    "sglang": SglangClient,
    "vllm": VllmClient,
}
_OWNERS: Final = {"llamacpp": "llamacpp", "library": "ollama", "sglang": "sglang", "vllm": "vllm"}
"""What servers write as the owner of their models."""
_SIGNS: Final = (("/api/version", "ollama"), ("/props", "llamacpp"), ("/get_model_info", "sglang"))
"""Paths that only one kind has, for servers whose list of models tells nothing."""


async def open_backend(server: ServerConfig, *, allow_private: bool = True) -> Backend:
    """The adapter for a configured server; `auto` asks the server what it is. It is not probed yet."""
    upstream = UpstreamServer(
        server.url, api_key=server.api_key, timeout_s=server.timeout_s, allow_private=allow_private
    )
    try:
        kind = await find_kind(upstream, server.base_path) if server.kind == "auto" else server.kind
    except TwdError:
        await upstream.close()
        raise
    return ADAPTERS[kind](upstream, server.model_name, server.base_path)


async def find_kind(upstream: UpstreamServer, base_path: str = "") -> str:
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


async def _owners(upstream: UpstreamServer, path: str) -> list[str] | None:
    try:
        listed = await upstream.get(path, ListedModels)
    except KeyRefused:
        raise
    except TwdError as error:
        if error.code is not FailureCode.BACKEND_BROKEN:
            raise
        return None
    return [model.owned_by or "" for model in listed.data]


async def _has(upstream: UpstreamServer, path: str) -> bool:
    try:
        return isinstance(await upstream.get(path, dict[str, Any]), dict)
    except TwdError as error:
        if error.code is not FailureCode.BACKEND_BROKEN:
            raise
        return False


def server_of(drafter: DrafterConfig) -> ServerConfig:
    """The server behind a drafter that is not ours."""
    return msgspec.convert({name: getattr(drafter, name) for name in ServerConfig.__struct_fields__}, ServerConfig)
