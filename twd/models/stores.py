"""Where models may lie on this machine already: our folders, and those of other programs."""

import contextlib
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from twd.models.environment import read_hub_environment
from twd.pieces.making import known_manifest
from twd.wire.failures import TwdError

DEPTH_MAX: Final = 5
ENTRIES_MAX: Final = 20_000
HUB_CACHE: Final = "Hugging Face's cache"
OLLAMA_STORE: Final = "Ollama's store"
OLLAMA_SERVICE: Final = Path("/usr/share/ollama/.ollama/models")
"""Where Ollama keeps models when it runs as a service of Linux."""


class ModelStore(NamedTuple):
    """A folder with models. `by_hash`: its files are named by their SHA-256, in one of the forms of `_named`."""

    name: str
    folder: Path
    by_hash: bool = False


class StoredModel(NamedTuple):
    """A file of a store. `known`: it is named by its hash, or its manifest tells it; else only its size is the same."""

    store: str
    path: Path
    known: bool = True


def stores_here(variables: Mapping[str, str], home: Path, own: Iterable[Path] = ()) -> list[ModelStore]:
    """Return the folders with models, those of `own` first; each once."""
    named = [*(ModelStore("here", folder) for folder in own), *_of_others(variables, home)]
    found: dict[Path, ModelStore] = {}
    for store in named:
        if os.path.isdir(store.folder):
            found.setdefault(store.folder.resolve(), store)
    return list(found.values())


def _of_others(variables: Mapping[str, str], home: Path) -> Iterator[ModelStore]:
    with contextlib.suppress(TwdError):  # a variable that makes no sense
        yield ModelStore(HUB_CACHE, read_hub_environment(variables, home).cache, by_hash=True)
    for folder in (variables.get("OLLAMA_MODELS", ""), home / ".ollama/models", OLLAMA_SERVICE):
        if folder:
            yield ModelStore(OLLAMA_STORE, Path(folder) / "blobs", by_hash=True)
    caches = (
        home / "Library/Caches"
        if sys.platform == "darwin"
        else Path(variables.get("XDG_CACHE_HOME") or home / ".cache")
    )
    yield ModelStore("llama.cpp's cache", Path(variables.get("LLAMA_CACHE") or caches / "llama.cpp"))
    for folder in (_lm_studio(home), home / ".lmstudio", home / ".cache/lm-studio"):
        yield ModelStore("LM Studio", folder / "models")


def _lm_studio(home: Path) -> Path:
    """Return the folder that LM Studio's pointer file names, or its usual one."""
    try:
        return Path((home / ".lmstudio-home-pointer").read_text().strip() or home / ".lmstudio")
    except (OSError, UnicodeDecodeError):
        return home / ".lmstudio"


def whole_copies(stores: Sequence[ModelStore], sha256: str, size: int) -> list[StoredModel]:
    """Return files that should be the one with this SHA-256: those known by it first, then those of its size.

    Nobody has read them yet: a copy is checked like bytes from elsewhere.
    """
    sure = [StoredModel(store.name, path) for store in stores if store.by_hash for path in _named(store.folder, sha256)]
    alike: list[StoredModel] = []
    for store in stores:
        for path in [] if store.by_hash else gguf_files(store.folder):
            if _size_of(path) == size:
                manifest = known_manifest(path)
                known = manifest.sha256 if manifest is not None else ""
                if known in ("", sha256):
                    (sure if known else alike).append(StoredModel(store.name, path, bool(known)))
    return [one for one in (*sure, *alike) if _size_of(one.path) == size]


def _named(folder: Path, sha256: str) -> Iterator[Path]:
    """Yield the files with this SHA-256 in a store that names its files so: as Ollama does, or Hugging Face."""
    yield folder / f"sha256-{sha256}"
    yield from folder.glob(f"models--*/blobs/{sha256}")


def all_models(stores: Sequence[ModelStore]) -> Iterator[StoredModel]:
    """Yield every file of all stores that may be a model."""
    for store in stores:
        paths = _blobs(store.folder) if store.by_hash else gguf_files(store.folder)
        yield from (StoredModel(store.name, path) for path in paths)


def _blobs(folder: Path) -> Iterator[Path]:
    for path in (*folder.glob("sha256-*"), *folder.glob("models--*/blobs/*")):
        if _begins_as_model(path):
            yield path


def _begins_as_model(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(4) == b"GGUF"
    except OSError:
        return False


def gguf_files(folder: Path) -> Iterator[Path]:
    """Yield the GGUF files of a folder and those below it, within bounds."""
    seen = 0
    for here, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if len(Path(here).relative_to(folder).parts) >= DEPTH_MAX:
            folders.clear()
        seen += len(files)
        if seen > ENTRIES_MAX:
            return
        yield from (Path(here) / name for name in sorted(files) if name.lower().endswith(".gguf"))


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size if path.is_file() else -1
    except OSError:
        return -1
