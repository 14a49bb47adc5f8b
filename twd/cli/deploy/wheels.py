"""What is sent: wheels of twd and all that it needs, made from what is installed here, or those of a folder."""

import csv
import hashlib
import importlib.metadata as metadata
import importlib.util
import io
import os
import platform
import re
import sys
import tarfile
import zipfile
import zlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from functools import cache as cached
from pathlib import Path
from typing import Final

import twd
from twd.cli.deploy.bytecode import pack_bytecode
from twd.cli.deploy.interpreter import libraries_of
from twd.cli.deploy.looking import BundleNeeds
from twd.cli.deploy.unpack import BYTECODE, LIBRARIES, contents, digest
from twd.kit.errors import CommandError
from twd.kit.exit_codes import ExitCode

PART_BYTES: Final = 1 << 18
BUILT_FOR: Final = frozenset({"avx", "avx2", "fma", "f16c", "avx512f", "avx512vl", "avx512_vnni", "asimd", "asimddp"})
"""Features of processors that a build of the engine for this machine may use."""
_LEFT_OUT: Final = (".pyc", "/RECORD", "/INSTALLER", "/REQUESTED", "/direct_url.json")
"""What an installer made."""
_NAME: Final = re.compile(r"\s*([A-Za-z0-9._-]+)\s*(?:\[([^\]]*)\])?")
_EXTRA: Final = re.compile(r"extra\s*==\s*['\"]([^'\"]+)")
_NATIVE_TAG: Final = re.compile(r"cp3(\d+)-cp3\d+-|cp3(\d+)-none-(?!any)")
_MACHINE_TAG: Final = re.compile(r"linux_(?:\d+_\d+_)?(x86_64|aarch64|ppc64le|riscv64)")
_GLIBC_TAG: Final = re.compile(r"manylinux_(\d+)_(\d+)_")


@dataclass(frozen=True)
class WheelBundle:
    """Wheels that make twd run on a machine."""

    files: tuple[Path, ...]
    name: str
    """The name of the version: it changes with any byte of the wheels."""
    needs: BundleNeeds
    with_libraries: bool = False
    """Libraries of the system here that the engine needs go along; a machine that has them keeps its own."""
    bytecode: Path | None = None
    """What is compiled of the wheels here; it does not count for the name."""

    async def stream(self) -> AsyncIterator[bytes]:
        """Yield a tar with all wheels."""
        for part in self.parts():
            yield part

    def parts(self) -> Iterator[bytes]:
        """Yield a tar with all wheels, and then with what is compiled of them, and the libraries."""
        for name, file in self._contents():
            info = tarfile.TarInfo(name)
            info.size = file.stat().st_size
            yield info.tobuf(tarfile.USTAR_FORMAT if len(name) < 100 else tarfile.PAX_FORMAT)
            with file.open("rb") as content:
                while part := content.read(PART_BYTES):
                    yield part
            yield bytes(-info.size % tarfile.BLOCKSIZE)
        yield bytes(2 * tarfile.BLOCKSIZE)

    def _contents(self) -> Iterator[tuple[str, Path]]:
        yield from ((one.name, one) for one in self.files)
        if self.bytecode is not None:
            yield BYTECODE, self.bytecode
        if self.with_libraries:
            yield from _libraries()


def bundle_here(cache: Path) -> WheelBundle:
    """Return wheels of what is installed here, made anew where a file has changed."""
    cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    files = [_wheel_of(metadata.distribution(name), cache) for name in sorted(_needed("twd")) if name != "twd"]
    return _bundle([*files, _own_wheel(cache)], cache)


def bundle_of(folder: Path, cache: Path) -> WheelBundle:
    """Return the wheels of a folder; twd itself is added if it is not there. Raises CommandError where some lack."""
    files = sorted(folder.glob("*.whl")) if folder.is_dir() else []
    if not files:
        raise CommandError(ExitCode.NOT_FOUND, f"there are no wheels in {folder}")
    names = {_normal(file.name.partition("-")[0]) for file in files}
    cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    if "twd" not in names:
        files.append(_own_wheel(cache))
    if missing := sorted(_needed("twd") - names - {"twd"}):
        raise CommandError(ExitCode.NOT_FOUND, f"{folder} has no wheel of {', '.join(missing)}, which twd needs")
    for file in files:
        _check(file)
    return _bundle(files, cache)


def _check(wheel: Path) -> None:
    """Raise CommandError for a wheel whose files are others than its own list says."""
    try:
        for _ in contents(wheel, wheel.name):
            pass
    except (SystemExit, ValueError, OSError, zipfile.BadZipFile, zlib.error) as error:
        text = f"{wheel} cannot be used: {error}. Nothing was sent; fetch or make this package again"
        raise CommandError(ExitCode.CONFIG, text) from None


