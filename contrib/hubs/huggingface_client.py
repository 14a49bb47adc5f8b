"""What `huggingface_hub` does at a hub; runs in an environment of its own. Prints one JSON object.

HF_ENDPOINT names the hub; arguments: a repository, a file in it, a pattern of files, a gated repository.
"""

import hashlib
import json
import sys
import tempfile
from pathlib import Path

import huggingface_hub
from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError


def sha256(path: Path) -> str:
    """The SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def refused(kind: type[Exception], repo: str, file: str, revision: str = "main") -> bool:
    """Whether a download ends with this error."""
    try:
        hf_hub_download(repo, file, revision=revision)
    except kind:
        return True
    return False


def main(repo: str, file: str, pattern: str, gated: str) -> None:
    """Everything that twd asks of a hub, asked by the hub's own client."""
    cache = Path(tempfile.mkdtemp())
    one = Path(hf_hub_download(repo, file, cache_dir=cache))
    some = Path(snapshot_download(repo, allow_patterns=pattern, cache_dir=cache))
    tree = {
        entry.path: entry.lfs.sha256
        for entry in HfApi().list_repo_tree(repo, recursive=True)
        if getattr(entry, "lfs", None)
    }
    told = {
        "version": huggingface_hub.__version__,
        "commit": HfApi().model_info(repo).sha,
        "downloaded": sha256(one),
        "blob": one.resolve().name,
        "snapshot": {str(path.relative_to(some)): sha256(path) for path in sorted(some.rglob("*.gguf"))},
        "tree": tree,
        "refused": [
            refused(EntryNotFoundError, repo, "none.gguf"),
            refused(RepositoryNotFoundError, repo + "-none", file),
            refused(RevisionNotFoundError, repo, file, "v9"),
            refused(GatedRepoError, gated, file),
        ],
    }
    print(json.dumps(told))


main(*sys.argv[1:])
