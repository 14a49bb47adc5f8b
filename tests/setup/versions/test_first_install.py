"""`contrib/install.sh` behind its shell: the first version is taken, the next one waits, and nothing is left behind."""

from pathlib import Path

import pytest

from tests.setup.versions.test_folder import add
from twd.setup.versions import first_install
from twd.setup.versions.folder import VersionsFolder
from twd.setup.versions.lock import alone


def install(tmp_path: Path, version: str) -> int:
    wheels = tmp_path / version
    wheels.mkdir(exist_ok=True)
    (wheels / f"twd-{version}-py3-none-any.whl").touch()
    where = ["--prefix", str(tmp_path / "twd"), "--bin", str(tmp_path / "bin")]
    return first_install.main(["--wheels", str(wheels), *where])


@pytest.fixture(autouse=True)
def versions_are_made_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def make(folder: VersionsFolder, version: str, *_: object) -> None:
        if not folder.is_complete(version):
            add(folder, version)

    monkeypatch.setattr(first_install, "make_version", make)
    monkeypatch.setattr(first_install, "_service_there", lambda program: False)


def test_the_first_version_is_taken_and_the_next_one_waits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert install(tmp_path, "0.1.0") == install(tmp_path, "0.1.0") == 0
    assert (tmp_path / "bin" / "twd").read_text() == "0.1.0"
    assert install(tmp_path, "0.2.0") == 0
    assert "0.1.0 is in use; `twd upgrade` takes 0.2.0" in capsys.readouterr().out
    folder = VersionsFolder(tmp_path / "twd")
    assert (folder.in_use(), folder.listed()) == ("0.1.0", ["0.1.0", "0.2.0"])


def test_it_waits_for_nobody_who_changes_versions_now(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert install(tmp_path, "0.1.0") == 0
    with alone(VersionsFolder(tmp_path / "twd")):
        assert install(tmp_path, "0.2.0") == 1
    assert "another command changes the versions" in capsys.readouterr().err


def test_uninstalled_nothing_is_left(tmp_path: Path) -> None:
    assert install(tmp_path, "0.1.0") == 0
    assert first_install.main(["--uninstall", "--prefix", str(tmp_path / "twd"), "--bin", str(tmp_path / "bin")]) == 0
    assert not (tmp_path / "twd").exists()
    assert not (tmp_path / "bin" / "twd").is_symlink()
