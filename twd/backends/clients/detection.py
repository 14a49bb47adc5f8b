"""Finds out what kind of server answers at an address, and creates the client for it."""

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
"""What each kind of server writes as `owned_by` of its models."""
_SIGNS: Final = (("/api/version", "ollama"), ("/props", "llamacpp"), ("/get_model_info", "sglang"))
"""Paths that only one kind of server has, for servers whose model list does not identify them."""


async def open_backend(server: ServerConfig, *, allow_private: bool = True) -> Backend:
    """The client for a configured server; for `auto` the server is asked what it is. It is not probed yet."""
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
    """The kind of server that answers. Raises if it cannot be reached; a server that only knows OpenAI's API is of that
    kind.
    """
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
    """The server of a drafter that is another program's."""
    return msgspec.convert({name: getattr(drafter, name) for name in ServerConfig.__struct_fields__}, ServerConfig)
