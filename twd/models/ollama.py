"""The protocol of Ollama's registry: a manifest names the blobs of a model by their SHA-256."""

from typing import Final

import msgspec

from twd.models.client import HubClient, HubError
from twd.models.remote_file import RemoteFile, check_sha256
from twd.models.spec import OLLAMA_REGISTRY, OllamaModel
from twd.net.addresses import is_loopback
from twd.wire.failures import FailureCode, TwdError

MANIFEST_TYPE: Final = "application/vnd.docker.distribution.manifest.v2+json"
MODEL_TYPE: Final = "application/vnd.ollama.image.model"
LIBRARY: Final = "https://ollama.com"


class RegistryLayer(msgspec.Struct, rename="camel"):
    """One blob of a model."""

    media_type: str
    digest: str
    size: int


class RegistryManifest(msgspec.Struct):
    """What a registry tells of a name and tag."""

    layers: list[RegistryLayer] = []


class _Tags(msgspec.Struct):
    tags: list[str] | None = None


def endpoint_of(host: str) -> str:
    """Return a registry's address; only on this machine it may be plain."""
    bare = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    return f"{'http' if is_loopback(bare) else 'https'}://{host}"


async def ollama_files(client: HubClient, spec: OllamaModel) -> list[RemoteFile]:
    """Return the file of a model; raises TwdError with words for people."""
    url = f"{client.endpoint}/v2/{spec.name}/manifests/{spec.tag}"
    try:
        manifest, _ = await client.json(url, RegistryManifest, {"Accept": MANIFEST_TYPE})
    except HubError as error:
        if error.status not in (401, 403, 404):
            raise
        raise not_in_registry(spec, await _tags(client, spec)) from None
    return [remote_of(client.endpoint, spec, manifest)]


async def _tags(client: HubClient, spec: OllamaModel) -> list[str]:
    try:
        found, _ = await client.json(f"{client.endpoint}/v2/{spec.name}/tags/list", _Tags)
    except HubError:
        return []
    return found.tags or []


def not_in_registry(spec: OllamaModel, tags: list[str]) -> TwdError:
    """Return the error for a name or tag that a registry does not give."""
    from difflib import get_close_matches

    short = spec.name.removeprefix("library/")
    text = f"{spec.host} has no {short}:{spec.tag}, or does not give it without its own login"
    near = get_close_matches(spec.tag, tags, n=4, cutoff=0.3) or tags[:4]
    if near:
        text += f"; there is: {', '.join(f'{short}:{tag}' for tag in near)}"
    elif spec.host == OLLAMA_REGISTRY:
        page = f"library/{short}" if short != spec.name else short
        text += f"; {LIBRARY}/{page}/tags lists what there is"
    return TwdError(FailureCode.MODEL_NOT_FOUND, text)


def remote_of(endpoint: str, spec: OllamaModel, manifest: RegistryManifest) -> RemoteFile:
    """Return the one GGUF file among a model's blobs."""
    origin = f"{spec.name.removeprefix('library/')}:{spec.tag} at {spec.host}"
    weights = [layer for layer in manifest.layers if layer.media_type == MODEL_TYPE]
    if len(weights) != 1:
        text = f"{origin} has {len(weights) or 'no'} GGUF files; twd takes models with one"
        raise TwdError(FailureCode.UNSUPPORTED, text)
    sha256 = weights[0].digest.removeprefix("sha256:")
    check_sha256(origin, sha256, weights[0].size)
    name = f"{spec.name.rpartition('/')[2]}-{spec.tag}.gguf"
    return RemoteFile(name, weights[0].size, sha256, f"{endpoint}/v2/{spec.name}/blobs/sha256:{sha256}", origin)
