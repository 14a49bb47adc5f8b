"""The packages: two builds are the same bytes, what is in them works without a network, and the bill lists it all."""

import hashlib
import json
import os
import re
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from tests.rules.source import ROOT

pytestmark = pytest.mark.slow
BUILD_S = 120


def build(folder: Path, umask: int) -> dict[str, str]:
    """Build both packages; returns their checksums."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-t", "sdist", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=BUILD_S, umask=umask)
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir()}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packages")
    build(folder, 0o022)
    return folder


def wheel_of(folder: Path) -> Path:
    return next(folder.glob("twd-*.whl"))


@pytest.mark.thorough
def test_two_builds_are_the_same_bytes(built: Path, tmp_path: Path) -> None:
    again = build(tmp_path, 0o077)
    assert again == {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in built.iterdir()}
    assert len(again) == 2


def test_the_wheel_has_our_kernels_and_what_builds_them(built: Path) -> None:
    names = set(zipfile.ZipFile(wheel_of(built)).namelist())
    assert "twd/setup/engine/kernels/kernels.cmake" in names
    assert "twd/setup/engine/build.txt" in names
    assert "twd/edge/static/chat.html" in names
    assert not [name for name in names if name.startswith(("tests/", "contrib/", "docs/"))]


def test_the_source_package_can_build_everything(built: Path) -> None:
    listed = subprocess.run(
        ["tar", "tzf", str(next(built.glob("twd-*.tar.gz")))], capture_output=True, text=True, check=True
    ).stdout
    names = {line.partition("/")[2] for line in listed.splitlines()}
    assert {"contrib/llama/kernels.cmake", "contrib/set_up.py", "requirements/build.txt", "Makefile"} <= names


@pytest.mark.thorough
def test_a_clean_environment_without_network_gives_a_working_program(built: Path, tmp_path: Path) -> None:
    environment = tmp_path / "venv"
    venv.create(environment, with_pip=False, symlinks=True)
    site = next((environment / "lib").glob("python*/site-packages"))
    install = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--no-index", "--no-deps", "-q"]
    subprocess.run([*install, "--target", str(site), str(wheel_of(built))], check=True, timeout=BUILD_S)
    # what twd stands on comes from the environment of the tests; a name of its own stays that of the wheel
    (site / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    env = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "TWD_HOME": str(tmp_path / "state")}
    python = environment / "bin" / "python"

    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [str(python), "-P", *arguments], env=env, cwd=tmp_path, capture_output=True, text=True, timeout=60
        )

    where = run("-c", "import twd, twd.setup.engine.recipe as r; print(twd.__file__, r.kernel_sources())")
    assert where.stdout.split() == [str(site / "twd/__init__.py"), str(site / "twd/setup/engine/kernels")]
    assert run("-m", "twd", "--version").stdout.startswith("twd, version ")
    shown = run("-m", "twd", "config", "check")
    assert shown.returncode == 0, shown.stderr


def test_the_bill_of_materials_lists_every_locked_package() -> None:
    command = [sys.executable, str(ROOT / "contrib/packages/bill_of_materials.py")]
    texts = [subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(2)]
    assert texts[0] == texts[1]
    bill = json.loads(texts[0])
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.5")
    locked = re.findall(r"^([\w.-]+)==", (ROOT / "requirements/base.txt").read_text(), re.MULTILINE)
    listed = {part["name"]: part for part in bill["components"]}
    assert {name.lower() for name in locked} <= set(listed)
    assert all(part["hashes"] and part["purl"].endswith(f"@{part['version']}") for part in listed.values())
    refs = [part["bom-ref"] for part in bill["components"]]
    assert len(refs) == len(set(refs))
    assert os.environ.get("HOME", "/nowhere") not in texts[0]
