"""Any file on a web server, whose SHA-256 its address or the server tells."""

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

from twd.models.client import HubClient
from twd.models.remote_file import MAGIC, RemoteFile, check_sha256
from twd.models.spec import BadSpec, WebFile, file_name_of
from twd.pieces.names import check_name

_DIGEST: Final = re.compile(r"sha-256=:?(?P<value>[A-Za-z0-9+/]{43}=):?", re.IGNORECASE)


def endpoint_of_url(url: str) -> str:
    """Return the server of an address."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


async def web_files(client: HubClient, spec: WebFile) -> list[RemoteFile]:
    """Return a file with its size; raises TwdError if its bytes could not be checked."""
    name = file_name_of(spec.url)
    if not name.lower().endswith(".gguf"):
        raise BadSpec(spec.url, "the address of a file ends in .gguf")
    check_name(name)

    async def ask() -> tuple[int, str]:
        async with client.range(spec.url, 0, len(MAGIC)) as (found, response):
            return found.total, told_sha256(response.headers)

    size, told = await client.patiently(ask)
    sha256 = spec.sha256 or told
    origin = spec.url.split("?")[0]
    check_sha256(origin, sha256, size)
    return [RemoteFile(name, size, sha256, spec.url, origin)]


def told_sha256(headers: Mapping[str, str]) -> str:
    """Return the SHA-256 of the whole file that a server's headers tell, in hex, or ""."""
    linked = headers.get("X-Linked-Etag", "").strip('"').lower()
    if re.fullmatch("[0-9a-f]{64}", linked):
        return linked
    match = _DIGEST.search(headers.get("Repr-Digest", "") or headers.get("Digest", ""))
    try:
        return base64.b64decode(match["value"], validate=True).hex() if match else ""
    except binascii.Error:
        return ""
