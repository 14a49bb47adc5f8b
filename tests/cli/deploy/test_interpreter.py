"""A Python that is sent: it may lie anywhere, and it is packed to the same bytes each time."""

import _ctypes
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twd.cli.deploy import unpack
from twd.cli.deploy.interpreter import PythonToSend, libraries_of, moved, python_here, python_of
from twd.kit.errors import CommandError

PROGRAM = f"bin/python3.{sys.version_info[1]}"


@given(st.binary(max_size=64), st.binary(max_size=64))
def test_a_place_is_changed_in_its_own_room(before: bytes, after: bytes) -> None:
    program = b"\x7fELF" + before + b"\0/opt/some/python/lib\0" + after
    found = moved(program, "/opt/some/python/lib", "$ORIGIN/../lib")
    assert len(found) == len(program)
    assert b"\0$ORIGIN/../lib\0" in found


def test_what_is_no_program_or_has_no_room_stays() -> None:
    assert moved(b"text \0/lib\0", "/lib", "x") == b"text \0/lib\0"
    assert moved(b"\x7fELF\0/lib\0", "/lib", "$ORIGIN/../lib") == b"\x7fELF\0/lib\0"
    assert moved(b"\x7fELF\0/library\0", "/lib", "x") == b"\x7fELF\0/library\0", "a longer place is another one"


@pytest.mark.skipif(sys.platform != "linux", reason="programs of other systems find their libraries otherwise")
@pytest.mark.thorough
@pytest.mark.slow
def test_the_python_of_this_machine_runs_elsewhere(tmp_path: Path) -> None:
    packed = python_here(tmp_path / "cache")
    if packed is None:
        pytest.skip("this Python cannot be moved")
    assert python_here(tmp_path / "another") is not None
    assert packed.file.read_bytes() == (tmp_path / "another" / packed.file.name).read_bytes(), "the same bytes"
    with tarfile.open(packed.file) as tar:
        names = tar.getnames()
        tar.extractall(tmp_path / "there", filter="data")
    assert not [name for name in names if "site-packages" in name or "__pycache__" in name]
    ask = "import ctypes, ssl, sqlite3, venv, zlib, sys; print(sys.prefix, sys.version_info[:2])"
    command = [str(tmp_path / "there" / PROGRAM), "-I", "-c", ask]
    said = subprocess.run(command, capture_output=True, text=True, check=True, env={}).stdout
    assert said.strip() == f"{tmp_path / 'there'} {sys.version_info[:2]}"


def test_a_folder_with_a_python_is_taken_as_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "given"
    (folder / "bin").mkdir(parents=True)
    (folder / "lib" / "python3.99" / "test").mkdir(parents=True)
    (folder / "lib" / "python3.99" / "os.py").write_text("")
    (folder / "lib" / "python3.99" / "test" / "long.py").write_text("")
    with pytest.raises(CommandError, match="holds no Python"):
        python_of(folder, tmp_path / "cache")
    (folder / "bin" / "python3.99").write_text("#!/bin/sh\n")
    (folder / "bin" / "python3.99").chmod(0o755)
    packed = PythonToSend(folder, tmp_path / "cache").packed()
    assert packed is not None
    assert packed.version == (3, 99)
    with tarfile.open(packed.file) as tar:
        assert tar.getnames() == ["bin/python3.99", "lib/python3.99/os.py"]


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux' loader")
def test_libraries_that_lie_beside_or_belong_to_the_c_library_are_not_sent(tmp_path: Path) -> None:
    found = libraries_of([Path(_ctypes.__file__)])
    assert not [name for name in found if name.startswith(("libc.", "ld-linux", "linux-vdso"))]
    assert libraries_of([]) == {}


@pytest.mark.parametrize(("name", "wanted"), [("libthat-nobody-has.so.9", True), ("libc.so.6", False)])
def test_a_library_goes_beside_the_engine_where_the_system_lacks_it(tmp_path: Path, name: str, wanted: bool) -> None:
    (tmp_path / "llama_cpp" / "lib").mkdir(parents=True)
    unpack.lend(name, b"a library", tmp_path)
    unpack.lend("../outside.so", b"a library", tmp_path)
    assert [one.name for one in tmp_path.rglob("*.so*")] == ([name] if wanted else [])
