"""Wheels from what is installed here: the same bytes each time, whole, and refused when they are not."""

import asyncio
import hashlib
import io
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from twd.cli.deploy import unpack, wheels
from twd.cli.deploy.wheels import WheelBundle, _own_wheel, bundle_of, needs_of
from twd.kit.errors import CommandError
from twd.setup.versions.folder import VersionsFolder


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _own_wheel(tmp_path_factory.mktemp("cache"))


def bundle(*files: Path) -> WheelBundle:
    return WheelBundle(files, "1-test", needs_of([file.name for file in files], 1))


def tar_of(given: WheelBundle) -> bytes:
    async def all_of_it() -> bytes:
        return b"".join([part async for part in given.stream()])

    return asyncio.run(all_of_it())


def unpacked(folder: Path, data: bytes) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-I", unpack.__file__, str(folder), "1-test"]
    return subprocess.run(command, input=data, capture_output=True, check=False)


def test_two_wheels_of_the_same_files_are_the_same_bytes(own: Path, tmp_path: Path) -> None:
    again = _own_wheel(tmp_path)
    assert hashlib.sha256(again.read_bytes()).digest() == hashlib.sha256(own.read_bytes()).digest()
    with zipfile.ZipFile(own) as archive:
        names = archive.namelist()
    assert "twd/cli/deploy/unpack.py" in names
    assert not [name for name in names if "__pycache__" in name]


def test_a_version_is_a_folder_with_an_environment_of_its_own(own: Path, tmp_path: Path) -> None:
    done = unpacked(tmp_path, tar_of(bundle(own)))
    assert done.returncode == 0, done.stderr
    version = tmp_path / "versions" / "1-test"
    ask = [str(version / "bin" / "python3"), "-P", "-c", "import sys, twd; print(sys.prefix); print(twd.__file__)"]
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    prefix, place = subprocess.run(ask, capture_output=True, text=True, check=True, env=env).stdout.split()
    assert prefix == str(version)
    assert place.startswith(str(version))
    assert (version / "bin" / "twd").stat().st_mode & 0o111
    assert [one.name for one in (tmp_path / "versions").iterdir()] == ["1-test"]
    assert VersionsFolder(tmp_path).listed() == ["1-test"], "`twd upgrade` and `twd rollback` know it"


def _changed(own: Path) -> bytes:
    """A wheel in which one file is another one than its list says."""
    out = io.BytesIO()
    with zipfile.ZipFile(own) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            new.writestr(name, b"import os" if name == "twd/__init__.py" else old.read(name))
    return out.getvalue()


@pytest.mark.parametrize("cut", [0, 600, 5_000, 40_000, -2_000])
def test_what_arrives_cut_leaves_nothing_behind(own: Path, tmp_path: Path, cut: int) -> None:
    data = tar_of(bundle(own))
    done = unpacked(tmp_path, data[:cut])
    if cut == -2_000 and done.returncode == 0:  # the end of a tar is blocks of zeros
        return
    assert done.returncode != 0
    assert not list((tmp_path / "versions").iterdir())


def test_a_wheel_with_a_wrong_hash_is_refused(own: Path, tmp_path: Path) -> None:
    other = tmp_path / own.name
    other.write_bytes(_changed(own))
    done = unpacked(tmp_path / "base", tar_of(bundle(other)))
    assert b"twd/__init__.py has another hash" in done.stderr
    assert not list((tmp_path / "base" / "versions").iterdir())


def test_a_folder_with_a_wrong_hash_is_refused_before_anything_is_sent(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wheels, "_needed", lambda name: {name})
    (tmp_path / own.name).write_bytes(_changed(own))
    with pytest.raises(CommandError, match=r"twd/__init__.py has another hash .* Nothing was sent"):
        bundle_of(tmp_path, tmp_path / "cache")
    (tmp_path / own.name).write_bytes(own.read_bytes()[:-100])
    with pytest.raises(CommandError, match="cannot be used"):
        bundle_of(tmp_path, tmp_path / "cache")


def test_a_file_that_leads_out_of_its_folder_is_refused(tmp_path: Path) -> None:
    data, name = b"x", "../../evil"
    wheel = tmp_path / "evil-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(name, data)
        archive.writestr("evil-1.dist-info/RECORD", f"{name},{unpack.digest(data)},1\n")
    done = unpacked(tmp_path / "base", tar_of(bundle(wheel)))
    assert b"leads out of its folder" in done.stderr
    assert not list(tmp_path.rglob("evil"))


def test_what_a_killed_run_left_goes_with_the_next_one(own: Path, tmp_path: Path) -> None:
    stale = tmp_path / "versions" / ".new-999999999"
    stale.mkdir(parents=True)
    assert unpacked(tmp_path, tar_of(bundle(own))).returncode == 0
    assert not stale.exists()


def test_a_tar_is_one_for_everybody(own: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO(tar_of(bundle(own, own)))) as tar:
        assert tar.getnames() == [own.name, own.name]


def test_what_wheels_need_stands_in_their_names() -> None:
    names = ["a-1-cp311-cp311-manylinux_2_17_aarch64.manylinux2014_aarch64.whl", "b-1-py3-none-any.whl"]
    names.append("c-1-cp38-abi3-manylinux_2_28_aarch64.whl")
    needs = needs_of(names, 7)
    assert (needs.machine, needs.python, needs.glibc, needs.flags) == ("aarch64", (3, 11), (2, 28), frozenset())
    assert (
        needs_of(["a-1-cp312-cp312-linux_x86_64.whl"], 7).flags <= needs_of(["a-1-py3-none-linux_x86_64.whl"], 7).flags
    )


def test_a_folder_without_what_is_needed(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="there are no wheels"):
        bundle_of(tmp_path, tmp_path / "cache")
    (tmp_path / "click-8-py3-none-any.whl").write_bytes(b"")
    with pytest.raises(CommandError, match=r"has no wheel of .*aiohttp"):
        bundle_of(tmp_path, tmp_path / "cache")
