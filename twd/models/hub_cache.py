"""Hugging Face's cache on this machine, as a listing: what can be had without the hub."""

from pathlib import Path
from typing import Final

from twd.models.environment import HubEnvironment
from twd.models.listing import HubEntry, LargeFile, pick_file, pick_quant
from twd.models.remote_file import RemoteFile, check_sha256
from twd.models.spec import HubFile, HubQuant
from twd.wire.failures import FailureCode, TwdError

ENTRIES_MAX: Final = 10_000


def files_in_cache(spec: HubFile | HubQuant, environment: HubEnvironment) -> list[RemoteFile]:
    """Return the files that a SPEC means, as they were when they came into the cache; raises TwdError if none did."""
    folder = environment.cache / f"models--{spec.repo.replace('/', '--')}"
    commit = _commit(folder, spec.revision)
    entries = _entries(folder / "snapshots" / commit) if commit else []
    if not entries:
        text = f"HF_HUB_OFFLINE is set, and {environment.cache} has no {spec.repo} at {spec.revision}; unset it"
        raise TwdError(FailureCode.MODEL_NOT_FOUND, text)
    picked = (
        pick_file(spec.repo, entries, spec.path)
        if isinstance(spec, HubFile)
        else pick_quant(spec.repo, entries, spec.quant)
    )
    return [_remote(spec.repo, commit, entry, environment) for entry in picked]


def _remote(repo: str, commit: str, entry: HubEntry, environment: HubEnvironment) -> RemoteFile:
    origin = f"{repo}/{entry.path}"
    check_sha256(origin, entry.sha256, entry.bytes)
    name = entry.path.rpartition("/")[2]
    return RemoteFile(name, entry.bytes, entry.sha256, environment.endpoint, f"{origin} at {commit[:12]}")


def _commit(folder: Path, revision: str) -> str:
    if (folder / "snapshots" / revision).is_dir():
        return revision
    try:
        return (folder / "refs" / revision).read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _entries(snapshot: Path) -> list[HubEntry]:
    found = []
    for number, path in enumerate(snapshot.rglob("*")):
        if number >= ENTRIES_MAX:
            break
        if path.is_file():
            size, blob = path.stat().st_size, path.resolve().name
            large = LargeFile(blob, size) if len(blob) == 64 else None
            found.append(HubEntry(path.relative_to(snapshot).as_posix(), size, lfs=large))
    return found
