"""Packages of this twd, and of the same under another number."""

import csv
import io
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import twd
from twd.cli.deploy import unpack
from twd.cli.deploy.wheels import WheelBundle, bundle_here, bundle_of
from twd.setup.versions.folder import VersionsFolder


def packages_here(folder: Path) -> Path:
    """Wheels of all that is installed here, in one folder."""
    target = folder / twd.__version__
    target.mkdir(parents=True)
    for wheel in bundle_here(folder / "cache").files:
        shutil.copy(wheel, target)
    return target


def renumbered(packages: Path, version: str, more: dict[str, str] | None = None) -> Path:
    """The same packages with another version of twd; `more` is added to the ends of some of its files."""
    target = packages.with_name(version)
    target.mkdir()
    for wheel in packages.glob("*.whl"):
        if wheel.name.startswith("twd-"):
            _renumber(wheel, target / f"twd-{version}-py3-none-any.whl", version, more or {})
        else:
            (target / wheel.name).hardlink_to(wheel)
    return target


def _renumber(wheel: Path, target: Path, version: str, more: dict[str, str]) -> None:
    old = twd.__version__
    rows: list[tuple[str, str, str]] = []
    with zipfile.ZipFile(wheel) as source, zipfile.ZipFile(target, "w") as made:
        for name in source.namelist():
            data = source.read(name) + more.get(name, "").encode()
            if name in ("twd/__init__.py", f"twd-{old}.dist-info/METADATA"):
                data = data.replace(old.encode(), version.encode())
            name = name.replace(f"twd-{old}.dist-info", f"twd-{version}.dist-info")
            if not name.endswith("/RECORD"):
                made.writestr(name, data)
                rows.append((name, unpack.digest(data), str(len(data))))
        listed = io.StringIO()
        record = f"twd-{version}.dist-info/RECORD"
        csv.writer(listed, lineterminator="\n").writerows([*rows, (record, "", "")])
        made.writestr(record, listed.getvalue())


def installed_from(packages: Path, prefix: Path) -> VersionsFolder:
    """An installation whose only version is made of these packages."""
    bundle: WheelBundle = bundle_of(packages, packages)
    prefix.mkdir(parents=True)
    command = [sys.executable, unpack.__file__, str(prefix), bundle.name]
    subprocess.run(command, input=b"".join(bundle.parts()), check=True)
    folder = VersionsFolder(prefix)
    folder.take(bundle.name)
    return folder
