"""From a SPEC to its files, whichever hub they lie on."""

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, NamedTuple

from twd.models.client import HubClient
from twd.models.environment import HubEnvironment
from twd.models.hub_cache import files_in_cache
from twd.models.huggingface import HuggingFace
from twd.models.ollama import endpoint_of, ollama_files
from twd.models.spec import HubFile, HubQuant, OllamaModel, Spec
from twd.models.web import endpoint_of_url, web_files

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from twd.models.remote_file import RemoteFile


class FoundOnHub(NamedTuple):
    """The files of a SPEC, and the client that reads them."""

    client: HubClient
    files: "list[RemoteFile]"


@asynccontextmanager
async def found_on_hub(spec: Spec, environment: HubEnvironment) -> "AsyncIterator[FoundOnHub]":
    """Yield what a SPEC means; raises TwdError with words for people."""
    client = client_for(spec, environment)
    try:
        yield FoundOnHub(client, await _files(client, spec, environment))
    finally:
        await client.close()


def client_for(spec: Spec, environment: HubEnvironment) -> HubClient:
    """Return a client of the hub that a SPEC names."""
    offline = environment.offline
    if isinstance(spec, HubFile | HubQuant):
        return HubClient(environment.endpoint, environment.token, offline=offline)
    return HubClient(
        endpoint_of(spec.host) if isinstance(spec, OllamaModel) else endpoint_of_url(spec.url), offline=offline
    )


async def _files(client: HubClient, spec: Spec, environment: HubEnvironment) -> "list[RemoteFile]":
    if isinstance(spec, HubFile | HubQuant):
        if environment.offline:
            return files_in_cache(spec, environment)
        return await HuggingFace(client).files(spec)
    if isinstance(spec, OllamaModel):
        return await ollama_files(client, spec)
    return await web_files(client, spec)