def _needed(name: str) -> set[str]:
    """Return the names of all that a distribution needs, itself included, as far as it is installed here."""
    wanted: dict[str, set[str]] = {}
    queue = [(name, frozenset[str]())]
    while queue:
        name, extras = queue.pop()
        key = _normal(name)
        if key in wanted and extras <= wanted[key]:
            continue
        try:
            requires = metadata.distribution(name).requires or []
        except metadata.PackageNotFoundError:  # of another system
            continue
        wanted.setdefault(key, set()).update(extras)
        queue += [found for line in requires if (found := _requirement(line, wanted[key]))]
    return set(wanted)


def _requirement(line: str, extras: set[str]) -> tuple[str, frozenset[str]] | None:
    """Return what a line of requirements names, with its extras; None where it is for an extra that nobody wants."""
    found = _NAME.match(line)
    of_extra = _EXTRA.search(line.partition(";")[2])
    if found is None or (of_extra and of_extra[1] not in extras):
        return None
    return found[1], frozenset(part.strip() for part in (found[2] or "").split(",") if part.strip())


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


# -- wheels from what is installed -------------------------------------------------------------------


def _wheel_of(installed: metadata.Distribution, cache: Path) -> Path:
    """Return a wheel of an installed distribution: its files, with a list of their hashes as they are now."""
    about = installed.metadata
    base = str(installed.locate_file(""))
    files = [(arc, os.path.join(base, arc)) for arc in map(str, installed.files or []) if not arc.endswith(_LEFT_OUT)]
    tag = re.search(r"^Tag: (\S+)", installed.read_text("WHEEL") or "", re.MULTILINE)
    stem = f"{about['Name'].replace('-', '_')}-{about['Version']}"
    info = next(name.partition("/")[0] for name, _ in files if ".dist-info/" in name)
    kept = [(name, file) for arc, file in files if (name := _arcname(arc, file, stem))]
    return _packed(cache, f"{stem}-{tag[1] if tag else 'py3-none-any'}.whl", info, kept)


def _arcname(name: str, file: str, stem: str) -> str:
    """Return the place of an installed file in a wheel; empty for what an installer made, or what is not there."""
    if not os.path.isfile(file):
        return ""
    if not name.startswith(".."):
        return name
    is_program = "/bin/" in name and not _starts_with(file, b"#!")
    return f"{stem}.data/scripts/{os.path.basename(file)}" if is_program else ""


def _starts_with(file: str, start: bytes) -> bool:
    with Path(file).open("rb") as opened:
        return opened.read(len(start)) == start


def _own_wheel(cache: Path) -> Path:
    """Return a wheel of the twd that runs now, from a checkout or an installation."""
    package = Path(twd.__file__).parent
    files = [
        (f"twd/{one.relative_to(package).as_posix()}", str(one))
        for one in sorted(package.rglob("*"))
        if _is_source(one)
    ]
    installed = metadata.distribution("twd")
    about = {
        "METADATA": installed.read_text("METADATA")
        or f"Metadata-Version: 2.1\nName: twd\nVersion: {twd.__version__}\n",
        "WHEEL": "Wheel-Version: 1.0\nGenerator: twd\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "entry_points.txt": installed.read_text("entry_points.txt") or "",
    }
    stem = f"twd-{twd.__version__}"
    return _packed(cache, f"{stem}-py3-none-any.whl", f"{stem}.dist-info", files, about)


def _is_source(file: Path) -> bool:
    return file.is_file() and "__pycache__" not in file.parts


def _packed(
    cache: Path, name: str, info: str, files: list[tuple[str, str]], about: dict[str, str] | None = None
) -> Path:
    """Write a wheel below the cache, in a folder named after what is in it; one that is there is taken as it is."""
    stamp = hashlib.sha256()
    for arc, file in sorted(files):
        stat = os.stat(file)
        stamp.update(f"{arc}:{stat.st_size}:{stat.st_mtime_ns}\n".encode())
    stamp.update(repr(about).encode())
    target = cache / stamp.hexdigest()[:16] / name
    if not target.exists():
        target.parent.mkdir(exist_ok=True)
        draft = target.with_suffix(f".{id(files)}")
        _write_wheel(draft, info, files, about or {})
        target.with_name(f"{name}.sha256").write_text(_hash(draft))
        draft.replace(target)
    return target


