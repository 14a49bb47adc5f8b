"""Follows a Dockerfile without a container engine: each step is a layer of an overlay, cached by what went into it.

A Debian made by debootstrap stands in for the base image. It needs root and Linux.
"""

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from dockerfile import Stage, Step, filled_in, read_stages

ROOT: Final = Path(__file__).resolve().parents[3]
CACHE: Final = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "twd-image"
SUITE: Final = "bookworm"
PACKAGES: Final = "python3,python3-venv,ca-certificates"
TOOLS: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
BASE_ENV: Final = {"PATH": TOOLS, "LANG": "C.UTF-8"}
CERTIFICATES: Final = "/etc/ssl/certs/ca-certificates.crt"
APART: Final = ("setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--fork", "--kill-child")
"""Nothing that is started so outlives this process, and no mount is left."""
OVERLAY: Final = """
set -e
mount --make-rprivate /
mount -t overlay overlay -o "lowerdir=$1,upperdir=$2/upper,workdir=$2/work" "$2/root"
"""
RUN: Final = f"""{OVERLAY}
mount -t proc proc "$2/root/proc"
mount --rbind /dev "$2/root/dev"
mount --bind /etc/resolv.conf "$2/root/etc/resolv.conf"
mount --bind /etc/ssl/certs "$2/root/etc/ssl/certs"
mkdir -p "$2/root$3"
exec chroot "$2/root" /bin/sh -c 'cd "$1" && exec /bin/sh -c "$2"' run "$3" "$4"
"""
TAKE: Final = f'{OVERLAY}\n[ ! -d "$2/root$3" ] || set -- "$1" "$2" "$3/." "$4"\ncp -a "$2/root$3" "$4"\n'


@dataclass(frozen=True, slots=True)
class Image:
    """The layers, the lowest first, and what a container begins with."""

    layers: tuple[str, ...]
    env: dict[str, str] = field(default_factory=lambda: dict(BASE_ENV))
    arguments: dict[str, str] = field(default_factory=dict)
    folder: str = "/"
    user: str = "0:0"
    entrypoint: tuple[str, ...] = ()

    @property
    def lowerdir(self) -> str:
        """The layers as the overlay wants them, seen from the cache."""
        return ":".join(reversed(self.layers))

    @property
    def values(self) -> dict[str, str]:
        """What a step may name: a variable hides an argument."""
        return self.arguments | self.env


def base_image() -> Image:
    """Return the stand-in for `python:X-slim`: a Debian whose `python` is Debian's own."""
    return _layer(Image(()), f"base-{SUITE}", lambda draft: _bootstrap(draft / "upper"))


def _bootstrap(root: Path) -> None:
    command = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", SUITE, str(root)]
    subprocess.run(command, check=True, env={**os.environ, "PATH": f"{os.environ['PATH']}:{TOOLS}"})
    for link in ("python", "python3"):
        (root / "usr/local/bin" / link).symlink_to("/usr/bin/python3")


def build(dockerfile: Path) -> Image:
    """Return the image of the last stage; stages that it does not need are left out."""
    given, stages = read_stages(dockerfile.read_text())
    made: dict[str, Image] = {}
    for stage in _needed(stages):
        base = filled_in(stage.base, given)
        image = replace(made.get(base) or base_image(), arguments={})
        for step in stage.steps:
            print(f"{stage.name or 'last'}: {step.word} {step.text[:90]}", flush=True)
            image = _after(image, step, given, made)
        made[stage.name] = image
    return made[stages[-1].name]


def _needed(stages: list[Stage]) -> list[Stage]:
    wanted = {stages[-1].name}
    for stage in reversed(stages):
        if stage.name in wanted:
            wanted |= {stage.base, *(step.flags.get("from", "") for step in stage.steps)}
    return [stage for stage in stages if stage.name in wanted]


