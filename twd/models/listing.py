"""Chooses files of a repository: by path, by quantization, with all shards. Plain functions over its listing."""

import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Final

import msgspec

from twd.wire.failures import FailureCode, TwdError

USUAL: Final = ("Q4_K_M", "Q8_0")
"""The quantization that is meant where none is named: the first of these that the repository has."""
_SHARD: Final = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf\Z", re.IGNORECASE)
_ASIDE: Final = re.compile(r"mmproj|imatrix", re.IGNORECASE)
SHOWN_MAX: Final = 12


class LargeFile(msgspec.Struct, frozen=True):
    """What the hub tells of a file in its large file storage; `oid` is its SHA-256."""

    oid: str = ""
    size: int = 0


class HubEntry(msgspec.Struct, frozen=True):
    """One line of a repository's listing."""

    path: str
    size: int = 0
    type: str = "file"
    lfs: LargeFile | None = None

    @property
    def sha256(self) -> str:
        """The SHA-256 of the file, or empty where the hub does not know it."""
        return self.lfs.oid.removeprefix("sha256:") if self.lfs is not None else ""

    @property
    def bytes(self) -> int:
        """The size of the file itself, not that of a pointer to it."""
        return self.lfs.size if self.lfs is not None and self.lfs.size else self.size


Model = tuple[HubEntry, ...]
"""The files of one model in order: one, or all its shards."""


def models_in(entries: Iterable[HubEntry]) -> dict[str, Model]:
    """Return the models of a repository by the path of their first file, without projectors and the like."""
    found: dict[str, list[HubEntry]] = {}
    for entry in sorted(entries, key=lambda one: one.path):
        if entry.type == "file" and entry.path.lower().endswith(".gguf") and not _ASIDE.search(entry.path):
            match = _SHARD.match(entry.path)
            found.setdefault(match["stem"] + "-" + match["count"] if match else entry.path, []).append(entry)
    return {files[0].path: tuple(files) for files in found.values()}


def pick_file(repo: str, entries: Sequence[HubEntry], path: str) -> Model:
    """Return a file with all its shards; raises TwdError with near names if it is not there, or not whole."""
    by_path = {entry.path: entry for entry in entries if entry.type == "file"}
    if path not in by_path:
        raise not_there(repo, path, by_path)
    match = _SHARD.match(path)
    if match is None:
        return (by_path[path],)
    names = [f"{match['stem']}-{number:05d}-of-{match['count']}.gguf" for number in range(1, int(match["count"]) + 1)]
    missing = [name for name in names if name not in by_path]
    if missing:
        text = f"{repo} lacks parts of {path}: {', '.join(missing[:4])}; take another quantization"
        raise TwdError(FailureCode.MODEL_NOT_FOUND, text)
    return tuple(by_path[name] for name in names)


def not_there(repo: str, path: str, known: Iterable[str]) -> TwdError:
    """Return the error for a file that a repository does not have."""
    listed = [one for one in known if one.lower().endswith(".gguf")]
    same = [one for one in listed if one.lower() == path.lower() or one.lower().endswith("/" + path.lower())]
    near = same or get_close_matches(path, listed, n=3, cutoff=0.4) or listed
    there = f"there is: {', '.join(near[:SHOWN_MAX])}" if near else "it has no GGUF file at all"
    return TwdError(FailureCode.MODEL_NOT_FOUND, f"{repo} has no file {path}; {there}")


def pick_quant(repo: str, entries: Sequence[HubEntry], quant: str) -> Model:
    """Return the model with a quantization, in any case of letters; raises TwdError with those that are there."""
    models = models_in(entries)
    if not models:
        text = f"{repo} has no GGUF file; look for a repository whose name ends in -GGUF"
        raise TwdError(FailureCode.MODEL_NOT_FOUND, text)
    if not quant and len(models) == 1:
        return pick_file(repo, entries, next(iter(models)))
    for wanted in (quant,) if quant else USUAL:
        found = _with_quant(models, wanted)
        if len(found) == 1:
            return pick_file(repo, entries, found[0])
        if found:
            raise TwdError(FailureCode.BAD_REQUEST, f"several files of {repo} are {wanted}: {_listed(repo, found)}")
    what = f"nothing in {quant}" if quant else "none of the usual quantizations"
    text = f"{repo} has {what}; there is: {_listed(repo, models)}"
    raise TwdError(FailureCode.MODEL_NOT_FOUND, text)


def _with_quant(models: dict[str, Model], quant: str) -> list[str]:
    """Return the paths with a quantization: as a word of its own, else in front of other variants of it."""
    word = re.escape(quant)
    for pattern in (rf"(?:^|[./_-])(?<!UD-){word}(?=[./-]|\Z)", rf"(?:^|[./_-]){word}(?=[./-]|\Z)", rf"{word}\Z"):
        found = [path for path in models if re.search(pattern, _stem(path), re.IGNORECASE)]
        if found:
            return found
    return []


def _stem(path: str) -> str:
    match = _SHARD.match(path)
    return match["stem"] if match else path[: -len(".gguf")]


def _listed(repo: str, paths: Iterable[str]) -> str:
    named = [f"{repo}/{path}" for path in paths]
    more = f" and {len(named) - SHOWN_MAX} more" if len(named) > SHOWN_MAX else ""
    return ", ".join(named[:SHOWN_MAX]) + more
