"""The header of a model on a hub: read by Ranges into a file with a hole where the weights would be."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from twd.gguf_tools.header import begins_whole
from twd.models.client import HubClient
from twd.models.remote_file import HubSource, RemoteFile, check_magic
from twd.wire.failures import FailureCode, TwdError

FIRST_BYTES: Final = 1 << 20
HEADER_BYTES_MAX: Final = 1 << 28


async def fetch_headers(client: HubClient, files: Sequence[RemoteFile], folder: Path) -> tuple[Path, int]:
    """Write the headers that are not in `folder` yet; returns the first file's path, and how many bytes came.

    The files have their true sizes, but take room for the headers alone: who reads headers finds whole models.
    """
    missing = [file for file in files if not (folder / file.name).exists()]
    fetched = [await _fetch_header(HubSource(client, file), folder / file.name) for file in missing]
    return folder / files[0].name, sum(fetched)


async def _fetch_header(source: HubSource, target: Path) -> int:
    have, wanted = 0, FIRST_BYTES
    while True:
        wanted = min(wanted, source.file.size)
        with target.open("ab") as file:
            file.write(await source.some(have, wanted - have))
        if not have:
            with target.open("rb") as file:
                check_magic(source.file, file.read(4))
        have = wanted
        if begins_whole(target):
            os.truncate(target, source.file.size)
            return have
        if have >= min(source.file.size, HEADER_BYTES_MAX):
            raise TwdError(FailureCode.MODEL_LOAD, f"{source.file.origin} has no whole header; it is broken there")
        wanted = 4 * have