def _after(image: Image, step: Step, given: dict[str, str], made: dict[str, Image]) -> Image:
    """Return the image after one more step."""
    match step.word:
        case "RUN":
            return _run(image, step.text)
        case "COPY":
            return _copied(image, step, made)
        case "ARG":
            words = step.pairs or {step.text: given.get(step.text, "")}
            return replace(image, arguments=image.arguments | words)
        case "ENV":
            return replace(image, env=image.env | {k: filled_in(v, image.values) for k, v in step.pairs.items()})
        case "WORKDIR":
            return replace(image, folder=step.text)
        case "USER":
            return replace(image, user=step.text)
        case "ENTRYPOINT":
            return replace(image, entrypoint=tuple(step.command))
        case _:
            return image


def _copied(image: Image, step: Step, made: dict[str, Image]) -> Image:
    """Return the image with a layer of the files that a step copies; like Docker, a folder's content is copied."""
    *sources, target = filled_in(step.text, image.values).split()
    path = os.path.join(image.folder, target)
    if other := step.flags.get("from"):
        name = _digest(image, repr((made[other].lowerdir, sources, path)).encode())
        return _layer(image, name, lambda draft: _take_from(made[other], sources, _under(draft / "upper", path)))
    with _draft() as draft:
        for source in sources:
            place = _under(draft / "upper", path)
            if len(sources) > 1 or target.endswith("/"):
                place = place / Path(source).name
            _take(ROOT / source, place, step.flags.get("chmod"))
        name = _digest(image, b"".join(_contents(draft / "upper")))
        return _kept(image, draft, name)


def _take_from(image: Image, sources: list[str], place: Path) -> None:
    place.mkdir(parents=True)
    with _draft() as draft:
        for source in sources:
            _run_in(draft, image, TAKE, (source, str(place)))


def _under(root: Path, path: str) -> Path:
    return root / os.path.normpath(path).lstrip("/")


def _take(source: Path, target: Path, mode: str | None) -> None:
    """Copy one source of the checkout, without what `.dockerignore` leaves out."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy(source, target)
        target.chmod(int(mode, 8) if mode else source.stat().st_mode)


def _contents(folder: Path) -> Iterator[bytes]:
    for file in sorted(folder.rglob("*")):
        yield f"{file.relative_to(folder)} {file.lstat().st_mode}\n".encode()
        if file.is_file() and not file.is_symlink():
            yield hashlib.sha256(file.read_bytes()).digest()


def _digest(image: Image, facts: bytes) -> str:
    return hashlib.sha256(image.lowerdir.encode() + facts).hexdigest()[:16]


def _run(image: Image, command: str) -> Image:
    """Return the image with the layer that a command makes."""
    name = _digest(image, repr((RUN, command, image.folder, sorted(image.values.items()))).encode())
    return _layer(image, name, lambda draft: _run_in(draft, image, RUN, (image.folder, command)))


def _layer(image: Image, name: str, make: Callable[[Path], None]) -> Image:
    """Return the image with the layer of this name, which is made once."""
    if (CACHE / name).is_dir():
        return replace(image, layers=(*image.layers, name))
    with _draft() as draft:
        make(draft)
        return _kept(image, draft, name)


def _kept(image: Image, draft: Path, name: str) -> Image:
    """Return the image with what was drafted as its next layer."""
    if not (CACHE / name).is_dir():
        (draft / "upper").rename(CACHE / name)
    return replace(image, layers=(*image.layers, name))


@contextmanager
def _draft() -> Iterator[Path]:
    """A folder in the cache for one overlay."""
    CACHE.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix="draft.", dir=CACHE))
    try:
        for part in ("upper", "work", "root"):
            (draft / part).mkdir()
        yield draft
    finally:
        shutil.rmtree(draft)


def _run_in(draft: Path, image: Image, script: str, words: tuple[str, ...]) -> None:
    network = dict.fromkeys(("SSL_CERT_FILE", "PIP_CERT"), CERTIFICATES)
    command = [*APART, "/bin/sh", "-c", script, "layer", image.lowerdir, str(draft), *words]
    subprocess.run(command, check=True, cwd=CACHE, env={**network, "HOME": "/root", **image.values})