def _write_wheel(target: Path, info: str, files: list[tuple[str, str]], about: dict[str, str]) -> None:
    """Write a wheel; equal files make equal bytes."""
    rows: list[tuple[str, str, str]] = []
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:

        def put(name: str, data: bytes) -> None:
            archive.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED, 1)
            rows.append((name, digest(data), str(len(data))))

        for arc, file in sorted(files):
            put(arc, Path(file).read_bytes())
        for name, text in sorted(about.items()):
            put(f"{info}/{name}", text.encode())
        listed = io.StringIO()
        csv.writer(listed, lineterminator="\n").writerows([*rows, (f"{info}/RECORD", "", "")])
        archive.writestr(zipfile.ZipInfo(f"{info}/RECORD"), listed.getvalue())


# -- what they need ----------------------------------------------------------------------------------


def _bundle(files: list[Path], cache: Path) -> WheelBundle:
    stamp = hashlib.sha256()
    for file in sorted(files, key=lambda one: one.name):
        stamp.update(f"{file.name}:{_sum(file)}\n".encode())
    version = next(file.name.split("-")[1] for file in files if file.name.startswith("twd-"))
    size = sum(file.stat().st_size for file in files)
    needs = needs_of([file.name for file in files], size)
    here = (platform.system(), platform.machine()) == (needs.system, needs.machine)
    name = f"{version}-{stamp.hexdigest()[:12]}"
    return WheelBundle(tuple(files), name, needs, here, _bytecode(name, needs, cache))


def _bytecode(name: str, needs: BundleNeeds, cache: Path) -> Path | None:
    """Return what is compiled here, packed once for each bundle; None where another Python is needed."""
    if needs.python != sys.version_info[:2]:
        return None
    target = cache / f"bytecode-{name}.zip"
    if not target.exists():
        pack_bytecode(_sources(), target)
    return target


def _sources() -> Iterator[tuple[str, Path]]:
    """Yield the sources of twd and of all that it needs, as they are installed here, by their places."""
    package = Path(twd.__file__).parent
    yield from ((f"twd/{one.relative_to(package).as_posix()}", one) for one in sorted(package.rglob("*.py")))
    for name in sorted(_needed("twd") - {"twd"}):
        installed = metadata.distribution(name)
        base = str(installed.locate_file(""))
        names = (str(one) for one in installed.files or [])
        yield from ((one, Path(base, one)) for one in names if one.endswith(".py") and not one.startswith(".."))


@cached
def _libraries() -> tuple[tuple[str, Path], ...]:
    """Return the libraries that the engine here needs of its system."""
    spec = importlib.util.find_spec("llama_cpp")
    if spec is None or spec.origin is None:
        return ()
    engine = sorted((Path(spec.origin).parent / "lib").glob("*.so*"))
    return tuple((f"{LIBRARIES}{name}", place) for name, place in sorted(libraries_of(engine).items()))


def _sum(file: Path) -> str:
    """Return the hash of a file; that of a wheel that was made here is known."""
    known = file.with_name(f"{file.name}.sha256")
    return known.read_text() if known.exists() else _hash(file)


def _hash(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def needs_of(names: list[str], size: int) -> BundleNeeds:
    """Return what these wheels need, by their names; what was built here may need all that this machine has."""
    minors = [int(found[1] or found[2]) for name in names if (found := _NATIVE_TAG.search(name))]
    built_here = any("-linux_" in name for name in names)
    machines = {found[1] for name in names if (found := _MACHINE_TAG.search(name))}
    return BundleNeeds(
        system=platform.system(),
        machine=machines.pop() if len(machines) == 1 else platform.machine(),
        python=(3, max(minors, default=sys.version_info[1])),
        glibc=max(_glibcs(names, built_here), default=(0, 0)),
        flags=_flags_here() & BUILT_FOR if built_here else frozenset(),
        size=size,
    )


def _glibcs(names: list[str], built_here: bool) -> Iterator[tuple[int, int]]:
    for name in names:
        oldest = [(int(major), int(minor)) for major, minor in _GLIBC_TAG.findall(name)]
        if oldest:
            yield min(oldest)
    here = re.fullmatch(r"(\d+)\.(\d+)", platform.libc_ver()[1])
    if built_here and here:
        yield int(here[1]), int(here[2])


def _flags_here() -> frozenset[str]:
    try:
        text = Path("/proc/cpuinfo").read_text("utf-8", "replace")
    except OSError:
        return frozenset()
    found = re.search(r"^(?:flags|Features)\s*:(.*)", text, re.MULTILINE)
    return frozenset(found[1].split()) if found else frozenset()
