"""SPECs: how people name a model that lies on a hub."""

import re
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Final, NamedTuple
from urllib.parse import unquote, urlsplit

from twd.models.catalogue import CATALOGUE
from twd.wire.failures import FailureCode, TwdError

MAIN: Final = "main"
OLLAMA: Final = "ollama://"
OLLAMA_REGISTRY: Final = "registry.ollama.ai"
HUB_HOSTS: Final = ("huggingface.co", "hf.co", "www.huggingface.co")
FORMS: Final = (
    "a name of `twd pull --list`, org/repo/file.gguf, org/repo:QUANT, ollama://NAME:TAG, or the URL of a file"
)
_PART: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_FILE_PART: Final = re.compile(r"[^/\\\x00-\x1f\x7f]{1,255}")
_REVISION: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,127}")
_OLLAMA_HOST: Final = re.compile(r"[A-Za-z0-9.-]+(:\d{1,5})?|\[[0-9a-fA-F:]+\](:\d{1,5})?")
_SHA256: Final = re.compile(r"[0-9a-fA-F]{64}")


class HubFile(NamedTuple):
    """One file of a repository on Hugging Face; the rest of its shards belongs to it."""

    repo: str
    path: str
    revision: str = MAIN


class HubQuant(NamedTuple):
    """The file of a repository with this quantization; empty: the usual one."""

    repo: str
    quant: str = ""
    revision: str = MAIN


class OllamaModel(NamedTuple):
    """A model of Ollama's registry, or of another one with its protocol."""

    host: str
    name: str
    tag: str


class WebFile(NamedTuple):
    """Any file on a web server; `sha256` is empty where the address does not tell it."""

    url: str
    sha256: str = ""


Spec = HubFile | HubQuant | OllamaModel | WebFile


class BadSpec(TwdError):
    """A SPEC that names nothing; the message says which forms there are."""

    def __init__(self, text: str, why: str) -> None:
        super().__init__(FailureCode.BAD_REQUEST, f"{text[:200]!r} names no model: {why}", "spec")


def parse_spec(text: str, revision: str = "", hub_hosts: Iterable[str] = HUB_HOSTS) -> Spec:
    """Return what a SPEC names; raises BadSpec. `hub_hosts`: hosts whose addresses are those of Hugging Face."""
    spec = _parse(text.strip(), tuple(hub_hosts))
    if not revision:
        return spec
    if not isinstance(spec, HubFile | HubQuant):
        raise BadSpec(text, "only files on Hugging Face have a --revision")
    return spec._replace(revision=_revision(text, revision))


def _parse(text: str, hub_hosts: tuple[str, ...]) -> Spec:
    if text.lower() in CATALOGUE:
        return _in_hub(text, CATALOGUE[text.lower()])
    if text.startswith(OLLAMA):
        return _ollama(text)
    if text.startswith(("http://", "https://")):
        return _address(text, hub_hosts)
    for prefix in ("hf://", "huggingface://", *(f"{host}/" for host in hub_hosts)):
        if text.startswith(prefix):
            return _in_hub(text, text.removeprefix(prefix))
    if "://" in text:
        raise BadSpec(text, f"twd knows no {text.partition('://')[0]}://; give {FORMS}")
    if "/" not in text:
        raise BadSpec(text, f"{_near(text)}give {FORMS}")
    return _in_hub(text, text)


def _near(text: str) -> str:
    begins = [name for name in CATALOGUE if name.startswith(text.lower())] if text else []
    near = begins or get_close_matches(text.lower(), CATALOGUE, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(near[:4])}? Else " if near else ""


def _in_hub(text: str, name: str) -> HubFile | HubQuant:
    parts = name.split("/")
    if len(parts) == 2:
        repo_name, _, quant = parts[1].partition(":")
        if quant and not _PART.fullmatch(quant):
            raise BadSpec(text, "a quantization is written like Q4_K_M")
        return HubQuant(_repo(text, parts[0], repo_name), quant)
    if len(parts) < 2 or not name.lower().endswith(".gguf"):
        raise BadSpec(text, f"give {FORMS}")
    return HubFile(_repo(text, *parts[:2]), _path(text, parts[2:]))


def _repo(text: str, org: str, name: str) -> str:
    if not (_PART.fullmatch(org) and _PART.fullmatch(name)):
        raise BadSpec(text, "a repository is written like org/repo")
    return f"{org}/{name}"


def _path(text: str, parts: list[str]) -> str:
    if not all(_FILE_PART.fullmatch(part) and part not in (".", "..") for part in parts):
        raise BadSpec(text, "its path has empty parts, or parts that lead elsewhere")
    return "/".join(parts)


def _revision(text: str, revision: str) -> str:
    if not _REVISION.fullmatch(revision) or ".." in revision:
        raise BadSpec(text, f"{revision[:80]!r} is no revision; give a branch, a tag or a commit")
    return revision


def _ollama(text: str) -> OllamaModel:
    rest, _, last = text.removeprefix(OLLAMA).rpartition("/")
    name, _, tag = last.partition(":")
    parts = [*(rest.split("/") if rest else []), name]
    host = parts.pop(0) if len(parts) > 2 or (len(parts) > 1 and re.search(r"[.:\[]", parts[0])) else OLLAMA_REGISTRY
    if len(parts) == 1:
        parts.insert(0, "library")
    fine = all(_PART.fullmatch(part) for part in (*parts, tag or "latest")) and _OLLAMA_HOST.fullmatch(host)
    if not fine or len(parts) > 3:
        raise BadSpec(text, "write it like ollama://llama3.2:1b or ollama://user/name:tag")
    return OllamaModel(host, "/".join(parts), tag or "latest")


def _address(text: str, hub_hosts: tuple[str, ...]) -> Spec:
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError as error:
        raise BadSpec(text, str(error)) from None
    if not parts.hostname or parts.username is not None or re.search(r"[\s\x00-\x1f\x7f\\]", text):
        raise BadSpec(text, "it is no plain address of a file; leave out names and passwords")
    if parts.netloc.lower() in hub_hosts or parts.hostname.lower() in hub_hosts:
        return _on_hub(text, unquote(parts.path).strip("/").split("/"))
    sha256 = parts.fragment.removeprefix("sha256=")
    if parts.fragment and not _SHA256.fullmatch(sha256):
        raise BadSpec(text, "behind # only sha256=HEX may stand")
    return WebFile(text.partition("#")[0], sha256.lower())


def _on_hub(text: str, parts: list[str]) -> HubFile | HubQuant:
    """A page or a file of Hugging Face, as it stands in the browser's address bar."""
    if len(parts) in (2, 3, 4) and (len(parts) == 2 or parts[2] == "tree"):
        revision = parts[3] if len(parts) == 4 else MAIN
        return HubQuant(_repo(text, *parts[:2]), "", _revision(text, revision))
    if len(parts) < 5 or parts[2] not in ("resolve", "blob", "raw"):
        raise BadSpec(text, "on this hub an address ends like org/repo/resolve/main/file.gguf")
    return HubFile(_repo(text, *parts[:2]), _path(text, parts[4:]), _revision(text, parts[3]))


def file_name_of(url: str) -> str:
    """Return the file name in an address, without its query."""
    return unquote(urlsplit(url).path).rstrip("/").rpartition("/")[2]
