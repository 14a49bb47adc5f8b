"""What was compiled here goes along, and a machine keeps what fits its own sources."""

import importlib.util
import io
import os
import py_compile
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from twd.cli.deploy.bytecode import bound_to_source, pack_bytecode
from twd.cli.deploy.unpack import keep_compiled

TEXT = "import sys\nsays = 'hello'\n"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A package here, compiled."""
    source = tmp_path / "here" / "room" / "it.py"
    source.parent.mkdir(parents=True)
    source.write_text(TEXT)
    py_compile.compile(str(source), doraise=True)
    return source


def sent(source: Path) -> io.BytesIO:
    packed = source.with_name("bytecode.zip")
    pack_bytecode([("room/it.py", source)], packed)
    return io.BytesIO(packed.read_bytes())


def there(tmp_path: Path, text: str = TEXT) -> Path:
    site = tmp_path / "there"
    (site / "room").mkdir(parents=True)
    (site / "room" / "it.py").write_text(text)
    return site


def test_a_machine_with_the_same_source_compiles_nothing(source: Path, tmp_path: Path) -> None:
    site = there(tmp_path)
    keep_compiled(sent(source), site)
    compiled = Path(importlib.util.cache_from_source(str(site / "room" / "it.py")))
    before = compiled.read_bytes()
    os.utime(site / "room" / "it.py", (7, 7))
    code = "import room.it; print(room.it.says, room.it.__cached__)"
    done = subprocess.run([sys.executable, "-v", "-c", code], cwd=site, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["hello", str(compiled)]
    assert f"code object from {str(compiled)!r}" in done.stderr
    assert compiled.read_bytes() == before


def test_what_does_not_fit_the_source_there_is_left_out(source: Path, tmp_path: Path) -> None:
    site = there(tmp_path, TEXT.replace("hello", "other"))
    keep_compiled(sent(source), site)
    assert not list(site.rglob("*.pyc"))
    keep_compiled(sent(source), tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()


def test_what_is_out_of_date_or_was_never_compiled_is_not_sent(source: Path) -> None:
    assert bound_to_source(source) is not None
    source.write_text(TEXT + "more = 1\n")
    assert bound_to_source(source) is None
    compiled = Path(importlib.util.cache_from_source(str(source)))
    compiled.write_bytes(b"cut")
    assert bound_to_source(source) is None
    compiled.unlink()
    assert bound_to_source(source) is None


@pytest.mark.parametrize("name", ["../__pycache__/it.cpython-311.pyc", "/room/__pycache__/it.cpython-311.pyc"])
def test_a_name_that_leads_out_is_refused(tmp_path: Path, name: str) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr(name, b"")
    with pytest.raises(SystemExit, match="leads out"):
        keep_compiled(packed, tmp_path)
